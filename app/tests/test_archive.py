import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from blog.models import Page, Post, PostAlias, db

from .conftest import BASE_URL


@pytest.fixture
def add_page(app):
    def add(slug: str = "about", **values: object) -> None:
        fields = {"slug": slug, "title": slug.title(), "body": "## Crew\n\n<script>x</script>", "position": 0}
        with app.app_context():
            db.session.add(Page(**(fields | values)))
            db.session.commit()

    return add


@pytest.fixture
def add_alias(app):
    def add(slug: str, post: str) -> None:
        with app.app_context():
            number = db.session.scalars(select(Post.id).where(Post.slug == post)).one()
            db.session.add(PostAlias(slug=slug, post_id=number))
            db.session.commit()

    return add


def test_archive_lists_every_post_of_a_year_by_month(client, app, add_posts):
    add_posts(3)
    with app.app_context():
        first, second, third = db.session.scalars(select(Post).order_by(Post.id))
        first.published_at = datetime(2023, 12, 31, 23, 59, tzinfo=UTC)
        second.published_at = datetime(2024, 1, 1, tzinfo=UTC)
        third.published_at = datetime.now(UTC) + timedelta(days=400)
        db.session.commit()
    page = client.get("/archive/")
    assert page.text == client.get("/archive/2024").text
    assert re.findall(r"<h2>(.*)</h2>", page.text) == ["January"]
    assert "Post 2" in page.text
    assert "Post 1" not in page.text
    assert '<a href="/archive/2023">2023</a> <span>1</span>' in page.text
    assert f'<link rel="canonical" href="{BASE_URL}/archive/2024">' in page.text
    assert "December" in client.get("/archive/2023").text
    for path in ("/archive/2022", "/archive/9999", "/archive/0000", "/archive/24", "/archive/x"):
        assert client.get(path).status_code == 404


def test_archive_of_an_empty_blog_shows_a_notice(client):
    assert "Nothing has been published" in client.get("/archive/").text


def test_old_addresses_redirect_to_the_post(app, client, add_posts, add_alias):
    add_posts(2)
    add_alias("before", "post-1")
    add_alias("7", "post-2")
    with app.app_context():
        number = db.session.scalars(select(Post.id).where(Post.slug == "post-1")).one()
    for path, target in (
        ("/posts/before", "post-1"),
        ("/post/7", "post-2"),
        ("/posts/7", "post-2"),
        (f"/post/{number}", "post-1"),
    ):
        response = client.get(path)
        assert response.status_code == 301
        assert response.location == f"/posts/{target}"
    for path in ("/post/0", "/post/99999999", f"/post/{10**20}", "/post/x", "/post/-1"):
        assert client.get(path).status_code == 404


def test_old_address_of_a_draft_answers_404(app, client, add_posts, add_alias):
    add_posts(1, published_at=None)
    add_alias("before", "post-1")
    with app.app_context():
        number = db.session.scalar(select(Post.id))
    assert client.get("/posts/before").status_code == 404
    assert client.get(f"/post/{number}").status_code == 404


def test_menu_lists_the_pages_by_position(client, add_page):
    add_page("b", position=2)
    add_page("a", position=3)
    add_page("contact", position=1, title="Reach us", body="By boat.")
    home = client.get("/").text
    assert re.findall(r'<a href="/([ab])">', home) == ["b", "a"]
    page = client.get("/a")
    assert "<h1>A</h1>" in page.text
    assert '<h2 id="crew">' in page.text
    assert "<script" not in page.text
    assert page.headers["Cache-Control"] == "public, max-age=0, s-maxage=1, stale-while-revalidate=1"
    contact = client.get("/contact").text
    assert "<h1>Reach us</h1>" in contact
    assert "By boat." in contact
    assert client.get("/none").status_code == 404


def test_post_has_a_preview_image_and_sizes_of_its_pictures(client, add_posts):
    name = f"/media/{'a' * 24}-1600x900.webp"
    add_posts(1, body=f"![A boat]({name})\n\n![Small]({name}){{width=50%}}\n\n![Other](/o.png)")
    page = client.get("/posts/post-1").text
    assert f'<meta property="og:image" content="{BASE_URL}{name}">' in page
    assert f'<img src="{name}" alt="A boat" width="1600" height="900" loading="lazy">' in page
    assert f'<img src="{name}" alt="Small" width="50%" loading="lazy">' in page
    assert "og:image" not in client.get("/").text
