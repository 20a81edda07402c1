"""Atom feeds, sitemaps and robots.txt."""

from datetime import datetime

from flask import Blueprint, Response, abort, redirect, render_template, url_for
from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import load_only, selectinload, undefer
from werkzeug.wrappers import Response as AnyResponse

from . import markdown, pages
from .models import Page, Post, Site, Tag, db

FEED_POSTS = 20
SITEMAP_POSTS = 10_000  # the standard allows at most 50,000 URLs and 50 MB in one sitemap

bp = Blueprint("feeds", __name__)


@bp.get("/feed.xml")
def feed() -> Response:
    """Serve an Atom feed with the full texts of the newest posts."""
    return _atom(select(Post))


@bp.get("/tags/<slug:slug>/feed.xml")
def tag_feed(slug: str) -> AnyResponse:
    """Serve an Atom feed with the full texts of the newest posts that have a tag."""
    tag = db.session.scalar(select(Tag).where(Tag.slug == slug))
    if tag is None:
        return redirect(url_for(".tag_feed", slug=pages.current_tag_slug(slug)), 301)
    return _atom(select(Post).join(Post.tags).where(Tag.id == tag.id), tag)


@bp.get("/sitemap.xml")
def sitemap() -> Response:
    """Serve the index of the sitemaps. One sitemap lists the blog's pages, the others list posts."""
    number = _map_number()
    changes = select(number, func.max(Post.updated_at)).where(pages.is_visible()).group_by(number)
    return _xml("sitemap-index.xml", maps=db.session.execute(changes.order_by(number)).all())


@bp.get("/sitemap-pages.xml")
def sitemap_pages() -> Response:
    """Serve the sitemap of the home page, the archive, the tags, the contact form and the authors' pages."""
    tags = select(Tag.slug).where(Tag.posts.any(pages.is_visible())).order_by(Tag.slug)
    urls: list[tuple[str, datetime | None]] = [
        (url_for(endpoint), None)
        for endpoint in ("pages.home", "pages.archive", "pages.tags", "contact.contact")
    ]
    found = db.session.scalars(
        select(Page).where(Page.slug != "contact").options(load_only(Page.slug, Page.updated_at))
    )
    urls += [(url_for("pages.page", slug=page.slug), page.updated_at) for page in found]
    urls += [(url_for("pages.tag", slug=slug), None) for slug in db.session.scalars(tags)]
    return _xml("sitemap.xml", urls=urls)


@bp.get("/sitemap-posts-<int(max=100000):number>.xml")
def sitemap_posts(number: int) -> Response:
    """Serve the sitemap of the posts whose id, divided by SITEMAP_POSTS and rounded down, is `number`."""
    low = number * SITEMAP_POSTS
    query = select(Post.slug, Post.updated_at).where(Post.id >= low, Post.id < low + SITEMAP_POSTS)
    posts = db.session.execute(query.where(pages.is_visible()).order_by(Post.id)).all()
    if not posts:
        abort(404)
    return _xml("sitemap.xml", urls=[(url_for("pages.post", slug=slug), changed) for slug, changed in posts])


@bp.get("/robots.txt")
def robots() -> Response:
    """Serve the rules for crawlers: paths to skip, and the URL of the sitemap."""
    lines = ["User-agent: *", "Disallow: /search", "Disallow: /posts/*/comment"]
    lines += ["", f"Sitemap: {pages.absolute(url_for('.sitemap'))}"]
    return Response("\n".join(lines) + "\n", mimetype="text/plain")


@bp.app_template_filter()
def for_feed(post: Post) -> str:
    """Return a post's HTML with absolute URLs, because feed readers show it outside this site."""
    return markdown.absolute_urls(post.body_html, pages.absolute(url_for("pages.post", slug=post.slug)))


def _atom(query: Select[Post], tag: Tag | None = None) -> Response:
    query = pages.newest_first(query.where(pages.is_visible())).limit(FEED_POSTS)
    posts = db.session.scalars(query.options(undefer(Post.body_html), selectinload(Post.tags))).all()
    if tag and not posts:
        abort(404)  # the page of such a tag answers 404 too
    return _xml("feed.xml", "application/atom+xml", posts=posts, tag=tag, site=Site.guid_of(db.session))


def _xml(template: str, mimetype: str = "application/xml", **values: object) -> Response:
    return Response(render_template(template, **values), mimetype=mimetype)


def _map_number() -> ColumnElement[int]:
    return Post.id // SITEMAP_POSTS
