"""Conflicts between two people who edit the same post."""

import pytest
from sqlalchemy import update

from blog.author import posts
from blog.models import Post, db

from .desk import MINE, action, differences, fields, value

FULL = MINE | {"slug": "a", "tags": "One", "summary": "Short.", "published_at": "2025-01-01T10:00"}
# For each field: its label, the value of Grace (an administrator), the value of Ada (the author), and the
# texts that the list of differences shows for the two values.
CHANGES = {
    "title": ("Title", "Hers", "His", "Hers", "His"),
    "slug": ("Address", "hers", "his", "hers", "his"),
    "body": ("Text", "Text of hers.", "Text of his.", "Text of hers.", "Text of his."),
    "summary": ("Summary", "Hers.", "His.", "Hers.", "His."),
    "tags": ("Tags", "One, Two", "One, Three", "One, Two", "One, Three"),
    "status": ("Status", "draft", None, "Draft", None),
    "published_at": (
        "Publication time (UTC)",
        "2025-02-02T10:00",
        "2025-03-03T10:00",
        "2025-02-02 10:00",
        "2025-03-03 10:00",
    ),
}


@pytest.fixture
def path(ada, post):
    """Create a post by Ada with a value in each field, and return the address of its editor."""
    ada.send("/author/posts/new", **FULL)
    return f"/author/posts/{post()['id']}"


def test_conflict_shows_both_texts_and_saves_nothing(app, ada, admin, post):
    ada.send("/author/posts/new", **MINE)
    path = f"/author/posts/{post()['id']}"
    mine, hers = ada.get(path), admin.get(path)
    admin.send(path, **fields(hers, body="The text of Grace."))
    refused = ada.send(path, **fields(mine, body="The text of <Ada>."))
    assert refused.status_code == 409
    assert post()["body"] == "The text of Grace."
    assert "<del>-The text of Grace.</del>" in refused.text
    assert "<ins>+The text of &lt;Ada&gt;.</ins>" in refused.text
    assert value(refused, "version") == "2"
    assert ada.send(path, **fields(refused, body="Both.")).status_code == 303
    assert post()["body"] == "Both."


@pytest.mark.parametrize("name", CHANGES)
def test_conflict_form_takes_the_saved_value_of_an_unchanged_field(ada, admin, path, name):
    label, hers, _, said, _ = CHANGES[name]
    page = ada.get(path)
    before = fields(page)
    admin.send(path, **fields(page, **{name: hers}))
    touched = {"body": "Mine."} if name != "body" else {"title": "Mine"}
    refused = ada.send(path, **fields(page, **touched))
    assert refused.status_code == 409
    changed_by, lines = differences(refused)[label]
    assert changed_by == "changed by somebody else"
    assert f"+{said}" in lines
    saved = fields(ada.get(path))
    assert fields(refused) == saved | touched
    assert before | touched != fields(refused), "the form contains a value that somebody else saved"
    assert ada.send(path, **fields(refused)).status_code == 303
    assert fields(ada.get(path), version="", base="") == saved | touched | {"version": "", "base": ""}


@pytest.mark.parametrize("name", [name for name, change in CHANGES.items() if change[2]])
def test_conflict_form_keeps_the_value_of_the_author_if_both_changed_a_field(ada, admin, path, name):
    label, hers, his, said, mine = CHANGES[name]
    page = ada.get(path)
    admin.send(path, **fields(page, **{name: hers}))
    refused = ada.send(path, **fields(page, **{name: his}))
    assert refused.status_code == 409
    assert differences(refused) == {label: ("changed by both; yours is shown", [f"-{said}", f"+{mine}"])}
    assert fields(refused)[name] == his
    assert ada.send(path, **fields(refused)).status_code == 303
    assert fields(ada.get(path))[name] == his


def test_conflict_shows_fields_that_only_one_author_changed(ada, admin, path):
    page = ada.get(path)
    admin.send(path, **fields(page, tags=""))
    refused = ada.send(path, **fields(page, summary="Mine."))
    assert differences(refused) == {
        "Tags": ("changed by somebody else", ["-One"]),
        "Summary": ("changed by you", ["-Short.", "+Mine."]),
    }


def test_second_conflict_compares_with_the_version_of_the_first(ada, admin, path):
    page = ada.get(path)
    admin.send(path, **fields(page, tags="Two"))
    refused = ada.send(path, **fields(page, title="Mine"))
    admin.send(path, **fields(ada.get(path), tags="Three", title="Hers"))
    refused = ada.send(path, **fields(refused))
    assert differences(refused) == {
        "Title": ("changed by both; yours is shown", ["-Hers", "+Mine"]),
        "Tags": ("changed by somebody else", ["-Two", "+Three"]),
    }


@pytest.mark.parametrize("base", ["", "x", "\0 " * 99])
def test_conflict_form_without_a_valid_base_keeps_all_values_of_the_author(ada, admin, path, base):
    page = ada.get(path)
    admin.send(path, **fields(page, tags="Two"))
    refused = ada.send(path, **fields(page, base=base))
    assert differences(refused) == {"Tags": ("changed by both; yours is shown", ["-Two", "+One"])}


def test_save_at_the_same_moment_is_a_conflict(app, ada, post, monkeypatch):
    ada.send("/author/posts/new", **MINE)
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    fill = posts._fill_post

    def meanwhile(*arguments):
        with db.engine.begin() as connection:
            connection.execute(update(Post).values(version=Post.version + 1, title="Grace's"))
        fill(*arguments)

    monkeypatch.setattr(posts, "_fill_post", meanwhile)
    refused = ada.send(path, **fields(page, title="Ada's"))
    assert refused.status_code == 409
    assert "another version" in refused.text
    assert post()["title"] == "Grace's"


def test_form_that_is_sent_twice_is_no_conflict(ada, path, post):
    sent = fields(ada.get(path), body="Better.")
    assert ada.send(path, **sent).status_code == 303
    assert ada.send(path, **sent).status_code == 303
    assert post()["version"] == 2


def test_text_of_a_deleted_post_can_be_saved_as_a_new_post(app, ada, post, monkeypatch):
    ada.send("/author/posts/new", **MINE)
    path, guid = f"/author/posts/{post()['id']}", post()["guid"]
    page = ada.get(path)

    def meanwhile(*_):
        with db.engine.begin() as connection:
            connection.execute(Post.__table__.delete())
        fill(*_)

    fill = posts._fill_post
    monkeypatch.setattr(posts, "_fill_post", meanwhile)
    for _ in range(2):
        refused = ada.send(path, **fields(page, body="My text."), guid=value(page, "guid"))
        assert refused.status_code == 409
        assert "deleted this post" in refused.text
        assert "My text." in refused.text
    assert ada.get(path).status_code == 404
    monkeypatch.undo()
    assert ada.send(action(refused), **fields(refused), guid=value(refused, "guid")).status_code == 303
    assert post()["body"] == "My text."
    assert post()["guid"] == guid, "for feed readers it is the same post"
