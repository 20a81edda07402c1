import re
from datetime import datetime
from xml.etree import ElementTree

import feedparser
import pytest
from sqlalchemy import null, update

from blog import feeds
from blog.models import Page, Post, db

from .conftest import BASE_URL
from .desk import fields

ATOM = {"a": "http://www.w3.org/2005/Atom"}


def test_feed_is_valid_atom(client, add_posts):
    body = "[here](/about) ![boat](/boat.png) <b>&amp;</b>\n\n# Part"
    add_posts(21, title="A <b> & c", body=body)
    response = client.get("/feed.xml")
    assert response.mimetype == "application/atom+xml"
    feed = ElementTree.fromstring(response.data)
    assert feed.tag == "{http://www.w3.org/2005/Atom}feed"

    assert feed.findtext("a:id", namespaces=ATOM) == f"{BASE_URL}/"
    assert feed.findtext("a:title", namespaces=ATOM) == "Slipway"
    assert feed.findtext("a:subtitle", namespaces=ATOM) == "Notes & <harbours>"
    assert feed.findtext("a:author/a:name", namespaces=ATOM) == "The crew"
    links = {link.get("rel"): link.get("href") for link in feed.findall("a:link", ATOM)}
    assert links == {"self": f"{BASE_URL}/feed.xml", "alternate": f"{BASE_URL}/"}

    entries = feed.findall("a:entry", ATOM)
    assert len(entries) == 20
    ids = [entry.findtext("a:id", namespaces=ATOM) for entry in entries]
    assert len(set(ids)) == 20
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in ids)
    moments = [entry.findtext("a:updated", namespaces=ATOM) for entry in entries]
    assert feed.findtext("a:updated", namespaces=ATOM) == max(moments)
    for entry in entries:
        assert entry.findtext("a:title", namespaces=ATOM) == "A <b> & c"
        for name in ("published", "updated"):
            assert datetime.fromisoformat(entry.findtext(f"a:{name}", namespaces=ATOM)).tzinfo
        assert entry.find("a:link", ATOM).get("href").startswith(f"{BASE_URL}/posts/post-")
        content = entry.find("a:content", ATOM)
        assert content.get("type") == "html"
        assert "<b>&amp;</b>" in content.text
        urls = re.findall(r'(?:href|src)="([^"]*)"', content.text)
        assert len(urls) == 3
        assert all(url.startswith(BASE_URL) for url in urls)


def ids(client, path: str = "/feed.xml") -> list[str]:
    """Return the id of a feed and the ids of its entries."""
    return [
        element.text for element in ElementTree.fromstring(client.get(path).data).iterfind(".//a:id", ATOM)
    ]


def test_id_of_an_entry_does_not_change_with_its_address(admin, client, add_posts, post):
    add_posts(1)
    before = ids(client)
    path = f"/author/posts/{post()['id']}"
    admin.send(path, **fields(admin.get(path), slug="other"))
    assert 'href="http://blog.test:8080/posts/other"' in client.get("/feed.xml").text
    assert ids(client) == before


def test_id_of_a_post_of_an_earlier_release_does_not_change_with_its_address(admin, client, add_posts, post):
    add_posts(1, guid=null())
    before = ids(client)
    assert before == [f"{BASE_URL}/", f"{BASE_URL}/posts/post-1"]
    path = f"/author/posts/{post()['id']}"
    for slug in ("other", "another"):
        admin.send(path, **fields(admin.get(path), slug=slug))
        assert ids(client) == before


def test_id_of_an_entry_does_not_change_when_the_post_is_published_again(admin, client, add_posts, post):
    add_posts(1)
    before = ids(client)
    path = f"/author/posts/{post()['id']}"
    for status in ("draft", "published"):
        admin.send(path, **fields(admin.get(path), status=status))
    assert ids(client) == before


@pytest.mark.parametrize("path", ["/feed.xml", "/tags/harbour/feed.xml"])
def test_ids_do_not_change_with_the_base_url(client, make_app, add_posts, path):
    add_posts(2)
    moved = make_app(BASE_URL="https://other.test").test_client()
    feed = moved.get(path, base_url="https://other.test")
    assert "https://other.test/posts/post-1" in feed.text
    found = ElementTree.fromstring(feed.data).iterfind(".//a:id", ATOM)
    assert [element.text for element in found] == ids(client, path)


def test_save_without_a_change_does_not_change_the_feed(admin, client, add_posts, post):
    add_posts(1)
    before = client.get("/feed.xml").data
    path = f"/author/posts/{post()['id']}"
    admin.send(path, **fields(admin.get(path)))
    assert client.get("/feed.xml").data == before


def test_empty_feed_has_the_required_elements_of_atom(client):
    feed = ElementTree.fromstring(client.get("/feed.xml").data)
    for name in ("id", "title", "updated"):
        assert feed.findtext(f"a:{name}", namespaces=ATOM)


def test_tag_has_a_separate_feed(client, add_posts):
    add_posts(3)
    feed = feedparser.parse(client.get("/tags/tag-2/feed.xml").data)
    assert not feed.bozo
    assert feed.feed.title == "Slipway: Tag 2"
    assert feed.feed.id == feed.feed.link == f"{BASE_URL}/tags/tag-2"
    assert [entry.title for entry in feed.entries] == ["Post 2"]
    assert {tag.label for tag in feed.entries[0].tags} == {"Harbour", "Tag 2"}
    assert 'href="/tags/tag-2/feed.xml"' in client.get("/tags/tag-2").text
    assert client.get("/tags/none/feed.xml").status_code == 404


def test_tag_with_only_drafts_has_no_feed(client, add_posts):
    add_posts(1, published_at=None)
    assert client.get("/tags/harbour/feed.xml").status_code == 404


def locations(response) -> list[str]:
    assert response.mimetype == "application/xml"
    namespace = {"s": "http://www.sitemaps.org/schemas/sitemap/0.9"}
    found = ElementTree.fromstring(response.data).iterfind(".//s:loc", namespace)
    assert all(entry.text.startswith(BASE_URL) for entry in found)
    found = ElementTree.fromstring(response.data).iterfind(".//s:loc", namespace)
    return [entry.text.removeprefix(BASE_URL) for entry in found]


def test_sitemaps_list_every_public_page(app, client, add_posts, monkeypatch):
    monkeypatch.setattr(feeds, "SITEMAP_POSTS", 1)
    add_posts(3)
    with app.app_context():
        db.session.add_all([Page(slug=slug, title=slug, body="Text.") for slug in ("about", "contact")])
        db.session.execute(update(Post).where(Post.slug == "post-3").values(published_at=None))
        db.session.commit()
    maps = locations(client.get("/sitemap.xml"))
    assert maps[0] == "/sitemap-pages.xml"
    assert len(maps) == 3
    pages = locations(client.get(maps[0]))
    assert pages == [
        "/",
        "/archive/",
        "/tags/",
        "/contact",
        "/about",
        "/tags/harbour",
        "/tags/tag-1",
        "/tags/tag-2",
    ]
    posts = [path for name in maps[1:] for path in locations(client.get(name))]
    assert posts == ["/posts/post-1", "/posts/post-2"]
    for path in pages + posts:
        assert client.get(path).status_code == 200, path
    for path in ("/sitemap-posts-0.xml", "/sitemap-posts-x.xml", f"/sitemap-posts-{10**30}.xml"):
        assert client.get(path).status_code == 404


def test_robots_txt_names_the_sitemap(client):
    response = client.get("/robots.txt")
    assert response.mimetype == "text/plain"
    assert f"Sitemap: {BASE_URL}/sitemap.xml" in response.text.splitlines()
    assert "Disallow: /search" in response.text
