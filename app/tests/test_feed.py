import re
from datetime import datetime
from xml.etree import ElementTree

import feedparser
from sqlalchemy import update

from blog import feeds
from blog.models import Page, Post, db

from .conftest import BASE_URL

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
    assert ids[0] == f"{BASE_URL}/posts/post-21"
    assert len(set(ids)) == 20
    moments = [entry.findtext("a:updated", namespaces=ATOM) for entry in entries]
    assert feed.findtext("a:updated", namespaces=ATOM) == max(moments)
    for entry in entries:
        assert entry.findtext("a:title", namespaces=ATOM) == "A <b> & c"
        for name in ("published", "updated"):
            assert datetime.fromisoformat(entry.findtext(f"a:{name}", namespaces=ATOM)).tzinfo
        assert entry.find("a:link", ATOM).get("href") == entry.findtext("a:id", namespaces=ATOM)
        content = entry.find("a:content", ATOM)
        assert content.get("type") == "html"
        assert "<b>&amp;</b>" in content.text
        urls = re.findall(r'(?:href|src)="([^"]*)"', content.text)
        assert len(urls) == 3
        assert all(url.startswith(BASE_URL) for url in urls)


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
