"""The pages for readers. Without a session, a page depends only on its URL, so that any cache may keep it.

Feeds, sitemaps and robots.txt are in feeds.py.
"""

from calendar import month_name
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from string import punctuation
from typing import Any, TypeVar
from urllib.parse import quote

from flask import Blueprint, abort, current_app, redirect, render_template, request, url_for
from markupsafe import Markup
from sqlalchemy import ColumnElement, Label, Row, Select, bindparam, extract, func, select, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import aliased, undefer
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as AnyResponse

from renderer import words

from . import markdown
from .models import Comment, Page, Post, PostAlias, Tag, TagAlias, db, post_tag

MAX_PAGE = 1_000_000  # keeps Postgres' OFFSET in its range; the archive lists the posts beyond this limit

bp = Blueprint("pages", __name__)
bp.add_app_template_filter(words.minutes, "reading_minutes")

_Query = TypeVar("_Query", bound=Select[*tuple[Any, ...]])


@dataclass(frozen=True)
class Listing:
    """One page of a list of posts. `number` begins at 1. `has_more` tells whether older posts follow.

    There is no total number of posts: to count many posts would take longer than to render the page.
    """

    posts: Sequence[Row[*tuple[Any, ...]]]
    number: int
    has_more: bool


@bp.before_app_request
def _without_slash() -> AnyResponse | None:
    """Redirect an address with a slash at the end, such as /about/, if it exists only without the slash."""
    wrong = isinstance(request.routing_exception, NotFound) and request.path.endswith("/")
    if not wrong or request.method not in ("GET", "HEAD"):
        return None
    try:
        endpoint, arguments = current_app.url_map.bind("").match(request.path[:-1])
    except HTTPException:
        return None
    # Build the address from its route: a path such as //evil.example/ would lead to another site.
    query = quote(request.query_string, safe=punctuation)
    return redirect(url_for(endpoint, **arguments) + (query and f"?{query}"), 301)


@bp.get("/")
@bp.get(f"/page/<int(min=1, max={MAX_PAGE}):number>")
def home(number: int | None = None) -> str | AnyResponse:
    """Show the newest posts."""
    if number == 1:
        return redirect(url_for(".home"), 301)
    return render_template("home.html", listing=_listing(_NEWEST, number or 1))


@bp.get("/posts/<slug:slug>")
def post(slug: str) -> str | AnyResponse:
    """Show a post with its comments, and links to the previous and the next post."""
    found = db.session.execute(_POST, {"slug": slug}).one_or_none()
    if found is None:
        return _moved(PostAlias.slug == slug)
    return render_template(
        "post.html",
        post=found,
        body=Markup(found.body_html),  # noqa: S704 (sanitised when it was written)
        image=_first_image(found),
        comments=db.session.execute(_COMMENTS, {"post": found.id}).all(),
    )


@bp.get("/post/<int(max=2147483647):number>")
def numbered_post(number: int) -> AnyResponse:
    """Redirect /post/NUMBER, the old URL of a post, to the post with this alias, or else with this id."""
    if db.session.get(PostAlias, str(number)):
        return _moved(PostAlias.slug == str(number))
    return _moved(Post.id == number)


@bp.get("/archive/", defaults={"year": None})
@bp.get("/archive/<int(fixed_digits=4, min=1):year>")
def archive(year: int | None) -> str:
    """Show the titles of a year's posts by month. Without a year, show the newest year that has posts."""
    year_of = extract("year", func.timezone("UTC", Post.published_at))
    years = db.session.execute(
        select(year_of, func.count()).where(is_visible()).group_by(year_of).order_by(year_of.desc())
    ).all()
    counts = {int(name): count for name, count in years}
    if year is not None and year not in counts:
        abort(404)
    year = year or next(iter(counts), None)
    months = _months(year) if year else []
    return render_template("archive.html", years=counts, year=year, months=months)


@bp.get("/tags/")
def tags() -> str:
    """Show every tag that has posts."""
    query = select(Tag, func.count()).join(Tag.posts).where(is_visible()).group_by(Tag.id).order_by(Tag.name)
    return render_template("tags.html", tags=db.session.execute(query).all())


@bp.get("/tags/<slug:slug>")
@bp.get(f"/tags/<slug:slug>/page/<int(min=1, max={MAX_PAGE}):number>")
def tag(slug: str, number: int | None = None) -> str | AnyResponse:
    """Show the newest posts with a tag."""
    if number == 1:
        return redirect(url_for(".tag", slug=slug), 301)
    found = db.session.scalar(select(Tag).where(Tag.slug == slug))
    if found is None:
        return redirect(url_for(".tag", slug=current_tag_slug(slug), number=number), 301)
    listing = _listing(_NEWEST_WITH_TAG, number or 1, tag=found.id)
    if not listing.posts:
        abort(404)  # all posts with this tag are drafts or scheduled
    return render_template("tag.html", tag=found, listing=listing)


@bp.get("/<slug:slug>")
def page(slug: str) -> str:
    """Show a page, such as "About"."""
    found = db.session.scalar(select(Page).where(Page.slug == slug).options(undefer(Page.body_html)))
    if found is None:
        abort(404)
    body = Markup(found.body_html)  # noqa: S704 (sanitised when it was written)
    return render_template("page.html", page=found, body=body)


@bp.app_template_global()
def absolute(path: str) -> str:
    """Return the public URL of a path of this site."""
    base_url: str = current_app.config["BASE_URL"]
    return base_url + path


@bp.app_template_global()
def site_pages() -> Sequence[Row[str, str]]:
    """Return slug and title of the pages, for the menu."""
    return db.session.execute(_PAGES).all()


@bp.app_template_filter()
def day(moment: datetime) -> str:
    """Return the date in UTC in the form for readers: 5 November 2026."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {month_name[moment.month]} {moment.year}"


@bp.app_template_filter()
def rfc3339(moment: datetime) -> str:
    """Return the time in UTC in the form for feeds and HTML attributes: 2026-11-05T08:00:00Z."""
    return f"{moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat()}Z"


def current_tag_slug(former: str) -> str:
    """Return the slug of the tag that had the slug `former`. Abort with 404 if no tag with posts had it."""
    query = select(Tag.slug).join(Tag.aliases).where(TagAlias.slug == former, Tag.posts.any(is_visible()))
    return db.session.scalar(query) or abort(404)


def is_visible() -> ColumnElement[bool]:
    """Return the SQL condition that a post is published."""
    return Post.published_at <= func.now()


def newest_first(query: _Query) -> _Query:
    """Sort a query for posts in the order that all lists have."""
    return query.order_by(Post.published_at.desc(), Post.id.desc())


def _listing(query: Select[*tuple[Any, ...]], number: int, **values: int) -> Listing:
    """Return a page of the posts of `query`, which gets `values`. Abort with 404 if it is out of range."""
    size: int = current_app.config["POSTS_PER_PAGE"]
    limits = {"limit": size + 1, "offset": (number - 1) * size}
    posts = db.session.execute(query, limits | values).all()
    if number > 1 and not posts:
        abort(404)
    return Listing(posts[:size], number, len(posts) > size)


def _months(year: int) -> list[tuple[str, list["Row[str, str, datetime | None]"]]]:
    """Return each month with posts: its name, and the slug, title and published_at of each post."""
    begin, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    query = select(Post.slug, Post.title, Post.published_at)
    query = query.where(is_visible(), Post.published_at >= begin, Post.published_at < end)
    posts = db.session.execute(newest_first(query))
    months = groupby(posts, lambda post: post.published_at.astimezone(UTC).month)
    return [(month_name[month], list(group)) for month, group in months]


def _moved(condition: ColumnElement[bool]) -> AnyResponse:
    """Redirect to the published post that matches a condition on the post or its alias, or abort with 404."""
    query = select(Post.slug).outerjoin(Post.aliases).where(condition, is_visible())
    slug = db.session.scalar(query.limit(1))
    if slug is None:
        abort(404)
    return redirect(url_for("pages.post", slug=slug), 301)


def _first_image(found: Row[*tuple[Any, ...]]) -> str | None:
    """Return the absolute address of a post's first image, for link previews on other sites."""
    return markdown.first_image(found.body_html, absolute(url_for("pages.post", slug=found.slug)))


def _tags() -> Label[Any]:
    """Return the tags of a post as a column: a list of objects with slug and name, or NULL."""
    tag = func.json_build_object("slug", Tag.slug, "name", Tag.name)
    tags = select(func.json_agg(aggregate_order_by(tag, Tag.name))).join(post_tag)
    return tags.where(post_tag.c.post_id == Post.id).correlate(Post).label("tags")


def _neighbour(name: str, *, is_newer: bool) -> Label[Any]:
    """Return the next newer or older post as a column: an object with slug and title, or NULL."""
    other = aliased(Post)
    place, here = tuple_(other.published_at, other.id), tuple_(Post.published_at, Post.id)
    nearest = (
        select(func.json_build_object("slug", other.slug, "title", other.title)).limit(1).correlate(Post)
    )
    if is_newer:
        nearest = nearest.where(place > here, other.published_at <= func.now())
        return nearest.order_by(other.published_at, other.id).label(name)
    return nearest.where(place < here).order_by(other.published_at.desc(), other.id.desc()).label(name)


# The queries of the pages that are read most. They are made only once, and return rows, which take less time
# than objects.
_TEASER = (
    Post.slug,
    Post.title,
    Post.summary,
    Post.word_count,
    Post.language,
    Post.published_at,
    _tags(),
)


def _teasers(chosen: Select[int]) -> Select[*tuple[Any, ...]]:
    """Return the query for the posts whose ids `chosen` selects, with a limit and an offset.

    Otherwise, Postgres would also collect the tags of the posts that the offset skips.
    """
    limited = newest_first(chosen).limit(bindparam("limit")).offset(bindparam("offset")).subquery()
    return newest_first(select(*_TEASER).join(limited, limited.c.id == Post.id))


_VISIBLE = select(Post.id).where(is_visible())
_NEWEST = _teasers(_VISIBLE)
_NEWEST_WITH_TAG = _teasers(_VISIBLE.join(post_tag).where(post_tag.c.tag_id == bindparam("tag")))
_POST = select(
    *_TEASER,
    Post.id,
    Post.author,
    Post.author_id,
    Post.updated_at,
    Post.body_html,
    _neighbour("older", is_newer=False),
    _neighbour("newer", is_newer=True),
).where(Post.slug == bindparam("slug"), is_visible())
_COMMENTS = (
    select(Comment.id, Comment.author, Comment.body, Comment.created_at)
    .where(Comment.post_id == bindparam("post"), Comment.state == "approved")
    .order_by(Comment.created_at, Comment.id)
)
_PAGES = select(Page.slug, Page.title).order_by(Page.position, Page.slug)
