"""The pages for readers. They depend on nothing but the URL, so that anybody may cache them."""

from calendar import month_name
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Blueprint, Response, abort, current_app, redirect, render_template, request, url_for
from markupsafe import Markup
from sqlalchemy import ColumnElement, Select, func, select, tuple_
from sqlalchemy.orm import selectinload, undefer
from werkzeug.routing import BaseConverter
from werkzeug.wrappers import Response as AnyResponse

from . import markdown
from .articles import SLUG
from .models import Post, Tag, db

FEED_POSTS = 20

bp = Blueprint("pages", __name__)


class SlugConverter(BaseConverter):
    """The part of a URL that can be a slug; anything else is a page that does not exist."""

    regex = SLUG


@dataclass(frozen=True)
class Page:
    """One page of a list of posts; `number` counts from 1 to `last`."""

    posts: list[Post]
    number: int
    last: int


@bp.get("/")
@bp.get("/page/<int(min=1):number>")
def home(number: int | None = None) -> str | AnyResponse:
    """Show the newest posts."""
    if number == 1:
        return redirect(url_for(".home"), 301)
    return render_template("home.html", page=_page(select(Post), number or 1))


@bp.get("/posts/<slug:slug>")
def post(slug: str) -> str:
    """Show a post, with links to the one before and the one after it."""
    query = _visible(select(Post)).where(Post.slug == slug)
    found = db.session.scalar(query.options(undefer(Post.body_html), selectinload(Post.tags)))
    if found is None:
        abort(404)
    place, here = tuple_(Post.published_at, Post.id), tuple_(found.published_at, found.id)
    older = db.session.scalar(_newest_first(_visible(select(Post)).where(place < here)).limit(1))
    newer_query = _visible(select(Post)).where(place > here)
    newer = db.session.scalar(newer_query.order_by(Post.published_at, Post.id).limit(1))
    return render_template("post.html", post=found, body=Markup(found.body_html), older=older, newer=newer)  # noqa: S704


@bp.get("/tags/")
def tags() -> str:
    """Show every tag that has posts."""
    query = select(Tag, func.count()).join(Tag.posts).where(_is_visible()).group_by(Tag.id).order_by(Tag.name)
    return render_template("tags.html", tags=db.session.execute(query).all())


@bp.get("/tags/<slug:slug>")
@bp.get("/tags/<slug:slug>/page/<int(min=1):number>")
def tag(slug: str, number: int | None = None) -> str | AnyResponse:
    """Show the newest posts that have a tag."""
    if number == 1:
        return redirect(url_for(".tag", slug=slug), 301)
    found = db.session.scalar(select(Tag).where(Tag.slug == slug))
    if found is None:
        abort(404)
    page = _page(select(Post).join(Post.tags).where(Tag.id == found.id), number or 1)
    if not page.posts:
        abort(404)  # its posts are drafts, or to come
    return render_template("tag.html", tag=found, page=page)


@bp.get("/feed.xml")
def feed() -> Response:
    """Serve the newest posts, whole, as an Atom feed."""
    query = _newest_first(_visible(select(Post))).limit(FEED_POSTS)
    posts = db.session.scalars(query.options(undefer(Post.body_html), selectinload(Post.tags))).all()
    return Response(render_template("feed.xml", posts=posts), mimetype="application/atom+xml")


@bp.after_request
def _cacheable(response: Response) -> Response:
    if response.status_code == 200:
        response.cache_control.public = True
        response.cache_control.max_age = 0  # browsers ask each time, which the ETag makes cheap
        response.cache_control.s_maxage = 1  # one request a second is all that a cache in front lets through
        response.add_etag()
        response.make_conditional(request)
    return response


@bp.app_template_global()
def absolute(path: str) -> str:
    """Return the public URL of a path of this site."""
    return current_app.config["BASE_URL"] + path


@bp.app_template_filter()
def for_feed(post: Post) -> str:
    """Return a post's HTML with absolute URLs: a reader of the feed is on another site."""
    return markdown.absolute_urls(post.body_html, absolute(url_for("pages.post", slug=post.slug)))


@bp.app_template_filter()
def day(moment: datetime) -> str:
    """Return a date for people, in UTC: 5 November 2026."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {month_name[moment.month]} {moment.year}"


@bp.app_template_filter()
def rfc3339(moment: datetime) -> str:
    """Return a moment for machines, in UTC: 2026-11-05T08:00:00Z."""
    return f"{moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat()}Z"


def _is_visible() -> ColumnElement[bool]:
    return Post.published_at <= func.now()


def _visible(query: Select[tuple[Post]]) -> Select[tuple[Post]]:
    return query.where(_is_visible())


def _newest_first(query: Select[tuple[Post]]) -> Select[tuple[Post]]:
    return query.order_by(Post.published_at.desc(), Post.id.desc())


def _page(query: Select[tuple[Post]], number: int) -> Page:
    """Return a page of the visible posts of `query`; end the request with 404 when it is out of range."""
    query, size = _visible(query), current_app.config["POSTS_PER_PAGE"]
    total = db.session.scalar(query.with_only_columns(func.count())) or 0
    last = max(1, -(-total // size))
    if not 1 <= number <= last:
        abort(404)
    query = _newest_first(query).limit(size).offset((number - 1) * size)
    return Page(list(db.session.scalars(query.options(selectinload(Post.tags)))), number, last)
