import re
from datetime import datetime
from xml.etree import ElementTree

from .conftest import BASE_URL

ATOM = {"a": "http://www.w3.org/2005/Atom"}


def test_the_feed_is_valid_atom(client, add_posts):
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


def test_an_empty_feed_has_what_atom_needs(client):
    feed = ElementTree.fromstring(client.get("/feed.xml").data)
    for name in ("id", "title", "updated"):
        assert feed.findtext(f"a:{name}", namespaces=ATOM)
