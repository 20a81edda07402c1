import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from blog import create_app, pages
from blog.models import Comment, Page, Post, db

from .conftest import BASE_URL


def titles(page) -> list[str]:
    return re.findall(r'<h2><a href="/posts/[^"]*">([^<]*)</a></h2>', page.text)


def test_home_page_lists_the_newest_posts_in_pages(client, add_posts):
    add_posts(7)
    first = client.get("/")
    assert titles(first) == ["Post 7", "Post 6", "Post 5"]
    assert '<time datetime="2025-01-01T00:07:00Z">1 January 2025</time>' in first.text
    for part in ("1 min read", "Summary 7", 'href="/tags/tag-7"', "Page 1<", 'href="/page/2"'):
        assert part in first.text
    assert "<h1" in first.text
    second = client.get("/page/2")
    assert titles(second) == ["Post 4", "Post 3", "Post 2"]
    assert 'rel="prev" href="/"' in second.text
    assert titles(client.get("/page/3")) == ["Post 1"]


def test_empty_blog_shows_notices(client):
    assert "Nothing has been published here yet." in client.get("/").text
    assert "No post has a tag yet." in client.get("/tags/").text
    assert client.get("/feed.xml").status_code == 200


def test_first_page_of_a_list_has_one_address(client, add_posts):
    add_posts(1)
    for path, target in (("/page/1", "/"), ("/tags/harbour/page/1", "/tags/harbour")):
        response = client.get(path)
        assert response.status_code == 301
        assert response.location == target


@pytest.mark.parametrize(
    "path",
    [
        "/page/0",
        "/page/2",
        f"/page/{10**30}",
        "/page/x",
        "/posts/none",
        "/posts/%00",
        "/posts/a/b",
        "/tags/none",
        "/tags/%00",
        "/tags/harbour/page/2",
        "/static/none.css",
        "/static/..%2fmodels.py",
    ],
)
def test_unknown_address_shows_a_themed_404_page(client, add_posts, path):
    add_posts(1)
    response = client.get(path)
    assert response.status_code == 404
    assert "This page does not exist" in response.text
    assert "style." in response.text


def test_post_page_links_to_its_neighbours(client, add_posts):
    add_posts(3, body="# One\n\nTwo", updated_at=datetime(2025, 5, 6, tzinfo=UTC))
    page = client.get("/posts/post-2").text
    for part in (
        "<h1>Post 2</h1>",
        "by Ada Quay",
        '<h2 id="one">',
        "Last changed on",
        'rel="prev" href="/posts/post-1"',
        'rel="next" href="/posts/post-3"',
        f'<link rel="canonical" href="{BASE_URL}/posts/post-2">',
        '<meta name="description" content="Summary 2">',
        '<meta property="og:type" content="article">',
    ):
        assert part in page
    assert 'rel="next"' not in client.get("/posts/post-3").text


def test_posts_of_the_same_moment_have_a_stable_order(client, add_posts):
    add_posts(3, published_at=datetime(2025, 1, 1, tzinfo=UTC))
    assert titles(client.get("/")) == ["Post 3", "Post 2", "Post 1"]
    assert 'rel="prev" href="/posts/post-1"' in client.get("/posts/post-2").text


@pytest.mark.parametrize("published_at", [None, datetime.now(UTC) + timedelta(hours=1)])
def test_drafts_and_scheduled_posts_are_hidden(client, add_posts, published_at):
    add_posts(1, published_at=published_at)
    assert titles(client.get("/")) == []
    assert client.get("/posts/post-1").status_code == 404
    assert client.get("/tags/harbour").status_code == 404
    assert 'href="/tags/harbour"' not in client.get("/tags/").text
    assert "post-1" not in client.get("/feed.xml").text


def test_tag_pages_list_their_posts(client, add_posts):
    add_posts(4)
    assert "4 posts" in client.get("/tags/").text
    page = client.get("/tags/harbour")
    assert titles(page) == ["Post 4", "Post 3", "Post 2"]
    assert 'href="/tags/harbour/page/2"' in page.text
    assert titles(client.get("/tags/harbour/page/2")) == ["Post 1"]
    assert titles(client.get("/tags/tag-2")) == ["Post 2"]


def test_text_is_escaped(client, add_posts):
    evil = "<b>&\"'"
    add_posts(1, title=evil, summary=evil, author=evil)
    for path in ("/", "/posts/post-1", "/tags/harbour"):
        assert evil not in client.get(path).text
        assert "&lt;b&gt;&amp;&#34;&#39;" in client.get(path).text


def test_tags_are_collected_only_for_the_posts_of_the_page(app, add_posts):
    """A high page number would otherwise cost a query for each post before it."""
    add_posts(30)
    with app.app_context():
        query = pages._NEWEST.compile(db.engine)
        values = query.params | {"limit": 3, "offset": 20}
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {query}"
        [plan] = db.session.connection().exec_driver_sql(explain, values).scalar_one()
    loops = [part["Actual Loops"] for part in parts_of(plan["Plan"]) if part.get("Subplan Name")]
    assert loops == [3]


def parts_of(plan):
    """Yield a part of a query's plan, and all parts in it."""
    yield plan
    for part in plan.get("Plans", []):
        yield from parts_of(part)


def test_each_page_needs_a_fixed_number_of_queries(app, client, add_posts, queries):
    add_posts(3)
    with app.app_context():
        comments = [Comment(author="G", body="B", state="approved") for _ in range(3)]
        db.session.scalars(select(Post).where(Post.slug == "post-2")).one().comments = comments
        db.session.add_all(Page(slug=slug, title=slug, body="Text.") for slug in ("about", "crew"))
        db.session.commit()
    for path, number in (
        ("/", 2),
        ("/posts/post-2", 3),
        ("/tags/harbour", 3),
        ("/tags/", 2),
        ("/archive/", 3),
        ("/search?q=text", 2),
        ("/about", 2),
        ("/posts/post-2/comment", 2),
        ("/contact", 2),
        ("/feed.xml", 3),
        ("/tags/harbour/feed.xml", 4),
        ("/sitemap.xml", 1),
        ("/sitemap-pages.xml", 2),
        ("/sitemap-posts-0.xml", 1),
    ):
        queries.clear()
        assert client.get(path).status_code == 200
        assert len(queries) == number, queries
    queries.clear()
    client.get("/")
    assert "body" not in " ".join(queries), "lists do not load the texts"


def test_healthz_does_not_query_the_database(client, queries):
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.text == "ok\n"
    assert queries == []


def test_readyz_answers_503_without_a_database(settings, caplog):
    app = create_app(settings | {"DATABASE_URL": "postgresql://blog@127.0.0.1:1/blog"})
    response = app.test_client().get("/readyz", base_url=BASE_URL)
    assert response.status_code == 503
    assert response.text == "not ready\n"
    assert "Connection refused" in caplog.text


def test_server_error_shows_a_themed_page(settings):
    app = create_app(settings)
    app.add_url_rule("/broken", view_func=lambda: 1 / 0)
    response = app.test_client().get("/broken", base_url=BASE_URL)
    assert response.status_code == 500
    assert "Something broke on our side" in response.text
    assert "Cache-Control" not in response.headers


def test_request_with_an_unknown_host_is_refused(app, client):
    assert client.get("/", base_url="http://evil.test").status_code == 400
    assert client.get("/healthz", base_url="http://blog.test").status_code == 200


@pytest.mark.parametrize("path", ["/", "/posts/post-1", "/tags/", "/feed.xml", "/none", "/static/style.css"])
def test_public_page_sets_no_cookie_and_has_security_headers(client, add_posts, path):
    add_posts(1)
    response = client.get(path)
    assert "Set-Cookie" not in response.headers
    assert "Cookie" not in response.headers.get("Vary", "")
    assert response.headers["Content-Security-Policy"] == (
        "default-src 'self'; img-src 'self' https:; frame-ancestors 'none'; base-uri 'self'; "
        "form-action 'self'; object-src 'none'"
    )
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    assert not re.search(r"<script|<style|\sstyle=", response.text) or path.endswith(".css")


@pytest.mark.parametrize("path", ["/", "/posts/post-1", "/tags/harbour", "/feed.xml"])
def test_public_page_supports_conditional_requests(client, add_posts, path):
    add_posts(1)
    response = client.get(path)
    assert response.headers["Cache-Control"] == "public, max-age=0, s-maxage=1, stale-while-revalidate=1"
    head = client.head(path)
    assert head.status_code == 200
    assert head.data == b""
    assert head.headers["ETag"] == response.headers["ETag"]
    again = client.get(path, headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304
    assert again.data == b""


def test_public_page_refuses_post_requests(client):
    response = client.post("/")
    assert response.status_code == 405
    assert "This address does not accept the request" in response.text


def test_static_file_is_served_under_both_names(client):
    hashed = re.search(r"/static/style\.[0-9a-f]{10}\.css", client.get("/").text)[0]
    response = client.get(hashed)
    assert response.status_code == 200
    assert response.mimetype == "text/css"
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    plain = client.get("/static/style.css")
    assert plain.data == response.data
    assert "immutable" not in plain.headers["Cache-Control"]
    assert client.get("/static/style.0000000000.css").status_code == 404


def test_icon_is_an_image(client):
    assert client.get("/static/favicon.svg").mimetype == "image/svg+xml"


def test_day_returns_a_readable_date():
    assert pages.day(datetime(2026, 11, 5, 23, tzinfo=UTC)) == "5 November 2026"
