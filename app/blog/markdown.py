"""Convert Markdown to safe HTML: CommonMark with tables, footnotes, and the syntax that Pandoc writes."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from html import unescape
from itertools import count, pairwise
from textwrap import shorten
from urllib.parse import urljoin

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.footnote import footnote_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

SUMMARY_CHARACTERS = 220
SUMMARY_MIN_WORDS = 10

# Pandoc's attributes: {#id .class key="value" -}
_ATTRIBUTE = r"""(?:\#[^\s}]+|\.[^\s}]+|[\w:-]+=(?:"[^"]*"|'[^']*'|[^\s}"']+)|-)"""
_ATTRIBUTES = re.compile(rf"\{{\s*{_ATTRIBUTE}(?:\s+{_ATTRIBUTE})*\s*\}}")

# Names of uploaded pictures contain width and height, so that the layout is stable while pictures load.
_SIZED_NAME = re.compile(r"/media/[^/?#]+-([1-9]\d{0,4})x([1-9]\d{0,4})\.\w+")

_HEADINGS = ("h2", "h3", "h4", "h5", "h6")
_ALLOWED_ATTRIBUTES = {
    "a": {"href", "title", "id", "rel", "aria-label"},
    "img": {"src", "alt", "title", "width", "height", "loading"},
    "li": {"id"},
    "ol": {"start"},
    "span": {"class"},  # Pygments marks its tokens with classes
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan", "scope"},
    **{heading: {"id"} for heading in _HEADINGS},
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
_sanitise = _cleaner().clean
_strip_tags = nh3.Cleaner(tags=set()).clean


@dataclass(frozen=True)
class Rendered:
    """A rendered text. html: sanitised. summary: plain text. word_count: the number of words of the text."""

    html: str
    summary: str
    word_count: int


@lru_cache(maxsize=1)  # when a text is saved, render is called for its HTML and again for its summary
def render(text: str) -> Rendered:
    """Render Markdown to sanitised HTML, which is safe to show for any text."""
    parser = _parser()
    env: dict[str, object] = {}
    tokens = parser.parse(text, env)
    html = _sanitise(parser.renderer.render(tokens, parser.options, env))
    return Rendered(html, _summary(tokens), len(_strip_tags(html).split()))


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


def slugify(text: str) -> str:
    """Return `text` as lower-case ASCII words joined by hyphens. The result may be empty."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "-".join(re.findall(r"[a-z0-9]+", ascii_text.lower()))


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"linkify": True})
    parser.enable(["table", "strikethrough", "linkify"])
    if parser.linkify is not None:  # it is None only if linkify-it-py is not installed
        parser.linkify.set({"fuzzy_link": False, "fuzzy_email": False})  # do not link words such as main.py
    parser.use(footnote_plugin)
    parser.inline.ruler.push("attributes", _inline_attributes)
    # These rules run between block and inline parsing, while the attributes of a heading are still text.
    parser.core.ruler.after("block", "raw_blocks", _raw_blocks)
    parser.core.ruler.after("raw_blocks", "listed_headings", _listed_headings)
    parser.core.ruler.after("listed_headings", "heading_attributes", _heading_attributes)
    parser.core.ruler.push("headings", _headings)
    parser.core.ruler.push("figures", _figures)
    parser.core.ruler.push("attributes", _attributes)
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.add_render_rule("fence", _code)
    parser.add_render_rule("code_block", _code)
    return parser


def _inline_attributes(state: StateInline, silent: bool) -> bool:
    """Remove the attributes after an image, a link or code. Use only width and height of an image."""
    if (
        state.pending
        or not state.tokens
        or state.tokens[-1].type not in ("image", "link_close", "code_inline")
    ):
        return False
    match = _ATTRIBUTES.match(state.src, state.pos)
    if match is None:
        return False
    if not silent:
        for name, value in re.findall(r"""\b(width|height)=["']?(\d+%?)""", match[0]):
            state.tokens[-1].attrSet(name, value)
    state.pos = match.end()
    return True


def _raw_blocks(state: StateCore) -> None:
    """Treat Pandoc's ```{=html} blocks as HTML, and remove raw blocks for other formats."""
    kept = []
    for token in state.tokens:
        raw = re.fullmatch(r"\{=(\w+)\}", token.info.strip()) if token.type == "fence" else None
        if raw is None:
            kept.append(token)
        elif raw[1] == "html":
            kept.append(Token("html_block", "", 0, content=token.content))
    state.tokens = kept


def _listed_headings(state: StateCore) -> None:
    """Take a heading out of a list that contains nothing else. Some exporters number headings that way."""
    item = ["list_item_open", "heading_open", "inline", "heading_close", "list_item_close"]
    shapes = [[f"{kind}_list_open", *item, f"{kind}_list_close"] for kind in ("ordered", "bullet")]
    tokens = state.tokens
    for index in range(len(tokens) - 7, -1, -1):
        if [token.type for token in tokens[index : index + 7]] in shapes:
            tokens[index : index + 7] = tokens[index + 2 : index + 5]


def _each_heading(state: StateCore) -> Iterator[tuple[Token, Token, Token]]:
    for index, token in enumerate(state.tokens):
        if token.type == "heading_open":
            yield token, state.tokens[index + 1], state.tokens[index + 2]


def _heading_attributes(state: StateCore) -> None:
    """Remove attributes such as `{#id .class}` from the end of a heading. Use only the id."""
    for opening, inline, _closing in _each_heading(state):
        start = inline.content.rfind("{")
        match = _ATTRIBUTES.fullmatch(inline.content, start) if start >= 0 else None
        if match:
            inline.content = inline.content[:start].rstrip()
            if identifier := re.search(r"#([^\s}]+)", match[0]):
                opening.attrSet("id", identifier[1])


def _headings(state: StateCore) -> None:
    """Make headings start at h2 and skip no level. Give each heading a unique id and a link to itself."""
    headings = list(_each_heading(state))
    wanted = {_identifier(opening) for opening, _inline, _closing in headings}
    used: set[str] = set()
    above: list[int] = []
    for opening, inline, closing in headings:
        level = int(opening.tag[1])
        while above and above[-1] >= level:
            above.pop()
        above.append(level)
        opening.tag = closing.tag = f"h{min(len(above) + 1, 6)}"

        text = _plain_text(inline)
        identifier = _identifier(opening)
        if not identifier or identifier in used:
            identifier = _unused(slugify(text) or "section", wanted | used)
            opening.attrSet("id", identifier)
        used.add(identifier)
        link = Token("link_open", "a", 1)
        link.attrs = {
            "class": "anchor",
            "href": f"#{identifier}",
            "aria-label": f"Link to \u201c{text}\u201d",
        }
        inline.children = [*(inline.children or ()), link, Token("link_close", "a", -1)]


def _identifier(opening: Token) -> str:
    return str(opening.attrGet("id") or "")


def _unused(name: str, taken: set[str]) -> str:
    return next(candidate for n in count(1) if (candidate := f"{name}-{n}" if n > 1 else name) not in taken)


def _figures(state: StateCore) -> None:
    """Turn a paragraph that contains only images into a figure, because CSS cannot select such paragraphs."""
    for index, token in enumerate(state.tokens):
        if token.type == "paragraph_open":
            types = {child.type for child in state.tokens[index + 1].children or ()}
            if "image" in types and types <= {"image", "link_open", "link_close", "softbreak", "hardbreak"}:
                token.tag = state.tokens[index + 2].tag = "figure"


def _attributes(state: StateCore) -> None:
    for token in state.tokens:
        if token.type in ("td_open", "th_open") and (style := token.attrs.pop("style", None)):
            token.attrSet("align", str(style).removeprefix("text-align:"))
        for child in token.children or ():
            if child.type == "image":
                size = _SIZED_NAME.fullmatch(str(child.attrGet("src")))
                if size and not {"width", "height"} & child.attrs.keys():
                    child.attrs |= {"width": size[1], "height": size[2]}
                child.attrSet("loading", "lazy")
            elif child.type == "link_open" and re.match(r"(?i)https?:|//", str(child.attrGet("href"))):
                child.attrSet("rel", "noopener")


def _code(_renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: object) -> str:
    code, info = tokens[index].content, tokens[index].info
    # Pandoc writes {.python .numberLines} or {#id .python}
    language = next((word.lstrip(".") for word in info.strip("{} ").split() if word[0] != "#"), "")
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return f'<div class="highlight"><pre><code>{escapeHtml(code)}</code></pre></div>\n'
    html: str = highlight(code, lexer, HtmlFormatter(wrapcode=True))
    return html


def _plain_text(inline: Token) -> str:
    parts = []
    for token in inline.children or ():
        if token.type in ("text", "code_inline"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return " ".join("".join(parts).split())


def _summary(tokens: Sequence[Token]) -> str:
    """Return the first paragraph with SUMMARY_MIN_WORDS words, or else the first paragraph, shortened."""
    paragraphs = [
        text
        for opening, inline in pairwise(tokens)
        if opening.type == "paragraph_open" and opening.level == 0 and (text := _plain_text(inline))
    ]
    prose = [text for text in paragraphs if len(text.split()) >= SUMMARY_MIN_WORDS]
    return shorten(next(iter(prose or paragraphs), ""), SUMMARY_CHARACTERS, placeholder=" …")
