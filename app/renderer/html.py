"""Sanitise HTML, and read sanitised HTML."""

import re
from collections.abc import Collection
from functools import partial
from html import unescape
from urllib.parse import urljoin

import nh3

from . import words

HEADINGS = ("h2", "h3", "h4", "h5", "h6")

# The ids that a page has around a text: those of templates and form fields, and those of comments.
PAGE_ID = re.compile(r"blog_.*|comment-\d+", re.DOTALL)

_ALLOWED_ATTRIBUTES = {
    "a": {"href", "title", "id", "rel", "aria-label"},
    "img": {"src", "alt", "title", "width", "height", "loading"},
    "li": {"id"},
    "ol": {"start"},
    "span": {"class"},  # Pygments marks its tokens with classes
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan", "scope"},
    **{heading: {"id"} for heading in HEADINGS},
}
_ALLOWED_CLASSES = {
    "a": {"anchor", "footnote-backref"},
    "div": {"highlight", "scroll"},
    "section": {"footnotes"},
    "sup": {"footnote-ref"},
}
_ALLOWED_TAGS = (
    _ALLOWED_ATTRIBUTES.keys()
    | _ALLOWED_CLASSES.keys()
    | set(
        "abbr b blockquote br caption cite code dd del details dfn dl dt em figcaption figure hr i ins kbd "
        "mark p pre q s samp small strong sub summary table tbody tfoot thead tr u ul var".split()
    )
)
_cleaner = partial(
    nh3.Cleaner,
    tags=_ALLOWED_TAGS,
    attributes=_ALLOWED_ATTRIBUTES,
    allowed_classes=_ALLOWED_CLASSES,
    url_schemes={"http", "https", "mailto"},
    link_rel=None,
)
strip_tags = nh3.Cleaner(tags=set()).clean


def sanitise(html: str, footnote_ids: Collection[str] = ()) -> str:
    """Return safe HTML without ids that occur twice, that a page has around it, or that clash with footnotes.

    footnote_ids: the ids of the footnotes of the text, which no heading may have.
    """
    seen: set[str] = set()

    def keep(tag: str, attribute: str, value: str) -> str | None:
        if attribute != "id":
            return value
        if PAGE_ID.fullmatch(value) or value in seen or (tag in HEADINGS and value in footnote_ids):
            return None
        seen.add(value)
        return value

    return _cleaner(attribute_filter=keep).clean(html)


def count_words(html: str) -> int:
    """Return the number of words of a text in HTML."""
    return words.count(strip_tags(html))


def absolute_urls(html: str, base: str) -> str:
    """Return sanitised HTML with every link and image made absolute against the URL `base`.

    Addresses that are not valid, such as `//[x`, are left out.
    """
    return _cleaner(url_relative=partial(_absolute_url, base)).clean(html)


def first_image(html: str, base: str) -> str | None:
    """Return the address of the first image of sanitised HTML, made absolute against the URL `base`.

    Returns None if there is no image, or if its address is not valid.
    """
    found = re.search(r'<img [^>]*?src="([^"]+)"', html)
    return _absolute_url(base, unescape(found[1])) if found else None


def _absolute_url(base: str, address: str) -> str | None:
    try:
        return urljoin(base, address)
    except ValueError:
        return None
