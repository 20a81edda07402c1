"""How long nginx may keep a page, and when nginx must forget the pages in its cache.

Withdrawn content is content that was deleted, unpublished or renamed. Each withdrawal begins a new generation
(see blog/freshness.py), which makes nginx forget all pages.
"""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from blog.models import Comment, Page, Post, Tag, db

KEPT = "public, max-age=0, s-maxage=1, stale-while-revalidate=1"


@pytest.fixture
def generation(app):
    """Return a function that returns the target of the link `.generation`, or None if there is no link."""
    link = Path(app.config["MEDIA_DIR"]) / ".generation"
    return lambda: link.resolve(strict=True) if link.is_symlink() else None


@pytest.fixture
def change(app):
    """Return a function that changes the newest row of a model with a given function, and commits."""

    def change(kind, function):
        with app.app_context():
            row = db.session.scalars(select(kind).order_by(kind.id.desc())).first()
            function(row)
            db.session.commit()

    return change


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/posts/post-1", 200),
        ("/feed.xml", 200),
        ("/page/1", 301),
        ("/archive", 308),
        ("/nosuch", 404),
        ("/no/such", 404),
    ],
)
def test_response_of_any_status_expires_in_the_second_of_its_request(client, add_posts, path, status):
    add_posts(1)
    before = int(time.time())
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["Cache-Control"] == KEPT
    assert before <= int(answer.headers["X-Accel-Expires"].removeprefix("@")) <= time.time()


@pytest.mark.parametrize("path", ["/", "/nosuch", "/author/", "/login", "/contact", "/healthz"])
def test_response_to_a_request_with_a_session_is_not_cached(signed_in, add_posts, path):
    answer = signed_in().get(path)
    assert "no-store" in answer.headers["Cache-Control"]
    assert "X-Accel-Expires" not in answer.headers


def test_response_to_a_post_request_is_not_cached(client):
    assert "X-Accel-Expires" not in client.post("/contact").headers


def publish(moment):
    """Return a function that sets the publication time of a post."""
    return lambda post: setattr(post, "published_at", moment)


def rename(row):
    """Give a row another address."""
    row.slug = "another"


@pytest.mark.parametrize(
    ("what", "function", "forgotten"),
    [
        (Post, lambda post: db.session.delete(post), True),
        (Post, publish(None), True),
        (Post, publish(datetime.now(UTC) + timedelta(days=1)), True),
        (Post, rename, True),
        (Post, lambda post: setattr(post, "title", "Another"), False),
        (Tag, lambda tag: db.session.delete(tag), True),
        (Tag, rename, True),
        (Tag, lambda tag: setattr(tag, "name", "Another"), True),
        (Page, lambda page: db.session.delete(page), True),
        (Page, rename, True),
        (Page, lambda page: setattr(page, "body", "Another."), False),
        (Comment, lambda comment: db.session.delete(comment), True),
        (Comment, lambda comment: setattr(comment, "state", "spam"), True),
        (Comment, lambda comment: setattr(comment, "body", "Another."), False),
    ],
)
def test_withdrawal_begins_a_new_generation(app, add_posts, change, generation, what, function, forgotten):
    add_posts(1)
    with app.app_context():
        post = db.session.scalars(select(Post)).one()
        db.session.add(Page(slug="about", title="About", body="Text."))
        db.session.add(Comment(post_id=post.id, author="Ada", body="Text.", state="approved"))
        db.session.commit()
    before = generation()
    change(what, function)
    assert (generation() != before) is forgotten


def test_withdrawal_of_an_expired_row_begins_a_new_generation(app, add_posts, generation):
    add_posts(1)
    before = generation()
    with app.app_context():
        post = db.session.scalars(select(Post)).one()
        db.session.commit()  # the commit expires the row, so SQLAlchemy forgets its values
        post.published_at = None
        db.session.commit()
    assert generation() != before


def test_publication_and_approval_keep_the_generation(app, add_posts, change, generation):
    add_posts(1, published_at=None)
    change(Post, publish(datetime.now(UTC)))
    with app.app_context():
        db.session.add(Comment(post_id=db.session.scalars(select(Post.id)).one(), author="Ada", body="Text."))
        db.session.commit()
    before = generation()
    change(Comment, lambda comment: setattr(comment, "state", "approved"))
    change(Comment, lambda comment: setattr(comment, "state", "approved"))
    assert generation() == before


@pytest.mark.parametrize(
    ("decision", "state", "forgotten"),
    [("approve", "pending", False), ("spam", "approved", True), ("delete", "approved", True)],
)
def test_rejection_of_a_visible_comment_begins_a_new_generation(
    app, signed_in, add_posts, generation, decision, state, forgotten
):
    add_posts(1)
    with app.app_context():
        comment = Comment(
            post_id=db.session.scalars(select(Post.id)).one(), author="Ada", body="Text.", state=state
        )
        db.session.add(comment)
        db.session.commit()
        number = comment.id
    before = generation()
    assert (
        signed_in(is_admin=True).send(f"/author/comments?state={state}", **{decision: number}).status_code
        == 303
    )
    assert (generation() != before) is forgotten


def test_rolled_back_deletion_keeps_the_generation(app, add_posts, generation):
    add_posts(1)
    before = generation()
    with app.app_context():
        db.session.delete(db.session.scalars(select(Post)).one())
        db.session.flush()
        db.session.rollback()
        db.session.commit()
    assert generation() == before


def test_former_generations_leave_no_directories(app, add_posts, change, generation):
    add_posts(3)
    for _ in range(3):
        change(Post, lambda post: db.session.delete(post))
    folder = generation().parent
    assert sorted(path.name for path in folder.glob(".generation*")) == sorted(
        [".generation", ".generation.lock", generation().name]
    )


def test_post_is_withdrawn_although_media_dir_is_not_writable(
    app, add_posts, change, client, caplog, tmp_path
):
    add_posts(1)
    app.config["MEDIA_DIR"] = tmp_path / "file" / "media"
    (tmp_path / "file").touch()
    change(Post, lambda post: db.session.delete(post))
    assert client.get("/posts/post-1").status_code == 404
    assert "MEDIA_DIR cannot be written" in caplog.text
