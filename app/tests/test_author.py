import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update

from blog import author
from blog.models import Comment, ContactMessage, Page, Post, PostAlias, Tag, db

from .conftest import BASE_URL
from .test_hostile import HOSTILE, what_runs

MINE = {"title": "A post", "body": "Some *text*.", "status": "published"}


@pytest.fixture
def ada(signed_in):
    """A client of an author who is no administrator."""
    return signed_in("Ada")


@pytest.fixture
def admin(signed_in):
    return signed_in("Grace", is_admin=True)


@pytest.fixture
def post(app):
    """Return the columns of the newest post, with its tags and aliases."""

    def post(**where: object) -> dict[str, object]:
        with app.app_context():
            found = db.session.scalars(select(Post).filter_by(**where).order_by(Post.id.desc())).first()
            columns = {
                key: getattr(found, key) for key, _ in Post.__table__.columns.items() if key != "search"
            }
            tags, aliases = [tag.name for tag in found.tags], [alias.slug for alias in found.aliases]
            return columns | {"tags": tags, "aliases": aliases}

    return post


def count(app, model) -> int:
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(model))


def value(page, name: str) -> str:
    return unescape(re.search(rf'<input[^>]* name="{name}"[^>]* value="([^"]*)"', page.text)[1])


def fields(page, **changes: object) -> dict[str, object]:
    """Return what the editor's form would send."""
    texts = re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>\r?\n?(.*?)</textarea>', page.text, re.DOTALL)
    names = [
        "title",
        "slug",
        "version",
        "base",
        *(["tags", "published_at"] if 'name="tags"' in page.text else ["position"]),
    ]
    status = re.search(r'<input checked[^>]*value="(\w+)"', page.text)
    return (
        {name: value(page, name) for name in names}
        | {name: unescape(text) for name, text in texts}
        | {"status": status and status[1]}
        | changes
    )


EDITORS = ["/author/posts/new", "/author/posts/1", "/author/pages/new", "/author/pages/1"]
DESK = ["/author/", "/author/comments", "/author/messages", "/author/pages", "/author/media", *EDITORS]


@pytest.mark.parametrize("path", [*DESK, "/author/posts/1/delete", "/author/pages/1/delete"])
def test_nobody_gets_in_without_signing_in(client, path):
    response = client.get(path)
    assert (response.status_code, response.location) == (302, f"/login?next={path}")
    assert client.send(path).status_code in (403, 405)
    assert client.post(path).status_code in (400, 405)


@pytest.mark.parametrize(
    "path", ["/author/messages", "/author/pages", "/author/pages/new", "/author/pages/1"]
)
def test_what_is_for_administrators(ada, admin, path):
    assert ada.get(path).status_code == 403
    assert admin.get(path).status_code == (404 if path.endswith("1") else 200)


def test_a_post_of_somebody_else_is_for_administrators(app, ada, admin, signed_in, add_posts, post):
    ada.send("/author/posts/new", **MINE)
    number = post()["id"]
    eve = signed_in("Eve")
    for path in (f"/author/posts/{number}", f"/author/posts/{number}/delete"):
        assert eve.get(path).status_code == 403
        assert eve.send(path, **MINE | {"title": "Taken", "version": "1"}).status_code == 403
        assert admin.get(path).status_code == 200
    assert post()["title"] == "A post"
    add_posts(1)
    assert ada.get(f"/author/posts/{post()['id']}").status_code == 403, "an imported post has no user"
    assert "Post 1" not in ada.get("/author/").text
    assert "Post 1" in admin.get("/author/").text
    assert "A post" not in eve.get("/author/").text


def test_writing_a_post(ada, client, post):
    assert ada.get("/author/posts/new").status_code == 200
    response = ada.send(
        "/author/posts/new", **MINE, tags="Harbour, ropes ,  Harbour,,Ropes", summary="Short."
    )
    number = post()["id"]
    assert (response.status_code, response.location) == (303, f"/author/posts/{number}")
    saved = post()
    assert (saved["slug"], saved["author"], saved["version"]) == ("a-post", "Ada", 1)
    assert (saved["summary"], saved["tags"]) == ("Short.", ["Harbour", "ropes"])
    assert "Some <em>text</em>." in client.get("/posts/a-post").text
    assert "Readers can see it." in ada.get(response.location).text


def test_a_draft_is_for_its_author_alone(ada, client, post):
    ada.send("/author/posts/new", **MINE | {"status": "draft"})
    assert post()["published_at"] is None
    assert client.get("/posts/a-post").status_code == 404
    page = ada.get(f"/author/posts/{post()['id']}")
    ada.send(f"/author/posts/{post()['id']}", **fields(page, status="published"))
    assert client.get("/posts/a-post").status_code == 200
    ada.send(f"/author/posts/{post()['id']}", **fields(page, status="draft", version="2"))
    assert client.get("/posts/a-post").status_code == 404


def test_a_date_to_come_schedules_the_post(app, ada, client, post):
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


def test_a_scheduled_post_can_be_published_at_once(ada, post):
    ada.send("/author/posts/new", **MINE, published_at="2199-01-01T00:00")
    page = ada.get(f"/author/posts/{post()['id']}")
    ada.send(f"/author/posts/{post()['id']}", **fields(page, published_at=""))
    assert post()["published_at"] <= datetime.now(UTC)


def test_saving_leaves_what_was_not_touched(app, admin, add_posts, post):
    moment = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    add_posts(1, published_at=moment)
    before = post()
    page = admin.get(f"/author/posts/{before['id']}")
    assert admin.send(f"/author/posts/{before['id']}", **fields(page)).status_code == 303
    after = post()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"version", "updated_at"}
    assert after["published_at"] == moment


def test_a_summary_that_was_made_is_made_anew(ada, post):
    ada.send("/author/posts/new", **MINE)
    assert post()["summary"] == "Some text."
    page = ada.get(f"/author/posts/{post()['id']}")
    assert "Some text." not in re.search(r'name="summary"[^>]*>(.*?)</textarea>', page.text, re.DOTALL)[1]
    ada.send(f"/author/posts/{post()['id']}", **fields(page, body="Other text."))
    assert post()["summary"] == "Other text."


def test_an_old_address_leads_to_the_post(ada, client, post):
    ada.send("/author/posts/new", **MINE)
    path = f"/author/posts/{post()['id']}"
    ada.send(path, **fields(ada.get(path), slug="better"))
    assert post()["aliases"] == ["a-post"]
    response = client.get("/posts/a-post")
    assert (response.status_code, response.location) == (301, "/posts/better")

    taken = ada.send("/author/posts/new", **MINE, slug="a-post")
    assert taken.status_code == 409
    assert "had it before" in taken.text
    ada.send("/author/posts/new", **MINE)
    assert post()["slug"] == "a-post-2", "an address that is made avoids those that are taken"

    ada.send(path, **fields(ada.get(path), slug="a-post"))
    assert post(slug="a-post")["aliases"] == ["better"], "and back again"


def test_a_draft_leaves_no_old_address(ada, post):
    ada.send("/author/posts/new", **MINE | {"status": "draft"})
    path = f"/author/posts/{post()['id']}"
    ada.send(path, **fields(ada.get(path), slug="better"))
    assert post()["aliases"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"title": ""}, "Give it a title."),
        ({"title": "x" * 201}, "longer than 200"),
        ({"title": "a\0b"}, "control character U+0000"),
        ({"body": ""}, "Write some text."),
        ({"body": "a\x1bb"}, "control character U+001B"),
        ({"body": "é" * 524_289}, "more than 1 MiB"),
        ({"slug": "über"}, "ASCII letters"),
        ({"slug": "../etc"}, "ASCII letters"),
        ({"slug": "a\n"}, None),
        ({"slug": "x" * 201}, "ASCII letters"),
        ({"tags": "港"}, "needs ASCII letters"),
        ({"tags": "x" * 61}, "at most 60"),
        ({"tags": ",".join(map(str, range(21)))}, "20 are the most"),
        ({"status": "secret"}, "Not a valid choice"),
        ({"published_at": "soon"}, "Not a valid datetime"),
        ({"published_at": "0001-01-01T00:00"}, "from 1970 to 2199"),
        ({"summary": "x" * 1001}, "longer than 1000"),
    ],
)
def test_what_cannot_be_a_post(app, ada, change, words):
    response = ada.send("/author/posts/new", **MINE | change)
    if words is None:
        assert response.status_code == 303, "white space at the end goes"
        return
    assert response.status_code == 422
    assert words in response.text
    assert "Nothing is saved yet" in response.text
    assert count(app, Post) == 0


def test_a_title_without_ascii_gets_an_address(ada, post):
    ada.send("/author/posts/new", **MINE | {"title": "港のノート"})
    assert post()["slug"] == "post"


def test_no_script_survives(ada, client):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)> [x](javascript:alert(1))"
    ada.send("/author/posts/new", title=evil, body=evil, tags="<b>a", status="published")
    listed = ada.get("/author/").text
    preview = ada.send("/author/preview?part=body", body=evil).text
    for text in (
        listed,
        preview,
        client.get("/").text,
        ada.send("/author/preview", title=evil, body=evil).text,
    ):
        assert "<script>a" not in text
        assert "onerror=a" not in text.replace("&lt;img src=x onerror=a", "")
        assert 'href="javascript' not in text


def test_the_preview(ada, client, app):
    part = ada.send("/author/preview?part=body", body="# One\n\nTwo three.")
    assert part.text.startswith('<div class="prose">')
    assert "3 words" in part.text
    whole = ada.send("/author/preview", title="A title", body="Text")
    assert "<h1>A title</h1>" in whole.text
    assert "Nothing is saved yet" in whole.text
    assert "What you write appears here" in ada.send("/author/preview?part=body").text
    assert ada.send("/author/preview", body="x" * 1_048_577).status_code == 413
    assert client.send("/author/preview", body="x").status_code == 403
    assert ada.get("/author/preview").status_code == 405
    assert count(app, Post) == 0


def test_a_conflict_is_told_and_nothing_is_lost(app, ada, admin, post):
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


FULL = MINE | {"slug": "a", "tags": "One", "summary": "Short.", "published_at": "2025-01-01T10:00"}
# What the form calls a field, what Grace makes of it, what Ada does, and how the difference says both.
CHANGES = {
    "title": ("Title", "Hers", "His", "Hers", "His"),
    "slug": ("Address", "hers", "his", "hers", "his"),
    "body": ("Text", "Text of hers.", "Text of his.", "Text of hers.", "Text of his."),
    "summary": ("Summary", "Hers.", "His.", "Hers.", "His."),
    "tags": ("Tags", "One, Two", "One, Three", "One, Two", "One, Three"),
    "status": ("Who can read it", "draft", None, "Draft", None),
    "published_at": (
        "From (UTC)",
        "2025-02-02T10:00",
        "2025-03-03T10:00",
        "2025-02-02 10:00",
        "2025-03-03 10:00",
    ),
}


def differences(page) -> dict[str, tuple[str, list[str]]]:
    """Return what the editor says of a conflict: by field, its fate and the lines."""
    found = re.findall(r"<dt>(.*?)<span>: (.*?)</span></dt>\s*<dd><pre>(.*?)</pre>", page.text, re.DOTALL)
    lines = {name: re.findall(r"<(?:ins|del)>(.*?)</", text) for name, _, text in found}
    return {name: (fate, lines[name]) for name, fate, _ in found}


@pytest.mark.parametrize("name", CHANGES)
def test_what_one_did_not_touch_takes_over_what_another_saved(ada, admin, post, name):
    label, hers, _, said, _ = CHANGES[name]
    ada.send("/author/posts/new", **FULL)
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    before = fields(page)
    admin.send(path, **fields(page, **{name: hers}))
    touched = {"body": "Mine."} if name != "body" else {"title": "Mine"}
    refused = ada.send(path, **fields(page, **touched))
    assert refused.status_code == 409
    fate, lines = differences(refused)[label]
    assert fate == "saved meanwhile, and taken over"
    assert f"+{said}" in lines
    saved = fields(ada.get(path))
    assert fields(refused) == saved | touched
    assert before | touched != fields(refused), "something was taken over"
    assert ada.send(path, **fields(refused)).status_code == 303
    assert fields(ada.get(path), version="", base="") == saved | touched | {"version": "", "base": ""}


@pytest.mark.parametrize("name", [name for name, change in CHANGES.items() if change[2]])
def test_of_what_both_changed_one_keeps_the_own_and_sees_the_other(ada, admin, post, name):
    label, hers, his, said, mine = CHANGES[name]
    ada.send("/author/posts/new", **FULL)
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    admin.send(path, **fields(page, **{name: hers}))
    refused = ada.send(path, **fields(page, **{name: his}))
    assert refused.status_code == 409
    assert differences(refused) == {label: ("changed by both; this is yours", [f"-{said}", f"+{mine}"])}
    assert fields(refused)[name] == his
    assert ada.send(path, **fields(refused)).status_code == 303
    assert fields(ada.get(path))[name] == his


def test_what_only_one_changed_is_told_as_well(ada, admin, post):
    ada.send("/author/posts/new", **FULL)
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    admin.send(path, **fields(page, tags=""))
    refused = ada.send(path, **fields(page, summary="Mine."))
    assert differences(refused) == {
        "Tags": ("saved meanwhile, and taken over", ["-One"]),
        "Summary": ("changed by you", ["-Short.", "+Mine."]),
    }


def test_a_second_conflict_rests_on_the_first(ada, admin, post):
    ada.send("/author/posts/new", **FULL)
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    admin.send(path, **fields(page, tags="Two"))
    refused = ada.send(path, **fields(page, title="Mine"))
    admin.send(path, **fields(ada.get(path), tags="Three", title="Hers"))
    refused = ada.send(path, **fields(refused))
    assert differences(refused) == {
        "Title": ("changed by both; this is yours", ["-Hers", "+Mine"]),
        "Tags": ("saved meanwhile, and taken over", ["-Two", "+Three"]),
    }


@pytest.mark.parametrize("base", ["", "x", "\0 " * 99])
def test_a_form_that_does_not_say_what_it_began_with_keeps_all(ada, admin, post, base):
    ada.send("/author/posts/new", **FULL)
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    admin.send(path, **fields(page, tags="Two"))
    refused = ada.send(path, **fields(page, base=base))
    assert differences(refused) == {"Tags": ("changed by both; this is yours", ["-Two", "+One"])}


def test_a_conflict_in_the_same_moment(app, ada, post, monkeypatch):
    ada.send("/author/posts/new", **MINE)
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)
    fill = author._fill_post

    def meanwhile(*arguments):
        with db.engine.begin() as connection:
            connection.execute(update(Post).values(version=Post.version + 1, title="Grace's"))
        fill(*arguments)

    monkeypatch.setattr(author, "_fill_post", meanwhile)
    refused = ada.send(path, **fields(page, title="Ada's"))
    assert refused.status_code == 409
    assert "another version" in refused.text
    assert post()["title"] == "Grace's"


def test_the_same_address_in_the_same_moment(app, ada, add_posts, monkeypatch):
    add_posts(1)
    monkeypatch.setattr(author, "_slug_is_taken", lambda *_: False)
    refused = ada.send("/author/posts/new", **MINE, slug="post-1")
    assert refused.status_code == 409
    assert "Save again" in refused.text
    assert "Some *text*." in refused.text


def test_a_post_that_was_deleted_meanwhile(app, ada, post, monkeypatch):
    ada.send("/author/posts/new", **MINE)
    path = f"/author/posts/{post()['id']}"
    page = ada.get(path)

    def meanwhile(*_):
        with db.engine.begin() as connection:
            connection.execute(Post.__table__.delete())
        fill(*_)

    fill = author._fill_post
    monkeypatch.setattr(author, "_fill_post", meanwhile)
    for _ in range(2):
        refused = ada.send(path, **fields(page, body="My text."))
        assert refused.status_code == 409
        assert "deleted this post" in refused.text
        assert "My text." in refused.text
    assert ada.get(path).status_code == 404
    monkeypatch.undo()
    action = re.search(r'<form class="form editor"[^>]* action="([^"]+)"', refused.text)[1]
    assert ada.send(action, **fields(refused)).status_code == 303
    assert post()["body"] == "My text."


def test_a_text_is_not_lost_when_the_session_ends(app, ada, client, post, admin):
    ada.send("/author/posts/new", **MINE)
    path = f"/author/posts/{post()['id']}"
    for lost in (
        client.post(path, data=MINE | {"body": "My long text."}),
        client.send(path, **MINE | {"body": "My long text."}),
        client.post("/author/posts/new", data=MINE | {"body": "My long text."}),
        client.post("/author/pages/new", data={"title": "A", "body": "My long text."}),
        ada.post(path, data=MINE | {"body": "My long text.", "csrf_token": "of another session"}),
    ):
        assert lost.status_code in (400, 403)
        assert "My long text." in lost.text
        assert "save again" in lost.text
    assert post()["body"] == "Some *text*."
    assert client.post(f"{path}/delete").status_code == 400


def test_deleting_asks_first(app, ada, client, post):
    ada.send("/author/posts/new", **MINE)
    number = post()["id"]
    with app.app_context():
        db.session.add(Comment(post_id=number, author="B", body="Text"))
        db.session.add(PostAlias(slug="old", post_id=number))
        db.session.commit()
    question = ada.get(f"/author/posts/{number}/delete")
    assert "goes for ever, and with it 1 comment." in question.text
    assert count(app, Post) == 1
    assert ada.send(f"/author/posts/{number}/delete").status_code == 303
    assert [count(app, model) for model in (Post, Comment, PostAlias)] == [0, 0, 0]
    assert "is deleted" in ada.get("/author/").text
    assert ada.send(f"/author/posts/{number}/delete").status_code == 404
    assert client.get("/posts/a-post").status_code == 404


def test_a_head_request_changes_nothing(app, admin, add_posts, post):
    add_posts(1)
    editor = f"/author/posts/{post()['id']}"
    page = admin.send("/author/pages/new", title="A", body="B", position="0").location
    for path in (editor, f"{editor}/delete", page, f"{page}/delete"):
        assert admin.head(path).status_code == 200
    assert (count(app, Post), count(app, Page)) == (1, 1)
    assert admin.head("/author/posts/999").status_code == 404


def test_a_post_that_changes_while_it_is_deleted(app, ada, post, monkeypatch):
    ada.send("/author/posts/new", **MINE)
    find = author._find_post

    def meanwhile(number):
        found = find(number)
        with db.engine.begin() as connection:
            connection.execute(update(Post).values(version=Post.version + 1))
        return found

    monkeypatch.setattr(author, "_find_post", meanwhile)
    assert ada.send(f"/author/posts/{post()['id']}/delete").status_code == 409
    assert count(app, Post) == 1


def test_the_list_has_pages_and_can_be_searched(ada, monkeypatch):
    monkeypatch.setattr(author, "PER_PAGE", 2)
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
    assert "No post is like that." in ada.get("/author/?q=nothing").text
    for query in (
        "before=x",
        "before=99999999999",
        "before=-1",
        "q=%00",
        "q=%27%22%29",
        "show=x",
        "before=%D9%A1",
    ):
        assert ada.get(f"/author/?{query}").status_code == 200


def test_the_desk_needs_few_queries(app, admin, add_posts, queries):
    add_posts(3)
    with app.app_context():
        for number in db.session.scalars(select(Post.id)):
            db.session.add(Comment(post_id=number, author="B", body="Text"))
            db.session.add(ContactMessage(name="C", email="c@d.test", body="Text"))
        db.session.commit()
    for path in ("/author/", "/author/comments", "/author/messages", "/author/pages", "/author/media"):
        queries.clear()
        assert admin.get(path).status_code == 200
        assert len(queries) <= 5, queries


# Pages


def test_pages(app, admin, client):
    assert "There are no pages yet." in admin.get("/author/pages").text
    assert admin.get("/author/pages/new").status_code == 200
    made = admin.send("/author/pages/new", title="About us", body="We *write*.", position="3")
    assert made.status_code == 303
    assert "We <em>write</em>." in client.get("/about-us").text
    page = admin.get(made.location)
    assert (
        admin.send(made.location, **fields(page, title="About", slug="about", position="7")).status_code
        == 303
    )
    assert client.get("/about").status_code == 200
    refused = admin.send(made.location, **fields(page, body="Mine."))
    assert refused.status_code == 409
    assert "<ins>+Mine.</ins>" in refused.text
    assert differences(refused)["Position"] == ("saved meanwhile, and taken over", ["-3", "+7"])
    assert value(refused, "position") == "7"
    assert "/about" in admin.get("/author/pages").text
    assert "About" in admin.get(f"{made.location}/delete").text
    assert admin.send(f"{made.location}/delete").status_code == 303
    assert client.get("/about").status_code == 404
    gone = admin.send(made.location, **fields(page, body="Mine."))
    assert gone.status_code == 409
    assert "deleted this page" in gone.text
    assert ' action="/author/pages/new"' in gone.text
    assert admin.get(f"{made.location}/delete").status_code == 404


@pytest.mark.parametrize("slug", ["login", "archive", "tags", "feed.xml", "healthz", "robots.txt", "account"])
def test_a_page_takes_no_address_of_the_site(admin, slug):
    response = admin.send("/author/pages/new", title="A", body="B", position="0", slug=slug)
    assert response.status_code == 409
    assert "Choose another address" in response.text


@pytest.mark.parametrize(
    "change", [{"title": ""}, {"body": ""}, {"position": "x"}, {"position": "5000"}, {"slug": "a/b"}]
)
def test_what_cannot_be_a_page(app, admin, change):
    assert (
        admin.send("/author/pages/new", **{"title": "A", "body": "B", "position": "0"} | change).status_code
        == 422
    )
    assert count(app, Page) == 0


def test_two_pages_of_one_address(app, admin):
    for status in (303, 409):
        assert admin.send("/author/pages/new", title="A", body="B", position="0").status_code == status
    assert admin.send("/author/pages/new", title="港", body="B", position="0").status_code == 409
    assert admin.send("/author/pages/new", title="Contact", body="Hello", position="0").status_code == 303


def test_a_page_that_changes_in_the_same_moment(app, admin, monkeypatch):
    path = admin.send("/author/pages/new", title="A", body="B", position="0").location
    page = admin.get(path)
    statement = update(Page).values(version=Page.version + 1)

    def meanwhile(slug):
        with db.engine.begin() as connection:
            connection.execute(statement)
        return False

    monkeypatch.setattr(author, "_is_route", meanwhile)
    assert "another version" in admin.send(path, **fields(page, title="C")).text
    page = admin.get(path)
    statement = Page.__table__.delete()
    assert "deleted this page" in admin.send(path, **fields(page, title="C")).text


# Comments and messages


@pytest.fixture
def commented(app, ada, post):
    """Ada's post with three comments; returns their numbers."""
    ada.send("/author/posts/new", **MINE)
    number = post()["id"]
    with app.app_context():
        comments = [Comment(post_id=number, author=f"Ben {n}", body=f"Text {n}") for n in range(3)]
        db.session.add_all(comments)
        db.session.commit()
        return [comment.id for comment in comments]


def states(app) -> list[str]:
    with app.app_context():
        return list(db.session.scalars(select(Comment.state).order_by(Comment.id)))


def test_the_queue(app, ada, client, commented):
    page = ada.get("/author/comments")
    assert page.text.count("Text ") == 3
    assert '<span class="count">3<span class="unseen"> waiting</span>' in page.text
    response = ada.send("/author/comments", approve=commented[1])
    assert (response.status_code, response.location) == (303, "/author/comments?state=pending")
    assert states(app) == ["pending", "approved", "pending"]
    assert "Text 1" in client.get("/posts/a-post").text
    assert "1 comment approved." in ada.get("/author/comments").text
    ada.send("/author/comments", decision="spam", ids=[commented[0], commented[2]])
    assert states(app) == ["spam", "approved", "spam"]
    assert "Text 0" in ada.get("/author/comments?state=spam").text
    ada.send("/author/comments?state=spam", decision="delete", ids=[commented[0], "x", "9" * 30])
    assert states(app) == ["approved", "spam"]
    ada.send("/author/comments?state=spam", decision="approve")
    assert "Nothing was chosen." in ada.get("/author/comments?state=spam").text
    assert ada.send("/author/comments", decision="burn").status_code == 400
    assert ada.send("/author/comments").status_code == 400
    assert ada.get("/author/comments?state=none").status_code == 404
    assert "No comment waits for you." in ada.get("/author/comments").text


def test_authors_see_the_comments_on_their_own_posts(app, admin, signed_in, commented):
    eve = signed_in("Eve")
    assert "Text 0" not in eve.get("/author/comments").text
    eve.send("/author/comments", delete=commented[0])
    assert states(app) == ["pending"] * 3
    assert "Text 0" in admin.get("/author/comments").text
    admin.send("/author/comments", delete=commented[0])
    assert states(app) == ["pending"] * 2


def test_the_queue_has_pages(ada, commented, monkeypatch):
    monkeypatch.setattr(author, "PER_PAGE", 2)
    page = ada.get("/author/comments")
    assert "Text 0" not in page.text
    older = re.search(r'href="([^"]+)">Older comments', page.text)[1].replace("&amp;", "&")
    assert "Text 0" in ada.get(older).text


def test_messages(app, ada, admin):
    assert "Nobody has written yet." in admin.get("/author/messages").text
    with app.app_context():
        db.session.add(ContactMessage(name="<Cleo>", email="c@d.test?bcc=x", body="Hello\n<b>there</b>"))
        db.session.commit()
        path = f"/author/messages/{db.session.scalar(select(ContactMessage.id))}"
    page = admin.get("/author/messages").text
    assert "&lt;b&gt;there" in page
    assert "mailto:c%40d.test%3Fbcc%3Dx" in page
    assert 'class="unread"' in page
    assert ada.send(path, decision="delete").status_code == 403
    assert admin.send(path, decision="read").status_code == 303
    assert 'class="unread"' not in admin.get("/author/messages").text
    admin.send(path, decision="unread")
    assert 'class="unread"' in admin.get("/author/messages").text
    assert admin.send(path, decision="burn").status_code == 400
    assert admin.get(path).status_code == 405
    admin.send(path, decision="delete")
    assert count(app, ContactMessage) == 0
    assert admin.send(path, decision="delete").status_code == 404


def test_every_answer_is_for_one_person_and_without_inline_code(admin, add_posts, post):
    add_posts(1)
    number = post()["id"]
    for path in (
        *DESK[:-4],
        "/author/posts/new",
        f"/author/posts/{number}",
        f"/author/posts/{number}/delete",
    ):
        response = admin.get(path, base_url=BASE_URL)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "private, no-store"
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)", response.text), path
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]


def test_tags_that_exist_keep_their_names(app, ada, post):
    ada.send("/author/posts/new", **MINE, tags="Harbour")
    ada.send("/author/posts/new", **MINE, tags="HARBOUR")
    assert post()["tags"] == ["Harbour"]
    assert count(app, Tag) == 1


@given(
    title=HOSTILE,
    slug=st.just("") | HOSTILE,
    body=HOSTILE,
    tags=st.just("") | HOSTILE,
    summary=HOSTILE,
    status=st.sampled_from(["draft", "published", "x"]),
    published_at=st.just("") | st.datetimes().map(lambda moment: moment.isoformat()[:16]) | HOSTILE,
)
def test_no_form_breaks_the_desk(app, ada, title, slug, body, tags, summary, status, published_at):
    with app.app_context():
        for table in (Post, Tag):
            db.session.execute(delete(table))
        db.session.commit()
    said = {"title": title, "slug": slug, "body": body, "tags": tags, "summary": summary}
    response = ada.send("/author/posts/new", **said, status=status, published_at=published_at)
    assert response.status_code in (303, 409, 422)
    pages = [response, ada.get("/author/"), ada.send("/author/preview", **said)]
    if response.status_code == 303:
        page = ada.get(response.location)
        again = ada.send(response.location, **fields(page))
        pages += [page, again, ada.get(f"{response.location}/delete"), ada.get("/")]
        assert again.status_code == 303, "what was saved can be saved again"
    for page in pages:
        assert page.status_code < 500
        assert what_runs(page.text) == []
