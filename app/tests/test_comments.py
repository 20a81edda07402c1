import re

import pytest
from sqlalchemy import select

from blog.comments import LIMIT
from blog.models import Comment, ContactMessage, db

URL = "/posts/post-1/comment"
COMMENT = {"name": "Grace  Mole", "email": "", "body": "First.\r\n\r\n<b>Second</b>."}
MESSAGE = {"name": "Grace", "email": "grace@mole.test", "body": "Hello."}


@pytest.fixture
def stored(app):
    """Return a function that returns the rows of a table."""

    def stored(model) -> list:
        with app.app_context():
            return db.session.scalars(select(model).order_by(model.id)).all()

    return stored


@pytest.fixture
def approve(app):
    def approve() -> None:
        with app.app_context():
            for comment in db.session.scalars(select(Comment)):
                comment.state = "approved"
            db.session.commit()

    return approve


def test_comment_appears_after_its_approval(client, add_posts, stored, approve):
    add_posts(1)
    response = client.send(URL, **COMMENT)
    assert response.status_code == 303
    assert response.location == f"{URL}/thanks"
    assert "will appear below the post" in client.get(response.location).text
    [comment] = stored(Comment)
    assert comment.author == "Grace Mole"
    assert comment.email is None
    assert comment.body == "First.\n\n<b>Second</b>."
    assert comment.state == "pending"
    post = client.application.test_client().get("/posts/post-1", base_url="http://blog.test:8080")
    assert "No comment yet" in post.text
    assert "Set-Cookie" not in post.headers
    approve()
    page = client.get("/posts/post-1").text
    assert "1 comment<" in page
    assert "&lt;b&gt;Second&lt;/b&gt;" in page
    assert "<b>Second</b>" not in page


def test_form_pages_are_private(client, add_posts):
    add_posts(1)
    for path in (URL, "/contact"):
        response = client.get(path)
        assert response.headers["Cache-Control"] == "private, no-store"
        assert '<meta name="robots" content="noindex">' in response.text or path == "/contact"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": " "}, "Enter your name."),
        ({"name": "x" * 81}, "80"),
        ({"email": "nobody"}, "Enter an email address"),
        ({"body": "\n \n"}, "Write a comment."),
        ({"body": "a\0b"}, "Remove the control character U+0000."),
        ({"body": "x" * 5001}, "5000"),
    ],
)
def test_comment_form_names_the_error_and_keeps_the_text(client, add_posts, stored, change, words):
    add_posts(1)
    response = client.send(URL, **(COMMENT | {"body": "My long thought."} | change))
    assert response.status_code == 422
    assert words in response.text
    assert "body" in change or "My long thought." in response.text
    assert stored(Comment) == []


def test_form_keeps_the_text_after_the_session_has_expired(client, add_posts, stored):
    add_posts(1)
    for path, fields in ((URL, COMMENT), ("/contact", MESSAGE)):
        client.get(path)
        response = client.post(path, data=fields | {"csrf_token": "of-another-session"})
        assert response.status_code == 422
        assert "Your text is still here" in response.text
        token = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', response.text)[1]
        assert client.post(path, data=fields | {"csrf_token": token}).status_code == 303
    assert len(stored(Comment)) == len(stored(ContactMessage)) == 1


def test_form_with_the_hidden_field_filled_in_is_spam(client, add_posts, stored):
    add_posts(1)
    assert client.send(URL, **COMMENT, subject="https://spam.test").status_code == 303
    assert client.send("/contact", **MESSAGE, subject="https://spam.test").status_code == 303
    assert [comment.state for comment in stored(Comment)] == ["spam"]
    assert [(message.body, message.is_spam) for message in stored(ContactMessage)] == [
        (MESSAGE["body"], True)
    ]


@pytest.mark.parametrize("path", [URL, "/contact"])
def test_browsers_and_password_managers_are_told_to_leave_the_hidden_field_empty(client, add_posts, path):
    add_posts(1)
    field = re.search(r'<input[^>]* name="subject"[^>]*>', client.get(path).text)[0]
    told = {
        'autocomplete="off"',
        "data-1p-ignore",
        "data-bwignore",
        'data-lpignore="true"',
        'data-form-type="other"',
    }
    assert told - set(re.split(r"[ >]", field)) == set()


def test_comment_of_an_administrator_needs_no_approval(signed_in, add_posts, stored):
    add_posts(1)
    ada = signed_in("Ada", is_admin=True)
    assert 'value="Ada"' in ada.get(URL).text
    response = ada.send(URL, **COMMENT)
    assert response.location == "/posts/post-1#blog_comments"
    assert "2 comments" not in ada.get("/posts/post-1").text
    assert [comment.state for comment in stored(Comment)] == ["approved"]


def test_number_of_comments_is_limited_and_the_text_is_kept(client, add_posts, stored):
    add_posts(1)
    for _ in range(LIMIT):
        assert client.send(URL, **COMMENT).status_code == 303
    response = client.send(URL, **COMMENT)
    assert response.status_code == 429
    assert 0 < int(response.headers["Retry-After"]) <= 600
    assert "&lt;b&gt;Second&lt;/b&gt;" in response.text
    assert len(stored(Comment)) == LIMIT


def test_number_of_messages_is_limited(client, stored):
    statuses = [client.send("/contact", **MESSAGE).status_code for _ in range(LIMIT + 1)]
    assert statuses == [303] * LIMIT + [429]
    assert len(stored(ContactMessage)) == LIMIT


def test_contact_form_stores_the_message(client, stored):
    response = client.send("/contact", **MESSAGE)
    assert response.location == "/contact/thanks"
    assert "has arrived" in client.get("/contact/thanks").text
    [message] = stored(ContactMessage)
    assert message.name == "Grace"
    assert message.email == "grace@mole.test"
    assert message.body == "Hello."
    assert client.send("/contact", **(MESSAGE | {"email": ""})).status_code == 422


def test_unpublished_post_accepts_no_comments(client, add_posts, stored):
    add_posts(1, published_at=None)
    for path in (URL, f"{URL}/thanks", "/posts/none/comment"):
        assert client.get(path).status_code == 404
    assert client.send(URL, **COMMENT).status_code == 404
    assert stored(Comment) == []
