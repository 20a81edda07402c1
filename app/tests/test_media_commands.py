"""`flask media adopt`, which stores the files of older releases in Postgres, and `flask media fill`."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from blog import media_content
from blog.models import Media, MediaContent, db

from .browser import APP
from .conftest import count

CONTENTS = [f"picture {number}".encode() for number in range(3)]


@pytest.fixture
def media_dir(app, monkeypatch, tmp_path) -> Path:
    """Give the app an empty directory of pictures."""
    monkeypatch.setitem(app.config, "MEDIA_DIR", tmp_path / "media")
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


@pytest.fixture
def files(app, media_dir) -> list[Path]:
    """Store pictures as an older release does, without their content, and return their files."""
    files = []
    with app.app_context():
        for content in CONTENTS:
            file = media_dir / f"{hashlib.sha256(content).hexdigest()[:24]}-1x1.png"
            file.write_bytes(content)
            size = {"width": 1, "height": 1, "size_bytes": len(content)}
            db.session.add(Media(name=file.name, mime="image/png", original_name="", **size))
            files.append(file)
        db.session.commit()
    return files


@pytest.fixture
def run(runner):
    """Return a function that runs `flask media` with a command, and returns its JSON."""

    def run(command: str) -> dict[str, object]:
        result = runner.invoke(args=["media", command])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run


def stored(app) -> list[bytes]:
    with app.app_context():
        return list(db.session.scalars(select(MediaContent.content).order_by(MediaContent.media_id)))


def adopted(number: int, missing: list[Path] = (), damaged: list[Path] = ()) -> dict[str, object]:
    names = {"missing": [file.name for file in missing], "damaged": [file.name for file in damaged]}
    return {"changed": number > 0, "adopted": number, **names}


def test_adopt_stores_the_pictures_of_an_older_release(app, files, run):
    assert run("adopt") == adopted(3)
    assert stored(app) == CONTENTS


def test_adopt_removes_no_file(files, run):
    run("adopt")
    assert [file.read_bytes() for file in files] == CONTENTS


def test_second_adopt_changes_nothing(files, run):
    run("adopt")
    assert run("adopt") == adopted(0)


def test_adopt_takes_over_a_picture_that_an_older_release_stored_later(app, files, run):
    with app.app_context():
        db.session.execute(delete(Media).where(Media.name == files[2].name))
        db.session.commit()
    run("adopt")
    with app.app_context():
        size = {"width": 1, "height": 1, "size_bytes": len(CONTENTS[2])}
        db.session.add(Media(name=files[2].name, mime="image/png", original_name="", **size))
        db.session.commit()
    assert run("adopt") == adopted(1)
    assert stored(app) == CONTENTS


def test_adopt_names_a_picture_whose_file_is_missing(files, run):
    files[1].unlink()
    assert run("adopt") == adopted(2, missing=[files[1]])


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"another picture"),
        lambda file: file.write_bytes(b""),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["other content", "empty", "unreadable"],
)
def test_adopt_names_a_picture_whose_file_is_damaged(app, files, run, damage):
    damage(files[1])
    assert run("adopt") == adopted(2, damaged=[files[1]])
    assert stored(app) == [CONTENTS[0], CONTENTS[2]]


def test_adopt_names_a_picture_whose_file_has_another_size_than_its_row(app, files, run):
    with app.app_context():
        db.session.scalars(select(Media).where(Media.name == files[0].name)).one().size_bytes = 1
        db.session.commit()
    assert run("adopt") == adopted(2, damaged=[files[0]])


def test_adopt_keeps_the_pictures_that_it_stored_before_it_was_interrupted(app, files, monkeypatch, runner):
    real = media_content.add

    def interrupted(session, number, content, size):
        if content.name == str(files[1]):
            raise KeyboardInterrupt
        real(session, number, content, size)

    monkeypatch.setattr(media_content, "add", interrupted)
    assert runner.invoke(args=["media", "adopt"]).exit_code != 0
    assert stored(app) == CONTENTS[:1]


def test_two_simultaneous_adopts_succeed(app, settings, files, media_dir):
    env = os.environ | settings | {"FLASK_APP": "wsgi", "MEDIA_DIR": str(media_dir)}
    command = [sys.executable, "-m", "flask", "media", "adopt"]
    running = [
        subprocess.Popen(command, cwd=APP, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=30) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert sum(json.loads(stdout)["adopted"] for stdout, _ in outputs) == 3
    assert stored(app) == CONTENTS


def test_adopt_waits_for_an_upload_of_the_same_picture(app, files):
    with app.app_context():
        number = db.session.scalar(select(Media.id).where(Media.name == files[0].name))
        assert media_content.lacks_content(db.session, number)
        with db.engine.connect() as other:
            unlocked = select(Media.id).with_for_update(key_share=True, skip_locked=True)
            assert number not in other.scalars(unlocked).all()


def test_adopt_ignores_files_that_belong_to_no_picture(app, media_dir, run):
    (media_dir / ".lock").touch()
    (media_dir / f"{'0' * 24}-1x1.png").touch()
    assert run("adopt") == adopted(0)
    assert count(app, MediaContent) == 0


def test_fill_writes_the_files_that_the_cache_lacks(files, run):
    run("adopt")
    files[0].unlink()
    files[1].write_bytes(b"incomplete")
    assert run("fill") == {"changed": True, "filled": 2}
    assert [file.read_bytes() for file in files] == CONTENTS


def test_second_fill_changes_nothing(files, run):
    run("adopt")
    assert run("fill") == {"changed": False, "filled": 0}


def test_fill_reports_a_directory_that_cannot_be_written(app, files, run, runner, monkeypatch):
    run("adopt")
    monkeypatch.setitem(app.config, "MEDIA_DIR", Path("/proc/nowhere"))
    result = runner.invoke(args=["media", "fill"])
    assert result.exit_code == 1
    assert "MEDIA_DIR cannot be written" in result.stderr
