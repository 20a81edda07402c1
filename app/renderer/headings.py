"""Give headings their levels, unique ids, and links to themselves."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from .html import PAGE_ID
from .words import slugify

_RAW_ID = re.compile(r"""(?i)\sid\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")


def plain_text(inline: Token) -> str:
    """Return the text of an inline token without markup, with single spaces."""
    parts = []
    for token in inline.children or ():
        if token.type in ("text", "code_inline"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return " ".join("".join(parts).split())


def each_heading(tokens: list[Token]) -> Iterator[tuple[Token, Token, Token]]:
    """Yield the opening token, the inline token and the closing token of each heading."""
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            yield token, tokens[index + 1], tokens[index + 2]


def footnote_ids(env: Mapping[str, Any]) -> set[str]:
    """Return the ids that the footnotes of a text have in its HTML."""
    ids = set()
    for number, note in enumerate(env.get("footnotes", {}).get("list", {}).values(), start=1):
        ids |= {f"fn{number}", f"fnref{number}"}
        ids |= {f"fnref{number}:{again}" for again in range(1, note.get("count", 0))}
    return ids


def headings(state: StateCore) -> None:
    """Make headings start at h2 and skip no level. Give each heading a unique id and a link to itself.

    The id differs from all ids of the page around the text, of the footnotes and of raw HTML before it.
    """
    names = _Names(_identifier(opening) for opening, _inline, _closing in each_heading(state.tokens))
    names.use(footnote_ids(state.env))
    above: list[int] = []
    for index, token in enumerate(state.tokens):
        if token.type != "heading_open":
            names.use(_raw_ids(token))
            continue
        inline, closing = state.tokens[index + 1 : index + 3]
        level = int(token.tag[1])
        while above and above[-1] >= level:
            above.pop()
        above.append(level)
        token.tag = closing.tag = f"h{min(len(above) + 1, 6)}"

        text = plain_text(inline)
        identifier = names.give(_identifier(token), slugify(text) or "section")
        token.attrSet("id", identifier)
        link = Token("link_open", "a", 1)
        link.attrs = {
            "class": "anchor",
            "href": f"#{identifier}",
            "aria-label": f"Link to \u201c{text}\u201d",
        }
        inline.children = [*(inline.children or ()), link, Token("link_close", "a", -1)]


class _Names:
    """The ids of a text. `wanted`: the ids that the text itself gives to headings."""

    def __init__(self, wanted: Iterator[str]) -> None:
        self._taken = set(wanted)  # the wanted and the used ids
        self._used: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def use(self, ids: set[str]) -> None:
        """Note ids that the text has elsewhere."""
        self._used |= ids
        self._taken |= ids

    def give(self, wanted: str, name: str) -> str:
        """Return the wanted id of a heading if it is free, or else `name`, with a number if necessary."""
        identifier = wanted
        if not wanted or not self._is_free(wanted, self._used):
            identifier = name
            while not self._is_free(identifier, self._taken):
                self._numbers[name] += 1
                identifier = f"{name}-{self._numbers[name] + 1}"
        self.use({identifier})
        return identifier

    @staticmethod
    def _is_free(identifier: str, others: set[str]) -> bool:
        return identifier not in others and not PAGE_ID.fullmatch(identifier)


def _identifier(opening: Token) -> str:
    return str(opening.attrGet("id") or "")


def _raw_ids(token: Token) -> set[str]:
    raw = [token, *(token.children or ())]
    html = " ".join(part.content for part in raw if part.type in ("html_block", "html_inline"))
    return {"".join(values) for values in _RAW_ID.findall(html)}
