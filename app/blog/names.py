"""The rule for names in addresses: the slugs of posts, pages and tags. The editor and the importer use it.

nginx must not refuse an address with a name that this rule allows. The test that compares nginx's
configuration with this rule is outside of this app: tests/test_names.py in Slipway's repository.
"""

import re
import unicodedata
from collections.abc import Callable
from itertools import chain, count

from flask import current_app
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from renderer.words import slugify

__all__ = [
    "SLUG",
    "SLUG_CHARACTERS",
    "SlugConverter",
    "former_slugify",
    "free_slug",
    "is_free_page_name",
    "is_slug",
    "slug_stem",
    "slugify",
]

SLUG = r"[A-Za-z0-9][A-Za-z0-9._~-]{0,199}"
SLUG_CHARACTERS = "ASCII letters, digits and -._~ (beginning with a letter or a digit)"


class SlugConverter(BaseConverter):
    """Match a slug as a part of a URL. Any other text gets 404."""

    regex = SLUG


def is_slug(text: str) -> bool:
    """Tell whether the text is a valid slug."""
    return re.fullmatch(SLUG, text) is not None


def slug_stem(text: str) -> str:
    """Return a slug of at most 90 characters made from a text; it may be empty."""
    return slugify(text)[:90].strip("-")


def free_slug(text: str, default: str, is_free: Callable[[str], bool]) -> str:
    """Return a slug made from a text, or from `default`, with a number if the slug is not free."""
    stem = slug_stem(text) or default
    return next(slug for slug in chain([stem], (f"{stem}-{number}" for number in count(2))) if is_free(slug))


def former_slugify(text: str) -> str:
    """Return the slug that older releases made from `text`. They left out what is not ASCII."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "-".join(re.findall(r"[a-z0-9]+", ascii_text.lower()))


def is_free_page_name(slug: str) -> bool:
    """Tell whether a page may have this slug: no other part of the blog answers at /SLUG."""
    try:
        endpoint, _arguments = current_app.url_map.bind("").match(f"/{slug}")
    except HTTPException:  # the route exists and redirects to the address with a slash at the end
        return False
    return endpoint in ("pages.page", "contact.contact")  # the form shows the page `contact` above itself
