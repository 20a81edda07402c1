"""Convert Markdown to safe HTML: CommonMark with tables, footnotes, and the syntax that Pandoc writes."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.footnote import footnote_plugin

from . import SUMMARY_CHARACTERS, Rendered, words
from .code import allow_highlighting, code
from .headings import each_heading, footnote_ids, headings, plain_text
from .html import count_words, sanitise

SUMMARY_MIN_WORDS = 10

# Pandoc's attributes: {#id .class key="value" -}
_ATTRIBUTE = r"""(?:\#[^\s}]+|\.[^\s}]+|[\w:-]+=(?:"[^"]*"|'[^']*'|[^\s}"']+)|-)"""
_ATTRIBUTES = re.compile(rf"\{{\s*{_ATTRIBUTE}(?:\s+{_ATTRIBUTE})*\s*\}}")
_ATTRIBUTES_CHARACTERS = 1000  # the longest attributes: a search to the end of the text would be quadratic

# Names of uploaded pictures contain width and height, so that the layout is stable while pictures load.
_SIZED_NAME = re.compile(r"/media/[^/?#]+-([1-9]\d{0,4})x([1-9]\d{0,4})\.\w+")


def convert(text: str, highlighting_s: float) -> Rendered:
    """Convert Markdown to sanitised HTML, which is safe to show for any text.

    highlighting_s: the CPU time in seconds for the highlighting of code. Code beyond it stays plain.
    """
    parser = _parser()
    env: dict[str, Any] = {}
    allow_highlighting(env, highlighting_s)
    tokens = parser.parse(text, env)
    html = sanitise(parser.renderer.render(tokens, parser.options, env), footnote_ids(env))
    return Rendered(html, _summary(tokens), count_words(html))


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
    parser.core.ruler.push("headings", headings)
    parser.core.ruler.push("figures", _figures)
    parser.core.ruler.push("attributes", _attributes)
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.add_render_rule("fence", code)
    parser.add_render_rule("code_block", code)
    return parser


def _inline_attributes(state: StateInline, silent: bool) -> bool:
    """Remove the attributes after an image, a link or code. Use only width and height of an image."""
    if (
        state.pending
        or not state.tokens
        or state.tokens[-1].type not in ("image", "link_close", "code_inline")
    ):
        return False
    match = _ATTRIBUTES.match(state.src, state.pos, state.pos + _ATTRIBUTES_CHARACTERS)
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
    kept: list[Token] = []
    for token in state.tokens:
        kept.append(token)
        if token.type.endswith("_list_close") and [last.type for last in kept[-7:]] in shapes:
            kept[-7:] = kept[-5:-2]
    state.tokens = kept


def _heading_attributes(state: StateCore) -> None:
    """Remove attributes such as `{#id .class}` from the end of a heading. Use only the id."""
    for opening, inline, _closing in each_heading(state.tokens):
        start = inline.content.rfind("{")
        match = _ATTRIBUTES.fullmatch(inline.content, start) if start >= 0 else None
        if match:
            inline.content = inline.content[:start].rstrip()
            if identifier := re.search(r"#([^\s}]+)", match[0]):
                opening.attrSet("id", identifier[1])


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


def _summary(tokens: Sequence[Token]) -> str:
    """Return the first paragraph with SUMMARY_MIN_WORDS words, or else the first paragraph, shortened."""
    paragraphs = [
        text
        for opening, inline in pairwise(tokens)
        if opening.type == "paragraph_open" and opening.level == 0 and (text := plain_text(inline))
    ]
    prose = [text for text in paragraphs if words.count(text) >= SUMMARY_MIN_WORDS]
    beginning = next(iter(prose or paragraphs), "")[: 2 * SUMMARY_CHARACTERS]
    return words.shorten(beginning, SUMMARY_CHARACTERS)
