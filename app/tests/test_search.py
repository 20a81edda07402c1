import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blog import search
from blog.models import Post, db


def found(page) -> list[str]:
    return re.findall(r'<h2><a href="/posts/([^"]*)">', page.text)


def add(client, **fields) -> None:
    with client.application.app_context():
        values = {"summary": "", "author": "", "published_at": "2025-01-01T00:00Z"}
        db.session.add(Post(**(values | fields)))
        db.session.commit()


def test_best_match_is_first_and_its_words_are_marked(client):
    add(client, slug="body", title="One", body="A crane lifts <b>5 &lt; 6</b> boats. `crane(x)`")
    add(client, slug="title", title="The cranes <script> & more", body="Text.")
    add(client, slug="none", title="Winch", body="Text.")
    page = client.get("/search?q=crane")
    assert found(page) == ["title", "body"]
    assert "The <mark>cranes</mark> &lt;script&gt; &amp; more" in page.text
    assert "<mark>crane</mark> lifts 5 &lt; 6 boats. <mark>crane</mark> …" in page.text
    assert '<meta name="robots" content="noindex">' in page.text
    assert 'value="crane"' in page.text
    assert "Set-Cookie" not in page.headers


@pytest.mark.parametrize(
    ("words", "slugs"),
    [
        ('"boat crane"', ["b"]),
        ("crane -boat", ["c"]),
        ("winch or boat", ["w", "b", "a"]),
        ("CRANES", ["c", "b", "a"]),
        ("the", []),
        ("nowhere", []),
    ],
)
def test_search_supports_phrases_exclusions_and_alternatives(client, words, slugs):
    add(client, slug="a", title="A", body="A crane and a boat.")
    add(client, slug="b", title="B", body="A boat crane.")
    add(client, slug="c", title="C", body="A crane.")
    add(client, slug="w", title="W", body="A winch.")
    page = client.get("/search", query_string={"q": words})
    assert sorted(found(page)) == sorted(slugs)
    assert ("Nothing was found" in page.text) == (not slugs)


def test_search_does_not_find_drafts_and_scheduled_posts(client):
    add(client, slug="a", title="A", body="crane", published_at=None)
    add(client, slug="b", title="B", body="crane", published_at="2999-01-01T00:00Z")
    assert found(client.get("/search?q=crane")) == []


def test_search_results_have_pages(client, add_posts):
    add_posts(7, body="crane")
    assert len(found(client.get("/search?q=crane"))) == 3
    second = client.get("/search?q=crane&page=2")
    assert found(second) == ["post-4", "post-3", "post-2"]
    assert 'href="/search?q=crane"' in second.text
    assert 'href="/search?q=crane&amp;page=3"' in second.text
    assert found(client.get("/search?q=crane&page=3")) == ["post-1"]
    for number in (0, -1, 10**30, search.CANDIDATES):
        assert client.get(f"/search?q=crane&page={number}").status_code == 404
    assert client.get("/search?q=crane&page=x").status_code == 200


def test_search_without_words_shows_only_the_form(client):
    for path in ("/search", "/search?q=", "/search?q=%00%20"):
        page = client.get(path)
        assert "A post must contain all words" in page.text
        assert "Nothing was found" not in page.text


@given(words=st.text(max_size=300))
def test_any_search_words_give_a_valid_page(client, words):
    response = client.get("/search", query_string={"q": words.encode("utf-8", "replace")})
    assert response.status_code == 200
    assert not re.search(r"<script|\son\w+=", response.text.replace("autocomplete", ""))
