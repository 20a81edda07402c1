"""The contents of pictures: in Postgres, and as files in the cache."""

import errno
import io
import os
import stat
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from blog import media_content, outage
from blog.models import Media, MediaContent, db

from .conftest import count
from .pictures import little_memory, picture, upload

LARGE = 60_000_000


@pytest.fixture
def media_dir(app, monkeypatch, tmp_path) -> Path:
    """Give the app an empty cache."""
    monkeypatch.setitem(app.config, "MEDIA_DIR", tmp_path / "media")
    return tmp_path / "media"


@pytest.fixture
def boat(ada, media_dir) -> Path:
    """Let Ada upload a picture, and return its file in the cache."""
    return media_dir / upload(ada, picture(colour="navy")).json["url"].removeprefix("/media/")


@pytest.fixture
def forget_content(app):
    """Return a function that removes the contents from Postgres: older releases stored only files."""

    def forget() -> None:
        with app.app_context():
            db.session.execute(delete(MediaContent))
            db.session.commit()

    return forget


def stored(app) -> list[bytes]:
    """Return the contents in the database."""
    with app.app_context():
        return list(db.session.scalars(select(MediaContent.content)))


def test_upload_stores_the_content_of_the_file(app, boat):
    assert stored(app) == [boat.read_bytes()]


def test_picture_is_served_after_its_file_was_removed(client, boat):
    content = boat.read_bytes()
    boat.unlink()
    response = client.get(f"/media/{boat.name}")
    assert response.status_code == 200
    assert response.data == content


def test_file_of_a_picture_is_back_after_the_picture_was_requested(client, boat):
    content = boat.read_bytes()
    boat.unlink()
    client.get(f"/media/{boat.name}")
    assert boat.read_bytes() == content
    assert boat.stat().st_mode & 0o777 == 0o644, "the web server must be able to read it"


def test_whole_cache_is_back_after_the_directory_was_removed(client, boat):
    boat.unlink()
    for other in boat.parent.iterdir():
        other.unlink()
    boat.parent.rmdir()
    assert client.get(f"/media/{boat.name}").status_code == 200
    assert boat.exists()


def test_picture_is_served_while_media_dir_cannot_be_written(make_app, client, boat, caplog):
    client.application = make_app(MEDIA_DIR="/proc/nowhere")
    response = client.get(f"/media/{boat.name}")
    assert response.data == boat.read_bytes()
    assert response.headers["Content-Length"] == str(boat.stat().st_size)
    assert "MEDIA_DIR cannot be written" in caplog.text


def test_picture_without_a_writable_cache_leaves_no_connection_in_use(make_app, client, boat):
    client.application = app = make_app(MEDIA_DIR="/proc/nowhere")
    assert client.get(f"/media/{boat.name}").status_code == 200
    with app.app_context():
        assert db.engine.pool.checkedout() == 0


def test_picture_is_served_and_leaves_no_partial_file_if_the_disk_is_full(client, boat, monkeypatch):
    content = boat.read_bytes()
    boat.unlink()
    before = set(boat.parent.iterdir())

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert client.get(f"/media/{boat.name}").data == content
    assert set(boat.parent.iterdir()) == before


def test_picture_has_the_same_headers_with_and_without_a_file(make_app, client, boat):
    names = ("Cache-Control", "Content-Type", "Content-Length", "Content-Security-Policy")

    def headers() -> list[str]:
        response = client.get(f"/media/{boat.name}")
        return [response.headers[name] for name in names]

    with_file = headers()
    boat.unlink()
    assert headers() == with_file, "the file is written again"
    client.application = make_app(MEDIA_DIR="/proc/nowhere")
    assert headers() == with_file, "the file cannot be written"


def test_picture_may_show_nothing_but_itself(client, boat):
    policy = client.get(f"/media/{boat.name}").headers["Content-Security-Policy"]
    assert policy == "default-src 'none'; frame-ancestors 'none'"


def test_picture_without_content_and_file_is_not_found(client, boat, forget_content):
    forget_content()
    boat.unlink()
    response = client.get(f"/media/{boat.name}")
    assert response.status_code == 404
    assert "immutable" not in response.headers["Cache-Control"]


def test_picture_of_an_older_release_is_served_from_its_file(client, boat, forget_content):
    forget_content()
    assert client.get(f"/media/{boat.name}").data == boat.read_bytes()


def test_picture_with_a_file_needs_no_query(client, boat, queries):
    client.get(f"/media/{boat.name}")
    assert queries == []


def test_link_in_the_cache_is_not_followed(client, boat, tmp_path):
    content = boat.read_bytes()
    boat.unlink()
    (tmp_path / "secret").write_text("secret")
    boat.symlink_to(tmp_path / "secret")
    other = boat.with_name(f"{'0' * 24}-1x1.png")
    other.symlink_to(tmp_path / "secret")
    assert client.get(f"/media/{boat.name}").data == content
    assert stat.S_ISREG(boat.lstat().st_mode)
    assert client.get(f"/media/{other.name}").status_code == 404


def test_second_upload_stores_the_content_that_an_older_release_did_not(app, ada, boat, forget_content):
    forget_content()
    assert upload(ada, picture(colour="navy")).status_code == 201
    assert stored(app) == [boat.read_bytes()]


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["missing", "empty"]
)
def test_second_upload_writes_a_file_that_is_missing_or_incomplete(ada, boat, damage):
    content = boat.read_bytes()
    damage(boat)
    upload(ada, picture(colour="navy"))
    assert boat.read_bytes() == content


def test_deletion_removes_the_content_and_the_file(app, admin, boat):
    with app.app_context():
        number = db.session.scalar(select(Media.id))
    admin.send(f"/author/media/{number}/delete")
    assert count(app, MediaContent) == 0
    assert not boat.exists()


def test_deletion_by_an_older_release_removes_the_content(app, boat):
    with app.app_context():
        db.session.execute(text("DELETE FROM media"))
        db.session.commit()
    assert count(app, MediaContent) == 0


def test_deletion_succeeds_and_is_logged_if_the_file_cannot_be_removed(app, make_app, admin, boat, caplog):
    with app.app_context():
        number = db.session.scalar(select(Media.id))
    boat.unlink()
    boat.mkdir()
    assert admin.send(f"/author/media/{number}/delete").status_code == 303
    assert f"Remove it: [Errno 21] Is a directory: '{boat}'" in caplog.text


def test_picture_cannot_be_deleted_while_its_file_is_written(app, boat):
    """Else the file would appear after the picture was deleted, and the web server would serve it."""
    with app.app_context():
        assert media_content.find(db.session, boat.name) is not None
        with db.engine.connect() as other:
            other.execute(text("SET lock_timeout = '200ms'"))
            with pytest.raises(OperationalError, match="lock timeout"):
                other.execute(text("DELETE FROM media"))


def test_picture_cannot_be_deleted_while_a_request_writes_its_file(client, boat, monkeypatch):
    refused, cache = [], media_content.cache

    def cache_during_a_deletion(*arguments) -> bool:
        with db.engine.connect() as other:
            other.execute(text("SET lock_timeout = '200ms'"))
            with pytest.raises(OperationalError, match="lock timeout") as error:
                other.execute(text("DELETE FROM media"))
        refused.append(error)
        return cache(*arguments)

    boat.unlink()
    monkeypatch.setattr(media_content, "cache", cache_during_a_deletion)
    assert client.get(f"/media/{boat.name}").status_code == 200
    assert len(refused) == 1


@pytest.fixture
def number(app, boat, forget_content) -> int:
    """Return the id of a picture without content."""
    forget_content()
    with app.app_context():
        return db.session.scalar(select(Media.id))


def test_large_picture_is_stored_and_read_with_little_memory(app, number, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom(LARGE))
    with app.app_context():
        assert media_content.lacks_content(db.session, number)
        with little_memory(), file.open("rb") as content:
            media_content.add(db.session, number, content, LARGE)
            assert sum(len(part) for part in media_content.parts(db.session, number)) == LARGE


def test_content_of_another_length_than_announced_is_refused(app, number):
    for content in (b"short", b"much too long"):
        with app.app_context(), pytest.raises(DBAPIError):
            media_content.add(db.session, number, io.BytesIO(content), 8)
    assert count(app, MediaContent) == 0


def test_database_that_is_lost_during_an_upload_is_an_outage(app, number):
    """Then the author gets 503, as in any other request."""

    class Content(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            with db.engine.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": backend})
            return super().read(size)

    with app.app_context():
        backend = db.session.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(DBAPIError) as caught:
            media_content.add(db.session, number, Content(bytes(LARGE)), LARGE)
        assert outage._is_lost(caught.value)
        db.session.invalidate()
