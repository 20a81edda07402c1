"""The pages where authors moderate comments and read messages."""

import re
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from blog.author import desk
from blog.models import Comment, ContactMessage, db

from .conftest import count
from .desk import MINE


@pytest.fixture
def commented(app, ada, post):
    """Create a post by Ada with three comments, and return the comments' ids."""
    ada.send("/author/posts/new", **MINE)
    number = post()["id"]
    with app.app_context():
        comments = [Comment(post_id=number, author=f"Ben {n}", body=f"Text {n}") for n in range(3)]
        db.session.add_all(comments)
        db.session.commit()
        return [comment.id for comment in comments]


def test_comments_are_sorted_by_date(app, ada, client, post):
    """An imported comment may be older than comments with smaller ids."""
    ada.send("/author/posts/new", **MINE)
    with app.app_context():
        for year in (2024, 2026, 2025):
            moment = datetime(year, 1, 1, tzinfo=UTC)
            comment = Comment(author="Ben", body=f"Text {year}", state="approved", created_at=moment)
            comment.post_id = post()["id"]
            db.session.add(comment)
            db.session.flush()
        db.session.commit()
    listed = ada.get("/author/comments?state=approved").text
    assert re.findall(r"Text (\d+)", listed) == ["2026", "2025", "2024"]
    assert re.findall(r"Text (\d+)", client.get("/posts/a-post").text) == ["2024", "2025", "2026"]


def states(app) -> list[str]:
    with app.app_context():
        return list(db.session.scalars(select(Comment.state).order_by(Comment.id)))


def test_author_moderates_comments(app, ada, client, commented):
    page = ada.get("/author/comments")
    assert page.text.count("Text ") == 3
    assert '<span class="count">3<span class="unseen"> waiting</span>' in page.text
    response = ada.send("/author/comments", approve=commented[1])
    assert response.status_code == 303
    assert response.location == "/author/comments?state=pending"
    assert states(app) == ["pending", "approved", "pending"]
    assert "Text 1" in client.get("/posts/a-post").text
    assert "1 comment approved." in ada.get("/author/comments").text
    ada.send("/author/comments", decision="spam", ids=[commented[0], commented[2]])
    assert states(app) == ["spam", "approved", "spam"]
    assert "Text 0" in ada.get("/author/comments?state=spam").text
    ada.send("/author/comments?state=spam", decision="delete", ids=[commented[0], "x", "9" * 30])
    assert states(app) == ["approved", "spam"]
    ada.send("/author/comments?state=spam", decision="approve")
    assert "no comment was selected" in ada.get("/author/comments?state=spam").text
    assert ada.send("/author/comments", decision="burn").status_code == 400
    assert ada.send("/author/comments").status_code == 400
    assert ada.get("/author/comments?state=none").status_code == 404
    assert "No comments are waiting." in ada.get("/author/comments").text


def test_author_sees_only_comments_on_own_posts(app, admin, signed_in, commented):
    eve = signed_in("Eve")
    assert "Text 0" not in eve.get("/author/comments").text
    eve.send("/author/comments", delete=commented[0])
    assert states(app) == ["pending"] * 3
    assert "Text 0" in admin.get("/author/comments").text
    admin.send("/author/comments", delete=commented[0])
    assert states(app) == ["pending"] * 2


def test_list_of_comments_has_pages(ada, commented, monkeypatch):
    monkeypatch.setattr(desk, "PER_PAGE", 2)
    page = ada.get("/author/comments")
    assert "Text 0" not in page.text
    older = re.search(r'href="([^"]+)">Older comments', page.text)[1].replace("&amp;", "&")
    assert "Text 0" in ada.get(older).text


def test_administrator_reads_and_deletes_messages(app, ada, admin):
    assert "There are no messages yet." in admin.get("/author/messages").text
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


@pytest.fixture
def message(app):
    """Add a message to Spam, and return its path."""
    with app.app_context():
        found = ContactMessage(name="Cleo", email="c@d.test", body="Call me.", is_spam=True)
        db.session.add(found)
        db.session.commit()
        return f"/author/messages/{found.id}"


def test_spam_is_listed_separately_and_not_counted_as_waiting(admin, message):
    inbox, spam = (admin.get(f"/author/messages{query}").text for query in ("", "?show=spam"))
    assert ("Call me." in inbox, "Call me." in spam) == (False, True)
    assert 'Spam <span class="count">1<' in inbox
    assert "waiting</span>" not in inbox


def test_administrator_moves_a_message_between_inbox_and_spam(admin, message):
    response = admin.send(f"{message}?show=spam", decision="no spam")
    assert response.location == "/author/messages?show=spam"
    assert "The message from Cleo is now in Inbox." in admin.get(response.location).text
    assert "Call me." in admin.get("/author/messages").text
    admin.send(message, decision="spam")
    assert "Call me." in admin.get("/author/messages?show=spam").text
