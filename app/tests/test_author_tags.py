import re
from html import unescape

import feedparser
import pytest
from sqlalchemy import select

from blog import tags
from blog.models import Post, Tag, TagAlias, db

from .conftest import count
from .desk import MINE, differences, fields


def number_of(app, name: str) -> int:
    with app.app_context():
        return db.session.scalars(select(Tag.id).where(Tag.name == name)).one()


def names(page) -> list[str]:
    """Return the names on the page with all tags, for readers."""
    return [unescape(name) for name in re.findall(r'<a href="/tags/[^"]+"><bdi>([^<]*)</bdi>', page.text)]


@pytest.fixture
def write(ada, post):
    """Return a function that publishes a post of Ada with some tags, and returns its path on the desk."""

    def write(line: str, **changes: object) -> str:
        assert ada.send("/author/posts/new", **MINE | changes, tags=line).status_code == 303
        return f"/author/posts/{post()['id']}"

    return write


@pytest.mark.parametrize(
    ("line", "slugs"),
    [
        ("C, C++, C#", {"c": "C", "c-plus-plus": "C++", "c-sharp": "C#"}),
        ("C#, F#, .NET, net", {"c-sharp": "C#", "f-sharp": "F#", "net": ".NET", "net-2": "net"}),
        ("港, порт, ميناء", {"gang": "港", "port": "порт", "myn": "ميناء"}),
        ("東京、大阪，京都", {"dong-jing": "東京", "da-ban": "大阪", "jing-du": "京都"}),
        ("🚢, ★", {"tag": "🚢", "tag-2": "★"}),
        ("Hello World, hello-world, HELLO_world", {"hello-world": "Hello World"}),
    ],
)
def test_tags_with_different_names_are_different_tags(write, post, line, slugs):
    write(line)
    assert post()["tags_by_slug"] == slugs


@pytest.mark.parametrize("line", ["\u200b", "a, \u200d\u200b"])
def test_tag_that_readers_cannot_see_is_refused(ada, line):
    response = ada.send("/author/posts/new", **MINE, tags=line)
    assert response.status_code == 422
    assert "at least one of them visible" in response.text


def test_import_keeps_tags_with_different_names_apart(run_import, post, tmp_path):
    path = tmp_path / "a.md"
    path.write_text("---\ntitle: A\ndate: 2025-01-01\ntags: [C, C++, 港, c]\n---\nText.\n")
    assert run_import(path)["created"] == 1
    assert set(post()["tags"]) == {"C", "C++", "港"}
    assert run_import(path)["unchanged"] == 1


def test_author_renames_a_tag_and_its_old_addresses_redirect(app, ada, client, write):
    write("Harbor, Ropes")
    path = f"/author/tags/{number_of(app, 'Harbor')}"
    assert 'value="harbor"' in ada.get(path).text
    assert ada.send(path, name="Harbour", slug="").status_code == 303
    assert names(client.get("/tags/")) == ["Harbour", "Ropes"]
    for old, new in (
        ("/tags/harbor", "/tags/harbour"),
        ("/tags/harbor/page/2", "/tags/harbour/page/2"),
        ("/tags/harbor/feed.xml", "/tags/harbour/feed.xml"),
    ):
        response = client.get(old)
        assert (response.status_code, response.location) == (301, new)


def feed_id(client, slug: str) -> str:
    return feedparser.parse(client.get(f"/tags/{slug}/feed.xml").data).feed.id


def test_id_of_the_feed_of_a_tag_does_not_change_with_its_address(app, ada, client, write):
    write("Harbor, Ropes")
    harbor, ropes = feed_id(client, "harbor"), feed_id(client, "ropes")
    path = f"/author/tags/{number_of(app, 'Harbor')}"
    for slug in ("harbour", "port", "harbor", "port"):
        assert ada.send(path, name="Harbor", slug=slug).status_code == 303
        assert feed_id(client, slug) == harbor
    assert ada.send(f"{path}/merge", into=str(number_of(app, "Ropes"))).status_code == 303
    assert feed_id(client, "ropes") == ropes != harbor


def test_new_name_keeps_the_address_if_the_author_keeps_it(app, ada, client, write):
    write("Harbor")
    ada.send(f"/author/tags/{number_of(app, 'Harbor')}", name="Port", slug="harbor")
    assert "Posts about Port" in client.get("/tags/harbor").text


def test_tag_gets_a_former_address_back(app, ada, client, write):
    write("Harbor")
    path = f"/author/tags/{number_of(app, 'Harbor')}"
    ada.send(path, name="Port", slug="")
    ada.send(path, name="Harbor", slug="harbor")
    assert client.get("/tags/harbor").status_code == 200
    assert client.get("/tags/port").location == "/tags/harbor"


def test_new_tag_does_not_take_the_former_address_of_another_tag(app, ada, post, write):
    write("Harbor")
    ada.send(f"/author/tags/{number_of(app, 'Harbor')}", name="Port", slug="")
    write("Harbor")
    assert post()["tags_by_slug"] == {"harbor-2": "Harbor"}


def test_merged_tag_gives_its_posts_and_its_addresses_to_the_other_tag(app, ada, client, write):
    write("JS", title="One")
    write("JS, JavaScript", title="Two")
    write("JavaScript", title="Three")
    first, second = number_of(app, "JS"), number_of(app, "JavaScript")
    ada.send(f"/author/tags/{first}", name="EcmaScript", slug="es")
    question = ada.get(f"/author/tags/{first}/merge?into={second}")
    assert "2 posts with the tag" in question.text
    assert count(app, Tag) == 2, "the question changes nothing"
    assert ada.send(f"/author/tags/{first}/merge", into=second).status_code == 303
    assert names(client.get("/tags/")) == ["JavaScript"]
    page = client.get("/tags/javascript")
    assert re.findall(r"/posts/(\w+)", page.text) == ["three", "two", "one"]
    assert client.get("/tags/js").location == "/tags/javascript"
    assert client.get("/tags/es").location == "/tags/javascript"


def test_removed_tag_leaves_its_posts(app, ada, client, write, post):
    write("Harbour, Ropes")
    path = f"/author/tags/{number_of(app, 'Harbour')}/remove"
    assert "from 1 post." in ada.get(path).text
    assert count(app, Tag) == 2, "the question changes nothing"
    assert ada.send(path).status_code == 303
    assert post()["tags"] == ["Ropes"]
    assert client.get("/posts/a-post").status_code == 200
    assert client.get("/tags/harbour").status_code == 404
    assert "is removed" in ada.get("/author/tags").text


@pytest.mark.parametrize("change", ["rename", "merge", "remove"])
def test_editor_that_was_open_does_not_bring_the_old_tag_back(app, ada, write, change):
    desk = write("Harbor, Ropes")
    before = ada.get(desk)
    path = f"/author/tags/{number_of(app, 'Harbor')}"
    if change == "rename":
        ada.send(path, name="Harbour", slug="")
    elif change == "merge":
        ada.send(f"{path}/merge", into=number_of(app, "Ropes"))
    else:
        ada.send(f"{path}/remove")
    refused = ada.send(desk, **fields(before, body="New text."))
    assert refused.status_code == 409
    tags_now = {"rename": "+Harbour, Ropes", "merge": "+Ropes", "remove": "+Ropes"}[change]
    assert differences(refused)["Tags"] == ("changed by somebody else", ["-Harbor, Ropes", tags_now])


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"name": ""}, 422, "Enter a name."),
        ({"name": "a, b"}, 422, "commas separate tags"),
        ({"name": "\u200b"}, 422, "visible"),
        ({"name": "x" * 61}, 422, "longer than 60"),
        ({"name": "A", "slug": "a/b"}, 422, "ASCII letters"),
        ({"name": "rOPES"}, 409, "Another tag has this name"),
        ({"name": "A", "slug": "ropes"}, 409, "Another tag has or had this address"),
    ],
)
def test_form_of_a_tag_refuses_what_other_tags_have_and_what_is_not_valid(
    app, ada, write, form, status, words
):
    write("Harbour, Ropes")
    response = ada.send(f"/author/tags/{number_of(app, 'Harbour')}", **{"slug": ""} | form)
    assert response.status_code == status
    assert words in response.text
    assert number_of(app, "Harbour")


@pytest.mark.parametrize("into", ["", "x", "999999", "own"])
def test_tag_is_merged_only_into_another_tag_that_exists(app, ada, write, into):
    write("Harbour, Ropes")
    number = number_of(app, "Harbour")
    response = ada.send(f"/author/tags/{number}/merge", into=number if into == "own" else into)
    assert response.location == f"/author/tags/{number}"
    assert "Choose another tag" in ada.get(response.location).text
    assert count(app, Tag) == 2


@pytest.mark.parametrize("action", ["", "/merge?into=1", "/remove"])
def test_only_an_administrator_changes_a_tag_of_other_authors(app, admin, ada, signed_in, write, action):
    write("Harbour")
    path = f"/author/tags/{number_of(app, 'Harbour')}{action}"
    bob = signed_in("Bob")
    assert bob.get(path).status_code == 403
    assert bob.send(path, name="Mine", slug="").status_code == 403
    assert "only an administrator" in bob.get("/author/tags").text
    assert admin.get(path).status_code in (200, 303)


def test_only_an_administrator_changes_a_tag_of_imported_posts(app, admin, ada, add_posts):
    add_posts(1)
    path = f"/author/tags/{number_of(app, 'Harbour')}"
    assert ada.get(path).status_code == 403
    assert admin.get(path).status_code == 200


def test_reader_cannot_see_the_pages_of_tags_on_the_desk(client):
    assert client.get("/author/tags").status_code == 302
    assert client.send("/author/tags/1/remove").status_code == 403


def test_address_of_a_tag_without_public_posts_does_not_redirect(app, ada, client, write):
    write("Harbor")
    ada.send(f"/author/tags/{number_of(app, 'Harbor')}", name="Port", slug="")
    with app.app_context():
        db.session.scalars(select(Post)).one().published_at = None
        db.session.commit()
    assert client.get("/tags/harbor").status_code == 404


def test_two_new_tags_with_the_same_address_at_the_same_moment_are_refused(app, ada, monkeypatch):
    ada.send("/author/posts/new", **MINE, tags="Harbour")
    monkeypatch.setattr(tags.TagBook, "is_free", lambda *_: True)
    refused = ada.send("/author/posts/new", **MINE, tags="Harbour!")
    assert refused.status_code == 409
    assert "Save again" in refused.text


def test_export_and_import_keep_the_addresses_of_tags(app, ada, client, write, runner, tmp_path):
    write("C, C++, Harbor")
    ada.send(f"/author/tags/{number_of(app, 'Harbor')}", name="Port", slug="")
    ada.send(f"/author/tags/{number_of(app, 'C++')}", name="C++", slug="cpp")
    before = feed_id(client, "port")
    assert runner.invoke(args=["export", str(tmp_path / "one")]).exit_code == 0
    with app.app_context():
        for model in (Post, Tag):
            db.session.query(model).delete()
        db.session.commit()
    assert count(app, TagAlias) == 0
    assert runner.invoke(args=["import", str(tmp_path / "one")]).exit_code == 0
    assert client.get("/tags/harbor").location == "/tags/port"
    assert "Posts about C++" in client.get("/tags/cpp").text
    assert feed_id(client, "port") == before
    assert runner.invoke(args=["export", str(tmp_path / "two")]).exit_code == 0
    first, second = ((tmp_path / name / "export.json").read_text() for name in ("one", "two"))
    assert first == second


def test_import_leaves_the_addresses_of_existing_tags(app, ada, client, write, runner, tmp_path):
    write("Harbour")
    folder = tmp_path / "site"
    folder.mkdir()
    tag = '{"name": "Port", "slug": "harbour", "aliases": ["docks"]}'
    (folder / "export.json").write_text(f'{{"format": 1, "media": [], "tags": [{tag}]}}')
    assert runner.invoke(args=["import", str(folder)]).exit_code == 0
    assert "Posts about Harbour" in client.get("/tags/harbour").text


@pytest.mark.parametrize(
    "tag",
    [
        "7",
        '{"name": "A", "slug": "a/b", "aliases": []}',
        '{"name": "a, b", "slug": "a", "aliases": []}',
        '{"name": "A", "slug": "a", "aliases": [], "first_slug": "a/b"}',
        '{"name": "A", "slug": "a", "aliases": [], "first_slug": 7}',
        "{}",
    ],
)
def test_import_refuses_an_export_with_an_invalid_tag(app, run_import, tmp_path, tag):
    (tmp_path / "export.json").write_text(f'{{"format": 1, "media": [], "tags": [{tag}]}}')
    [problem] = run_import(tmp_path)
    assert "entry 1 is not valid" in problem
    assert count(app, Tag) == 0
