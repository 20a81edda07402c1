import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from sqlalchemy import func, update

from blog.author import desk, posts
from blog.models import Comment, Post, PostAlias, Tag, db

from .conftest import count
from .desk import MINE, action, fields, value

MOMENT = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def test_author_writes_a_post(ada, client, post):
    assert ada.get("/author/posts/new").status_code == 200
    response = ada.send(
        "/author/posts/new", **MINE, tags="Harbour, ropes ,  Harbour,,Ropes", summary="Short."
    )
    number = post()["id"]
    assert response.status_code == 303
    assert response.location == f"/author/posts/{number}"
    saved = post()
    assert saved["slug"] == "a-post"
    assert saved["author"] == "Ada"
    assert saved["version"] == 1
    assert saved["summary"] == "Short."
    assert saved["tags"] == ["Harbour", "ropes"]
    assert "Some <em>text</em>." in client.get("/posts/a-post").text
    assert "Readers can see it." in ada.get(response.location).text


def test_readers_cannot_see_a_draft(ada, client, post):
    ada.send("/author/posts/new", **MINE | {"status": "draft"})
    assert post()["published_at"] is None
    assert client.get("/posts/a-post").status_code == 404
    page = ada.get(f"/author/posts/{post()['id']}")
    ada.send(f"/author/posts/{post()['id']}", **fields(page, status="published"))
    assert client.get("/posts/a-post").status_code == 200
    ada.send(f"/author/posts/{post()['id']}", **fields(page, status="draft", version="2"))
    assert client.get("/posts/a-post").status_code == 404


def test_future_date_schedules_the_post(app, ada, client, post):
    moment = (datetime.now(UTC) + timedelta(days=1)).replace(second=0, microsecond=0)
    ada.send("/author/posts/new", **MINE, published_at=moment.strftime("%Y-%m-%dT%H:%M"))
    assert post()["published_at"] == moment
    assert client.get("/posts/a-post").status_code == 404
    page = ada.get("/author/?show=scheduled")
    assert "Scheduled" in page.text
    assert "A post" in page.text
    assert "A post" not in ada.get("/author/?show=published").text
    assert "A post" not in ada.get("/author/?show=drafts").text
    with app.app_context():
        db.session.execute(update(Post).values(published_at=func.now()))
        db.session.commit()
    assert client.get("/posts/a-post").status_code == 200


def test_author_publishes_a_scheduled_post_at_once(ada, post):
    ada.send("/author/posts/new", **MINE, published_at="2199-01-01T00:00")
    page = ada.get(f"/author/posts/{post()['id']}")
    ada.send(f"/author/posts/{post()['id']}", **fields(page, published_at=""))
    assert post()["published_at"] <= datetime.now(UTC)


@pytest.mark.parametrize("values", [{}, {"published_at": None, "planned_at": MOMENT}, {"published_at": None}])
def test_saving_an_unchanged_form_changes_nothing(admin, add_posts, post, values):
    add_posts(1, **{"published_at": MOMENT} | values)
    before = post()
    page = admin.get(f"/author/posts/{before['id']}")
    assert admin.send(f"/author/posts/{before['id']}", **fields(page)).status_code == 303
    assert post() == before


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Other"},
        {"slug": "other"},
        {"body": "Other."},
        {"summary": "Other."},
        {"tags": ""},
        {"tags": "Harbour, Ropes"},
        {"published_at": "2024-01-01T10:00"},
        {"status": "draft"},
    ],
)
def test_saving_a_change_sets_the_time_of_the_last_change(admin, add_posts, post, change):
    add_posts(1)
    path = f"/author/posts/{post()['id']}"
    admin.send(path, **fields(admin.get(path), **change))
    assert post()["updated_at"] > datetime.now(UTC) - timedelta(minutes=1)


def test_draft_keeps_its_date_and_is_published_with_it(ada, client, post):
    ada.send("/author/posts/new", **MINE | {"status": "draft"}, published_at="2024-02-03T04:05")
    assert post()["published_at"] is None
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    assert fields(page)["published_at"] == "2024-02-03T04:05"
    ada.send(path, **fields(page, status="published"))
    assert post()["published_at"] == datetime(2024, 2, 3, 4, 5, tzinfo=UTC)
    assert "3 February 2024" in client.get("/posts/a-post").text


def test_draft_with_a_future_date_is_scheduled_when_it_is_published(ada, client, post):
    ada.send("/author/posts/new", **MINE | {"status": "draft"}, published_at="2199-02-03T04:05")
    path = f"/author/posts/{post()['id']}"
    ada.send(path, **fields(ada.get(path), status="published"))
    assert post()["published_at"] == datetime(2199, 2, 3, 4, 5, tzinfo=UTC)
    assert client.get("/posts/a-post").status_code == 404


def test_post_that_is_published_again_keeps_its_date(admin, add_posts, post):
    add_posts(1, published_at=MOMENT)
    path = f"/author/posts/{post()['id']}"
    admin.send(path, **fields(admin.get(path), status="draft"))
    assert post()["published_at"] is None
    admin.send(path, **fields(admin.get(path), status="published"))
    assert post()["published_at"] == MOMENT, "with its seconds"


def test_draft_whose_date_the_author_removed_is_published_at_once(ada, post):
    ada.send("/author/posts/new", **MINE | {"status": "draft"}, published_at="2024-02-03T04:05")
    path = f"/author/posts/{post()['id']}"
    ada.send(path, **fields(ada.get(path), status="published", published_at=""))
    assert post()["published_at"] > datetime.now(UTC) - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"published_at": datetime(2199, 1, 2, 3, 4, tzinfo=UTC)}, "on 2 January 2199 at 03:04 UTC"),
        ({"published_at": None}, "This is a draft, which readers cannot see."),
    ],
)
def test_author_views_a_post_that_readers_cannot_see_yet(admin, client, add_posts, post, values, words):
    add_posts(1, **values)
    editor = f"/author/posts/{post()['id']}"
    path = re.search(r'href="([^"]+)">View<', admin.get(editor).text)[1]
    page = admin.get(path)
    assert page.status_code == 200
    assert words in page.text
    assert "<p>Text of 1.</p>" in page.text
    assert page.headers["Cache-Control"] == "private, no-store"
    assert client.get(path).location == f"/login?next={path}"


def test_view_of_a_public_post_is_its_public_page(admin, add_posts, post):
    add_posts(1)
    assert admin.get(f"/author/posts/{post()['id']}/view").location == "/posts/post-1"


def test_author_cannot_view_a_draft_of_another_author(ada, add_posts, post):
    add_posts(1, published_at=None)
    assert ada.get(f"/author/posts/{post()['id']}/view").status_code == 403


def test_form_of_a_new_post_that_is_sent_twice_creates_one_post(app, ada, post):
    page = ada.get("/author/posts/new")
    sent = fields(page, **MINE) | {"guid": value(page, "guid")}
    first = ada.send("/author/posts/new", **sent)
    second = ada.send("/author/posts/new", **sent)
    assert count(app, Post) == 1
    assert second.status_code == 303
    assert second.location == first.location
    assert post()["version"] == 1


def test_form_of_a_new_post_that_is_sent_again_with_a_change_saves_the_change(app, ada, post):
    page = ada.get("/author/posts/new")
    sent = fields(page, **MINE) | {"guid": value(page, "guid")}
    ada.send("/author/posts/new", **sent)
    ada.send("/author/posts/new", **sent | {"body": "More."})
    assert count(app, Post) == 1
    assert post()["body"] == "More."


def test_form_of_a_new_post_does_not_overwrite_a_later_version(app, ada, post):
    page = ada.get("/author/posts/new")
    sent = fields(page, **MINE) | {"guid": value(page, "guid")}
    editor = ada.send("/author/posts/new", **sent).location
    ada.send(editor, **fields(ada.get(editor), body="A later text."))
    refused = ada.send("/author/posts/new", **sent)
    assert refused.status_code == 409
    assert post()["body"] == "A later text."
    assert ada.send(action(refused), **fields(refused)).location == editor
    assert count(app, Post) == 1


def test_form_of_a_new_post_that_is_sent_twice_at_the_same_moment_creates_one_post(app, ada, monkeypatch):
    page = ada.get("/author/posts/new")
    sent = fields(page, **MINE) | {"guid": value(page, "guid")}
    first = ada.send("/author/posts/new", **sent)
    found = posts._sent_before
    answers = iter([lambda _form: None, found])  # the first request has not committed yet
    monkeypatch.setattr(posts, "_sent_before", lambda form: next(answers)(form))
    monkeypatch.setattr(posts, "_slug_is_taken", lambda *_: False)
    assert ada.send("/author/posts/new", **sent).location == first.location
    assert count(app, Post) == 1


@pytest.mark.parametrize("guid", ["", "x", "urn:uuid: 1", "javascript:" + "x" * 600])
def test_new_post_with_an_invalid_id_is_refused(app, ada, guid):
    assert ada.send("/author/posts/new", **MINE, guid=guid).status_code == 400
    assert count(app, Post) == 0


def test_generated_summary_follows_the_text(ada, post):
    ada.send("/author/posts/new", **MINE)
    assert post()["summary"] == "Some text."
    page = ada.get(f"/author/posts/{post()['id']}")
    assert "Some text." not in re.search(r'name="summary"[^>]*>(.*?)</textarea>', page.text, re.DOTALL)[1]
    ada.send(f"/author/posts/{post()['id']}", **fields(page, body="Other text."))
    assert post()["summary"] == "Other text."


def test_old_address_of_a_renamed_post_redirects_to_it(ada, client, post):
    ada.send("/author/posts/new", **MINE)
    path = f"/author/posts/{post()['id']}"
    ada.send(path, **fields(ada.get(path), slug="better"))
    assert post()["aliases"] == ["a-post"]
    response = client.get("/posts/a-post")
    assert response.status_code == 301
    assert response.location == "/posts/better"

    taken = ada.send("/author/posts/new", **MINE, slug="a-post")
    assert taken.status_code == 409
    assert "has or had this address" in taken.text
    ada.send("/author/posts/new", **MINE)
    assert post()["slug"] == "a-post-2", "a generated address is not one that another post has or had"

    ada.send(path, **fields(ada.get(path), slug="a-post"))
    assert post(slug="a-post")["aliases"] == ["better"], "the post has its first address again"


def test_renamed_draft_gets_no_alias(ada, post):
    ada.send("/author/posts/new", **MINE | {"status": "draft"})
    path = f"/author/posts/{post()['id']}"
    ada.send(path, **fields(ada.get(path), slug="better"))
    assert post()["aliases"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"title": ""}, "Enter a title."),
        ({"title": "x" * 201}, "longer than 200"),
        ({"title": "a\0b"}, "control character U+0000"),
        ({"body": ""}, "Write some text."),
        ({"body": "a\x1bb"}, "control character U+001B"),
        ({"body": "é" * 524_289}, "longer than 1 MiB"),
        ({"slug": "über"}, "ASCII letters"),
        ({"slug": "../etc"}, "ASCII letters"),
        ({"slug": "a\n"}, None),
        ({"slug": "x" * 201}, "ASCII letters"),
        ({"language": "English"}, "Enter a language tag"),
        ({"tags": "x" * 61}, "at most 60 characters"),
        ({"tags": ",".join(map(str, range(21)))}, "at most 20 tags"),
        ({"status": "secret"}, "Not a valid choice"),
        ({"published_at": "soon"}, "Not a valid datetime"),
        ({"published_at": "0001-01-01T00:00"}, "from 1970 to 2199"),
        ({"summary": "x" * 1001}, "longer than 1000"),
    ],
)
def test_post_editor_refuses_invalid_fields(app, ada, change, words):
    response = ada.send("/author/posts/new", **MINE | change)
    if words is None:
        assert response.status_code == 303, "white space at the end is removed"
        return
    assert response.status_code == 422
    assert words in response.text
    assert "Nothing is saved yet" in response.text
    assert count(app, Post) == 0


def test_post_with_a_title_without_letters_gets_a_default_address(ada, post):
    ada.send("/author/posts/new", **MINE | {"title": "🚢"})
    assert post()["slug"] == "post"


def test_title_in_another_script_gives_a_readable_address(ada, post):
    ada.send("/author/posts/new", **MINE | {"title": "Привет, мир"})
    assert post()["slug"] == "privet-mir"


def test_preview_shows_the_text_and_saves_nothing(ada, client, app):
    part = ada.send("/author/preview?part=body", body="# One\n\nTwo three.")
    assert part.text.startswith('<div class="prose" dir="auto">')
    assert "3 words" in part.text
    whole = ada.send("/author/preview", title="A title", body="Text")
    assert "<h1>A title</h1>" in whole.text
    assert "Nothing is saved yet" in whole.text
    assert "The preview of your text appears here" in ada.send("/author/preview?part=body").text
    assert ada.send("/author/preview", body="x" * 1_048_577).status_code == 413
    assert client.send("/author/preview", body="x").status_code == 403
    assert ada.get("/author/preview").status_code == 405
    assert count(app, Post) == 0


def test_second_post_with_an_address_at_the_same_moment_is_refused(app, ada, add_posts, monkeypatch):
    add_posts(1)
    monkeypatch.setattr(posts, "_slug_is_taken", lambda *_: False)
    refused = ada.send("/author/posts/new", **MINE, slug="post-1")
    assert refused.status_code == 409
    assert "Save again" in refused.text
    assert "Some *text*." in refused.text


def test_deletion_of_a_post_requires_confirmation(app, ada, client, post):
    ada.send("/author/posts/new", **MINE)
    number = post()["id"]
    with app.app_context():
        db.session.add(Comment(post_id=number, author="B", body="Text"))
        db.session.add(PostAlias(slug="old", post_id=number))
        db.session.commit()
    question = ada.get(f"/author/posts/{number}/delete")
    assert "will be deleted for good, together with 1 comment." in question.text
    assert count(app, Post) == 1
    assert ada.send(f"/author/posts/{number}/delete").status_code == 303
    assert [count(app, model) for model in (Post, Comment, PostAlias)] == [0, 0, 0]
    assert "is deleted" in ada.get("/author/").text
    assert ada.send(f"/author/posts/{number}/delete").status_code == 404
    assert client.get("/posts/a-post").status_code == 404


def test_deletion_of_a_post_that_has_changed_is_refused(app, ada, post, monkeypatch):
    ada.send("/author/posts/new", **MINE)
    find = posts._find_post

    def meanwhile(number):
        found = find(number)
        with db.engine.begin() as connection:
            connection.execute(update(Post).values(version=Post.version + 1))
        return found

    monkeypatch.setattr(posts, "_find_post", meanwhile)
    assert ada.send(f"/author/posts/{post()['id']}/delete").status_code == 409
    assert count(app, Post) == 1


def test_list_of_posts_is_sorted_by_date(app, ada, admin, add_posts, monkeypatch):
    monkeypatch.setattr(desk, "PER_PAGE", 2)
    day = timedelta(days=1)
    add_posts(1, title="Scheduled", published_at=datetime.now(UTC) + day)
    ada.send("/author/posts/new", **MINE | {"title": "Old", "published_at": "2020-01-01T00:00"})
    ada.send("/author/posts/new", **MINE | {"title": "Middle", "published_at": "2021-01-01T00:00"})
    ada.send("/author/posts/new", **MINE | {"title": "Draft", "status": "draft"})
    ada.send("/author/posts/new", **MINE | {"title": "Oldest", "published_at": "2019-01-01T00:00"})
    ada.send("/author/posts/new", **MINE | {"title": "Same time", "published_at": "2019-01-01T00:00"})
    seen, path = [], "/author/"
    while path:
        page = admin.get(path)
        seen += re.findall(r'href="/author/posts/\d+"[^>]*>(.*)</a>', page.text)
        older = re.search(r'href="([^"]+)">Older posts', page.text)
        path = older and unescape(older[1])
    assert seen == ["Scheduled", "Draft", "Middle", "Old", "Same time", "Oldest"]


def test_list_of_posts_has_pages_and_a_search(ada, monkeypatch):
    monkeypatch.setattr(desk, "PER_PAGE", 2)
    for number in range(5):
        ada.send("/author/posts/new", **MINE | {"title": f"Number {number}", "body": f"The word{number}."})
    seen, path = [], "/author/"
    while path:
        page = ada.get(path)
        seen += re.findall(r">Number (\d)<", page.text)
        older = re.search(r'href="([^"]+)">Older posts', page.text)
        path = older and older[1].replace("&amp;", "&")
    assert seen == ["4", "3", "2", "1", "0"]
    assert re.findall(r">Number (\d)<", ada.get("/author/?q=word3").text) == ["3"]
    assert "No posts match." in ada.get("/author/?q=nothing").text
    for query in (
        "before=x",
        "before=99999999999",
        "before=-1",
        "before=7",
        "before=2025-01-01T00:00:00Z~7",
        "before=2025-01-01~x",
        "before=2025-13-01~7",
        "before=0001-01-01T00:00:00%2B23:59~7",
        "before=9999-12-31T23:59:59-23:59~7",
        "q=%00",
        "q=%27%22%29",
        "show=x",
        "before=%D9%A1",
    ):
        assert ada.get(f"/author/?{query}").status_code == 200


def test_existing_tag_keeps_its_name(app, ada, post):
    ada.send("/author/posts/new", **MINE, tags="Harbour")
    ada.send("/author/posts/new", **MINE, tags="HARBOUR")
    assert post()["tags"] == ["Harbour"]
    assert count(app, Tag) == 1
