"""The problems that `flask import` reports, and the files that it refuses."""

import os
from pathlib import Path

import pytest
from sqlalchemy import update

from blog import importer, models
from blog.importer import texts
from blog.models import Post, db

from .articles import article, counts
from .conftest import count


def test_import_fails_if_somebody_saves_the_post_at_the_same_time(run_import, tmp_path, monkeypatch):
    run_import(article(tmp_path))
    article(tmp_path, body="Other.")
    fill = texts.Posts._fill

    def meanwhile(*arguments):
        with db.engine.begin() as connection:
            connection.execute(update(Post).values(version=Post.version + 1))
        fill(*arguments)

    monkeypatch.setattr(texts.Posts, "_fill", meanwhile)
    assert run_import(tmp_path, "--existing", "update") == []
    monkeypatch.undo()
    assert run_import(tmp_path, "--existing", "update") == counts(updated=1)


def test_import_reports_an_unreadable_folder(run_import, tmp_path, monkeypatch):
    article(tmp_path, "a.md")
    article(tmp_path, "closed/b.md", header="title: B\ndate: 2025-01-01")

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)  # simulate the error, because root may read any directory
    assert run_import(tmp_path) == [
        f"{tmp_path}/closed: cannot be read (Permission denied); make it readable"
    ]


def test_import_of_a_single_readme_requires_front_matter(run_import, tmp_path):
    (tmp_path / "README.md").write_text("# Hello\n")
    [problem] = run_import(tmp_path / "README.md")
    assert "has no front matter" in problem


def test_import_fails_if_a_file_changes_at_the_same_time(run_import, app, tmp_path, monkeypatch):
    article(tmp_path, "a.md", header="title: A\ndate: 2025-01-01")
    path = article(tmp_path, "b.md", header="title: B\ndate: 2025-01-01")
    check = importer.check_addresses

    def meanwhile(*arguments):
        check(*arguments)
        article(tmp_path, "b.md", header="title: C\ndate: 2025-01-01")

    monkeypatch.setattr(importer, "check_addresses", meanwhile)
    assert run_import(tmp_path) == [f"{path}:1: changed during the import; import again"]
    assert count(app, Post) == 0


def pelican(text: str) -> bytes:
    return f"Title: A\nDate: 2025-01-01\n{text}".encode()


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"# Hello\n", 1, "has no front matter; begin it with"),
        (b"", 1, "has no front matter"),
        (b"---\ntitle: A\n", 1, "never ends; close it"),
        (b"---\ndate: 2025-01-01\n---\nText.", 1, "has no title; add a line"),
        (b"---\ntitle:\ndate: 2025-01-01\n---\nText.", 2, "has no title"),
        (b"---\ntitle: A\n---\nText.", 1, "has no date; add a line"),
        (b"---\ntitle: A\ndate: 2025-13-45\n---\nText.", 3, "in the field date: '2025-13-45'; write it like"),
        (b"---\ntitle: A\ndate: yesterday\n---\nText.", 3, "'yesterday'"),
        (
            b"---\ntitle: A\ndate: 2025-01-01\nupdated: soon\n---\nText.",
            4,
            "a date that is not valid in the field updated: 'soon'",
        ),
        (b"---\ntitle: A\nb: c: d\n---\nText.", 3, "is not YAML: mapping values are not allowed here"),
        (b"---\ntitle: [A\n---\nText.", 3, "is not YAML"),
        (b"---\n" + b"[" * 5000 + b"\n---\nText.", 2, "nests too deeply"),
        (b"---\n- a\n---\nText.", 2, "does not consist of keys"),
        (b"---\ntitle: A\ndate: 2025-01-01\n---\n", 5, "has no text"),
        (
            b"---\ntitle: A\ndate: 2025-01-01\nslug: a/b\n---\nText.",
            4,
            "a slug that is not valid: 'a/b'; set `slug:`",
        ),
        (
            "---\ntitle: A\ndate: 2025-01-01\ntags: [\u200b]\n---\nText.".encode(),
            4,
            "a tag that is not valid",
        ),
        (pelican(f"Tags: {'x' * 201}\n\nText."), 3, "use at most 200 characters"),
        (pelican("Lang: English\n\nText."), 3, "a language that is not valid: 'English'; write a tag"),
        (b"---\ntitle: A\n---\nOne\nTw\xff", 5, "is not UTF-8 (byte 23 of the file); save it"),
        (b"---\ntitle: A\n---\nOne\nTw\x00", 5, "control character U+0000; remove it"),
        (b"---\ntitle: A\n---\nOne\x1b[0m", 4, "control character U+001B"),
        (pelican("Text without an empty line before it\n\nMore."), 3, "is not a `Key: value` line"),
    ],
)
def test_import_reports_a_problem_with_its_line(run_import, app, tmp_path, content, line, words):
    (tmp_path / "good.md").write_bytes(pelican("Slug: good\n\nText."))
    bad = tmp_path / "bad.md"
    bad.write_bytes(content)
    [problem] = run_import(tmp_path)
    assert problem.startswith(f"{bad}:{line}: ")
    assert words in problem
    assert count(app, Post) == 0


def test_import_lists_all_problems_of_all_files(run_import, tmp_path):
    article(tmp_path, "a.md", header="date: never\nslug: '!'")
    article(tmp_path, "b.md", header="title: B")
    assert [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in run_import(tmp_path)] == [
        "a.md:1",
        "a.md:2",
        "a.md:3",
        "b.md:1",
    ]


def test_import_refuses_two_files_with_the_same_slug(run_import, tmp_path):
    first, second = article(tmp_path, "a.md"), article(tmp_path, "sub/b.md")
    assert run_import(tmp_path) == [f"{second}:2: has the same slug as {first}, 'a'; change one slug"]


def test_import_refuses_a_huge_file_without_reading_it(run_import, tmp_path, monkeypatch):
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}"))
    [problem] = run_import(tmp_path)
    assert "52428800 bytes, over the limit of 1114112; split it" in problem


def test_import_accepts_a_text_of_exactly_the_limit(run_import, tmp_path):
    path = article(tmp_path, body="x")
    article(tmp_path, body="x" * models.MAX_BYTES)
    assert path.stat().st_size > models.MAX_BYTES
    assert run_import(tmp_path) == counts(created=1)
    article(tmp_path, body="x" * (models.MAX_BYTES + 1))
    [problem] = run_import(tmp_path)
    assert "a.md:5: has a text over the limit of 1048576 bytes; split it" in problem


def test_import_reports_a_source_without_markdown_files(run_import, tmp_path):
    (tmp_path / "notes.txt").write_text("not Markdown")
    assert run_import(tmp_path) == [
        f"{tmp_path}: contains no Markdown files (*.md, *.markdown, *.mdown, *.mdwn, *.mkd or *.mkdn); "
        "name another directory"
    ]
    missing = tmp_path / "missing"
    assert run_import(missing) == [
        f"{missing}: does not exist; name a Markdown file, or a directory with Markdown files",
    ]


def test_import_does_not_follow_links_out_of_the_directory(run_import, tmp_path):
    outside = article(tmp_path / "outside")
    inside = tmp_path / "inside"
    article(inside, "b.md", header="title: B\ndate: 2025-01-01")
    (inside / "folder").symlink_to(outside.parent)
    (inside / "c.md").symlink_to("b.md")
    assert run_import(inside) == [
        f"{inside}/c.md:2: has the same slug as {inside}/b.md, 'b'; change one slug"
    ]
    (inside / "c.md").unlink()
    assert run_import(inside) == counts(created=1, ignored=1) | {"ignored_files": ["folder"]}
    (inside / "link.md").symlink_to(outside)
    [problem] = run_import(inside)
    assert problem.startswith(f"{inside}/link.md:1: is a link to a file outside")
