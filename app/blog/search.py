"""Full-text search in Postgres, with ranked results and marked words.

Words are found by their English stems; words in other alphabets are found as they are written. In scripts
without spaces between words, and in Korean, every part of a text is found: see `LEXEMES` in
search_vectors.py.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from html import unescape
from itertools import pairwise

from flask import Blueprint, abort, current_app, render_template, request
from markupsafe import Markup, escape
from sqlalchemy import TextClause, text

from renderer import words

from . import markdown
from .models import db

# Rank only this number of the newest matches, because a common word may occur in too many posts.
CANDIDATES = 100
MAX_CHARACTERS = 200

bp = Blueprint("search", __name__)

# ts_headline marks words with these control characters, which no stored text contains.
_MARKS = {"\x02": Markup("<mark>"), "\x03": Markup("</mark>")}
# `_by_pairs` turns a word in a script of FOUND_BY_PART into a phrase of pairs of letters. Search for the
# pairs in any order (`&`): Postgres does not store all positions of a long text, so it would miss the phrase.
_QUERY = f"""regexp_replace(
    websearch_to_tsquery('english', :words)::text,
    '<(-|[0-9]+)>(?= ''[{words.FOUND_BY_PART}])|(?<=[{words.FOUND_BY_PART}]'' )<(-|[0-9]+)>', '&', 'g'
)::tsquery"""
_ENDS = ".!?…\u3002\uff01\uff1f"  # of a sentence
_RUN = re.compile(f"[{words.FOUND_BY_PART}]+")
_EXTRACT_BEFORE, _EXTRACT_CHARACTERS = 40, 160
# ts_headline replaces tags by spaces, so inline tags are removed first. ts_headline keeps entities, so the
# title is escaped like the HTML of the body.
_INLINE_TAG = r"'</?(a|b|code|em|i|mark|s|span|strong)\M[^>]*>'"
_SEARCH = text(f"""
    SELECT slug, published_at,
        ts_headline(
            'english', replace(replace(title, '&', '&amp;'), '<', '&lt;'), {_QUERY},
            'HighlightAll=true, StartSel=\x02, StopSel=\x03'
        ) AS title,
        ts_headline(
            'english', regexp_replace(left(body_html, 50000), {_INLINE_TAG}, '', 'g'), {_QUERY},
            'MaxFragments=2, MaxWords=22, MinWords=9, FragmentDelimiter=" … ", StartSel=\x02, StopSel=\x03'
        ) AS extract,
        left(body_html, :html_characters) AS html
    FROM post JOIN (
        SELECT id, ts_rank_cd(lexemes, {_QUERY}) AS rank
        FROM (
            SELECT id, published_at, lexemes FROM post
            WHERE lexemes @@ {_QUERY} AND published_at <= now()
            ORDER BY published_at DESC, id DESC LIMIT {CANDIDATES}
        ) AS candidate
        ORDER BY rank DESC, published_at DESC, id DESC LIMIT :limit OFFSET :offset
    ) AS best USING (id)
    ORDER BY rank DESC, published_at DESC, id DESC
""")  # noqa: S608 (made of constants)


@dataclass(frozen=True)
class Hit:
    """A post that matches the query. `title` and `extract`: safe HTML with the found words in <mark>."""

    slug: str
    published_at: datetime
    title: Markup
    extract: Markup


@bp.get("/search")
def search() -> str | tuple[str, int]:
    """Show the form and, if words were given, the posts that match, best first.

    A page after the last one has status 404, and a link to the first page.
    """
    said = re.sub(r"[\x00-\x1f\x7f\s]+", " ", request.args.get("q", "")).strip()[:MAX_CHARACTERS]
    size = current_app.config["POSTS_PER_PAGE"]
    number = request.args.get("page", 1, int)
    if number < 1:
        abort(404)
    hits = find(said, number, size) if said and (number - 1) * size < CANDIDATES else []
    page = render_template(
        "search.html", words=said, hits=hits[:size], number=number, has_more=len(hits) > size
    )
    return page, 404 if said and number > 1 and not hits else 200


def find(said: str, number: int, size: int) -> list[Hit]:
    """Return page `number` (from 1) of the posts that match `said`, best first, and one more if it exists.

    said: a query in the syntax of websearch_to_tsquery: `one two` (both words), `"a phrase"`,
    `this or that`, `-without`.
    """
    runs = _RUN.findall(said)
    html_characters = 50_000 if runs else 0
    values = {"words": _by_pairs(said), "limit": size + 1, "offset": (number - 1) * size}
    rows = db.session.execute(_SEARCH, values | {"html_characters": html_characters})
    return [
        Hit(
            row.slug,
            row.published_at,
            _marked(_mark_runs(row.title, runs)),
            _extract(_mark_runs(_part_with_run(row.html, runs) or row.extract, runs)),
        )
        for row in rows
    ]


def matches(said: str) -> TextClause:
    """Return the SQL condition that a post matches the query `said`, see `find`."""
    return text(f"post.lexemes @@ {_QUERY}").bindparams(words=_by_pairs(said))


def _by_pairs(said: str) -> str:
    """Replace each run of letters of FOUND_BY_PART with a phrase of its pairs, in quotes: "東京 京都"."""
    # Every second part is in quotes already.
    return '"'.join(
        _replace_runs(part, " " if number % 2 else '"') for number, part in enumerate(said.split('"'))
    )


def _replace_runs(part: str, quote: str) -> str:
    return _RUN.sub(lambda run: f"{quote}{_pairs(run[0])}{quote}", part)


def _pairs(run: str) -> str:
    return " ".join(map("".join, pairwise(run))) or run


def _part_with_run(html: str, runs: list[str]) -> str:
    """Return the part of a text around the first of the runs, or nothing if the text contains none of them.

    ts_headline does not find the runs, because it takes all letters up to the next space as one word.
    """
    plain = " ".join(unescape(markdown.strip_tags(html)).split())
    places = [place for run in runs if (place := plain.find(run)) >= 0]
    if not places:
        return ""
    begin = max(0, min(places) - _EXTRACT_BEFORE)
    return escape(f"{'… ' if begin else ''}{plain[begin : begin + _EXTRACT_CHARACTERS]}")


def _mark_runs(headline: str, runs: list[str]) -> str:
    """Mark the runs in a headline, which is HTML with entities, and which ts_headline may have marked too."""
    if not runs:
        return headline
    longest_first = sorted(map(re.escape, runs), key=len, reverse=True)
    return re.sub("\x02*(" + "|".join(longest_first) + ")\x03*", "\x02\\1\x03", headline)


def _marked(headline: str) -> Markup:
    html = escape(" ".join(unescape(headline).split()))
    for character, tag in _MARKS.items():
        html = html.replace(character, tag)
    return html


def _extract(headline: str) -> Markup:
    """Return the extract with its marked words, and with an ellipsis where a sentence was cut."""
    html = _marked(headline)
    if html[:1].islower():
        html = "… " + html
    return html if html[-1:] in _ENDS else html + " …"
