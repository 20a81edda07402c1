"""The desk, which is the part of the blog with the authors' pages, below /author."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select

from blog.models import Comment, ContactMessage, Page, Post, UserSession, db

from .conftest import BASE_URL, PASSWORD, clear, count, token_of
from .desk import MINE, fields
from .test_hostile import HOSTILE, what_runs

EDITORS = ["/author/posts/new", "/author/posts/1", "/author/pages/new", "/author/pages/1"]
DESK = ["/author/", "/author/comments", "/author/messages", "/author/pages", "/author/media", *EDITORS]


def sign_in(client, name: str = "grace") -> None:
    """Sign in with the form, as a browser does."""
    form = {"email": f"{name}@blog.test", "password": PASSWORD}
    page = client.get("/login")
    assert client.post("/login", data=form | {"csrf_token": token_of(page)}).status_code == 303


@pytest.fixture
def author(app, admin, add_posts):
    """Return the browser of Grace, an administrator, who signed in with the form. The blog has a post."""
    add_posts(1)
    client = app.test_client()
    sign_in(client)
    return client


@pytest.mark.parametrize("path", [*DESK, "/author/posts/1/delete", "/author/pages/1/delete"])
def test_desk_requires_a_signed_in_user(client, path):
    response = client.get(path)
    assert response.status_code == 302
    assert response.location == f"/login?next={path}"
    assert client.send(path).status_code in (403, 405)
    assert client.post(path).status_code in (400, 405)


@pytest.mark.parametrize(
    "path", ["/author/messages", "/author/pages", "/author/pages/new", "/author/pages/1"]
)
def test_messages_and_pages_require_an_administrator(ada, admin, path):
    assert ada.get(path).status_code == 403
    assert admin.get(path).status_code == (404 if path.endswith("1") else 200)


def test_author_cannot_change_a_post_of_another_author(app, ada, admin, signed_in, add_posts, post):
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


def test_script_in_a_post_is_removed(ada, client):
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


def test_editor_keeps_the_text_after_the_session_has_ended(app, ada, client, post, admin):
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


def lose_cookie(_app, client) -> None:
    client.delete_cookie("session", domain="blog.test")


def end_sessions(app, _client) -> None:
    with app.app_context():
        db.session.execute(delete(UserSession))
        db.session.commit()


@pytest.mark.parametrize("lose", [lose_cookie, end_sessions])
@pytest.mark.parametrize("path", ["/author/posts/new", "/author/posts/{}", "/author/pages/new"])
def test_save_succeeds_after_the_session_was_lost_and_the_author_signed_in_again(
    app, author, post, path, lose
):
    path = path.format(post()["id"])
    page = author.get(path)
    sent = fields(page, title="Mine", body="My long text.") | {"csrf_token": token_of(page)}
    lose(app, author)
    lost = author.post(path, data=sent)
    assert lost.status_code == (400 if lose is lose_cookie else 403)
    sign_in(author)
    again = fields(lost) | {"csrf_token": token_of(lost)}
    assert again["body"] == "My long text."
    assert author.post(path, data=again).status_code == 303


def test_save_succeeds_if_the_author_signed_in_again_before(author, post):
    path = f"/author/posts/{post()['id']}"
    page = author.get(path)
    author.post("/logout", data={"csrf_token": token_of(page)})
    sign_in(author)
    sent = fields(page, body="My long text.") | {"csrf_token": token_of(page)}
    assert author.post(path, data=sent).status_code == 303
    assert post()["body"] == "My long text."


def test_editor_keeps_the_text_if_another_user_signed_in_meanwhile(author, signed_in, post):
    path = f"/author/posts/{post()['id']}"
    page = author.get(path)
    signed_in("Eve")
    author.post("/logout", data={"csrf_token": token_of(page)})
    sign_in(author, "eve")
    sent = fields(page, body="My long text.") | {"csrf_token": token_of(page)}
    other = author.post(path, data=sent)
    assert other.status_code == 400
    assert "perhaps as another user" in other.text
    refused = author.post(path, data=fields(other) | {"csrf_token": token_of(other)})
    assert refused.status_code == 403
    assert "signed in as a user who may not change this" in refused.text
    assert fields(refused)["body"] == "My long text."
    author.post("/logout", data={"csrf_token": token_of(refused)})
    sign_in(author)
    mine = author.post(path, data=fields(refused) | {"csrf_token": token_of(refused)})
    assert author.post(path, data=fields(mine) | {"csrf_token": token_of(mine)}).status_code == 303


def test_form_of_one_user_is_not_valid_for_another(app, author, signed_in):
    page = author.get("/author/posts/new")
    eve = app.test_client()
    signed_in("Eve")
    sign_in(eve, "eve")
    assert eve.post("/author/posts/new", data=MINE | {"csrf_token": token_of(page)}).status_code == 400


def test_head_request_changes_nothing(app, admin, add_posts, post):
    add_posts(1)
    editor = f"/author/posts/{post()['id']}"
    page = admin.send("/author/pages/new", title="A", body="B", position="0").location
    for path in (editor, f"{editor}/delete", page, f"{page}/delete"):
        assert admin.head(path).status_code == 200
    assert count(app, Post) == 1
    assert count(app, Page) == 1
    assert admin.head("/author/posts/999").status_code == 404


def test_desk_page_needs_at_most_five_queries(app, admin, add_posts, queries):
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


def test_desk_pages_are_private_and_have_no_inline_code(admin, add_posts, post):
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


@given(
    title=HOSTILE,
    slug=st.just("") | HOSTILE,
    body=HOSTILE,
    tags=st.just("") | HOSTILE,
    summary=HOSTILE,
    status=st.sampled_from(["draft", "published", "x"]),
    published_at=st.just("") | st.datetimes().map(lambda moment: moment.isoformat()[:16]) | HOSTILE,
)
def test_hostile_post_form_does_not_break_the_desk(
    app, ada, title, slug, body, tags, summary, status, published_at
):
    clear(app)
    said = {"title": title, "slug": slug, "body": body, "tags": tags, "summary": summary}
    response = ada.send("/author/posts/new", **said, status=status, published_at=published_at)
    assert response.status_code in (303, 409, 422)
    pages = [response, ada.get("/author/"), ada.send("/author/preview", **said)]
    if response.status_code == 303:
        page = ada.get(response.location)
        again = ada.send(response.location, **fields(page))
        pages += [page, again, ada.get(f"{response.location}/delete"), ada.get("/")]
        assert again.status_code == 303, "a saved post can be saved again"
    for page in pages:
        assert page.status_code < 500
        assert what_runs(page.text) == []
