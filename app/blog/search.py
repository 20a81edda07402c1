"""Full-text search in Postgres, with ranked results and marked words."""

import re
from dataclasses import dataclass
from datetime import datetime
from html import unescape

from flask import Blueprint, abort, current_app, render_template, request
from markupsafe import Markup, escape
from sqlalchemy import text

from .models import db

# Rank only this number of the newest matches, because a common word may occur in too many posts.
CANDIDATES = 100
MAX_CHARACTERS = 200

bp = Blueprint("search", __name__)

# ts_headline marks words with these control characters, which no stored text contains.
_MARKS = {"\x02": Markup("<mark>"), "\x03": Markup("</mark>")}
_QUERY = "websearch_to_tsquery('english', :words)"
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
        ) AS extract
    FROM post JOIN (
        SELECT id, ts_rank_cd(search, {_QUERY}) AS rank
        FROM (
            SELECT id, published_at, search FROM post
            WHERE search @@ {_QUERY} AND published_at <= now()
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
def search() -> str:
    """Show the form and, if words were given, the posts that match, best first."""
    words = re.sub(r"[\x00-\x1f\x7f\s]+", " ", request.args.get("q", "")).strip()[:MAX_CHARACTERS]
    size = current_app.config["POSTS_PER_PAGE"]
    number = request.args.get("page", 1, int)
    if not 1 <= number <= -(-CANDIDATES // size):
        abort(404)
    hits = find(words, number, size) if words else []
    return render_template(
        "search.html", words=words, hits=hits[:size], number=number, has_more=len(hits) > size
    )


def find(words: str, number: int, size: int) -> list[Hit]:
    """Return page `number` (from 1) of the posts that match `words`, best first, and one more if it exists.

    words: a query in the syntax of websearch_to_tsquery: `one two` (both words), `"a phrase"`,
    `this or that`, `-without`.
    """
    values = {"words": words, "limit": size + 1, "offset": (number - 1) * size}
    rows = db.session.execute(_SEARCH, values)
    return [Hit(row.slug, row.published_at, _marked(row.title), _extract(row.extract)) for row in rows]


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
    return html if html[-1:] in ".!?…" else html + " …"
