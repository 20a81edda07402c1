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
    for number in (0, -1):
        assert client.get(f"/search?q=crane&page={number}").status_code == 404
    assert client.get("/search?q=crane&page=x").status_code == 200


@pytest.mark.parametrize("number", [3, search.CANDIDATES, 10**30])
def test_page_after_the_last_one_says_so_and_links_to_the_first(client, add_posts, number):
    add_posts(4, body="crane")
    page = client.get(f"/search?q=crane&page={number}")
    assert page.status_code == 404
    assert f"have no page {number}." in page.text
    assert re.findall(r'href="(/search\?[^"]*)"', page.text) == ["/search?q=crane"]


def test_page_number_without_words_gives_no_links_to_pages(client):
    assert "Page 2" not in client.get("/search?page=2").text


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


TEXTS = {
    "zh": "操作系统内核负责管理计算机的硬件资源，并为应用程序提供运行环境。Linux内核是最常见的例子。",
    "ja": "港には毎朝たくさんの船が入ってきて、町の人々は東京都の市場で魚を買う。",
    "ko": "한국어를 배우는 사람들은 매일 항구에서 배를 봅니다.",
    "th": "ภาษาไทยเป็นภาษาที่เขียนโดยไม่มีการเว้นวรรคระหว่างคำ",
    "ru": "Порт просыпается рано, и первые лодки уходят в море.",
    "ar": "يستيقظ الميناء باكرا وتبحر القوارب الأولى.",
    "el": "Το λιμάνι ξυπνά νωρίς.",
}


@pytest.mark.parametrize(
    ("words", "slugs"),
    [
        ("内核", ["zh"]),
        ("计算机的硬件", ["zh"]),
        ("Linux内核", ["zh"]),
        ("linux", ["zh"]),
        ("机算", []),
        ("東京", ["ja"]),
        ("京都", ["ja"]),
        ("船", ["ja"]),
        ("内核 or 東京", ["ja", "zh"]),
        ('"東京都の市場"', ["ja"]),
        ("の -東京都", []),
        ("한국어", ["ko"]),
        ("항구", ["ko"]),
        ("เขียนโดย", ["th"]),
        ("ภาษา", ["th"]),
        ("ПОРТ", ["ru"]),
        ("лодки море", ["ru"]),
        ("القوارب", ["ar"]),
        ("ΛΙΜΆΝΙ", ["el"]),
    ],
)
def test_search_finds_words_in_any_script(client, words, slugs):
    for slug, body in TEXTS.items():
        add(client, slug=slug, title=slug.upper(), body=body)
    assert sorted(found(client.get("/search", query_string={"q": words}))) == slugs


def test_search_marks_the_found_part_of_a_text_without_spaces(client):
    add(
        client,
        slug="a",
        title="内核 & 调度",
        body=f"{'前言。' * 200}\n\n操作系统的内核 <b>很</b>重要。{'后记。' * 200}",
    )
    page = client.get("/search", query_string={"q": "内核"})
    assert "<mark>内核</mark> &amp; 调度" in page.text
    assert re.search(r"… [^<]*操作系统的<mark>内核</mark> 很重要。[^<]*( …|。</p>)", page.text)
    assert "<mark><mark>" not in page.text


def test_search_finds_the_end_of_a_long_text_without_spaces(client):
    add(client, slug="a", title="A", body=f"{'港のことを毎日書いています。' * 2000}最後に灯台の話です。")
    assert found(client.get("/search", query_string={"q": "灯台の話です"})) == ["a"]


def test_longest_text_without_spaces_can_be_saved(client):
    letters = "".join(chr(0x4E00 + (number * 7919) % 20_000) for number in range(349_000))
    add(client, slug="a", title=letters[:200], body=letters, summary=letters[200:1200])
    assert found(client.get("/search", query_string={"q": letters[1000:1010]})) == ["a"]


def test_author_finds_own_posts_in_any_script(ada):
    ada.send("/author/posts/new", title="港", body=TEXTS["ja"], status="draft")
    assert ">港<" in ada.get("/author/", query_string={"q": "東京"}).text
    assert "No posts match." in ada.get("/author/", query_string={"q": "大阪"}).text
