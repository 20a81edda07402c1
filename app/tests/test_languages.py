import re

import pytest

from blog import create_app
from blog.config import ConfigError
from blog.languages import direction
from blog.models import Page, db

from .articles import article, counts
from .desk import MINE, fields


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", "ltr"),
        ("pt-BR", "ltr"),
        ("ar", "rtl"),
        ("AR-eg", "rtl"),
        ("he", "rtl"),
        ("ku-Arab", "rtl"),
        ("az-Latn", "ltr"),
    ],
)
def test_direction_follows_the_language_and_its_script(language, expected):
    assert direction(language) == expected


@pytest.mark.parametrize(
    ("setting", "tag"),
    [({}, '<html lang="en" dir="ltr">'), ({"SITE_LANGUAGE": "fa"}, '<html lang="fa" dir="rtl">')],
)
def test_pages_have_the_language_of_the_blog(make_app, setting, tag):
    client = make_app(**setting).test_client()
    for path in ("/", "/none", "/contact"):
        assert tag in client.get(path).text


def test_feed_has_the_language_of_the_blog(make_app):
    assert ' xml:lang="pt-BR">' in make_app(SITE_LANGUAGE="pt-BR").test_client().get("/feed.xml").text


@pytest.mark.parametrize("value", ["English", "en_US", "e", "en-"])
def test_wrong_language_of_the_blog_is_refused_with_an_example(settings, value):
    with pytest.raises(
        ConfigError, match=r"SITE_LANGUAGE is '.*'\. Set it to a language tag, such as en or pt-BR"
    ):
        create_app(settings | {"SITE_LANGUAGE": value})


def test_post_in_another_language_names_it_wherever_the_post_appears(ada, client):
    ada.send("/author/posts/new", **MINE, language="ar")
    for path in ("/", "/posts/a-post"):
        assert re.search(r'<article[^>]* lang="ar" dir="rtl">', client.get(path).text)
    assert '<entry xml:lang="ar">' in client.get("/feed.xml").text


def test_view_of_a_draft_has_the_language_of_the_draft(ada, post):
    ada.send("/author/posts/new", **MINE | {"status": "draft", "language": "ar"})
    assert '<article lang="ar" dir="rtl">' in ada.get(f"/author/posts/{post()['id']}/view").text


def test_direction_of_a_text_without_a_language_follows_its_letters(app, client, add_posts):
    add_posts(1)
    with app.app_context():
        db.session.add(Page(slug="about", title="About", body="Text."))
        db.session.commit()
    for path in ("/posts/post-1", "/about"):
        assert '<article dir="auto">' in client.get(path).text


def test_author_changes_the_language_of_a_post(ada, post):
    ada.send("/author/posts/new", **MINE, language="de")
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    ada.send(path, **fields(page, language="pt-BR"))
    assert post()["language"] == "pt-BR"


def test_pages_for_authors_are_english_whatever_the_language_of_the_blog(make_app, ada):
    ada.application.config["SITE_LANGUAGE"] = "ar"
    assert '<html lang="en" dir="ltr">' in ada.get("/author/").text


@pytest.mark.parametrize("name", ["lang", "language"])
def test_import_reads_the_language_of_a_post(run_import, post, tmp_path, name):
    path = article(tmp_path, header=f"title: A\ndate: 2025-01-01\n{name}: zh-Hant")
    assert run_import(path) == counts(created=1)
    assert post()["language"] == "zh-Hant"
    assert run_import(path) == counts(unchanged=1)


def test_import_notices_another_language(run_import, tmp_path):
    run_import(article(tmp_path, header="title: A\ndate: 2025-01-01"))
    [problem] = run_import(article(tmp_path, header="title: A\ndate: 2025-01-01\nlang: de"))
    assert "with other content" in problem
