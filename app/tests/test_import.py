import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from blog import articles
from blog.models import Post, db

POSTS = Path(__file__).parent / "posts"


@pytest.fixture
def run(runner):
    """Run `flask import`, and return its exit status and its JSON or its problems."""

    def run(*arguments):
        result = runner.invoke(args=["import", *map(str, arguments)])
        if result.exit_code == 0:
            return json.loads(result.stdout)
        assert result.exit_code == 1, result.stderr
        assert result.stdout == ""
        return result.stderr.splitlines()[:-1]

    return run


@pytest.fixture
def post(app):
    def post(slug: str) -> dict[str, object]:
        names = ("title", "summary", "author", "published_at", "updated_at", "body")
        with app.app_context():
            found = db.session.scalars(select(Post).where(Post.slug == slug)).one()
            return {name: getattr(found, name) for name in names} | {
                "tags": {tag.slug: tag.name for tag in found.tags}
            }

    return post


def counts(**changed: int) -> dict[str, object]:
    outcomes = {"created": 0, "updated": 0, "skipped": 0, "unchanged": 0} | changed
    return {"changed": bool(outcomes["created"] or outcomes["updated"]), **outcomes}


def article(folder: Path, name: str = "a.md", *, header: str = "title: A\ndate: 2025-01-01", body="Text."):
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f"---\n{header}\n---\n\n{body}\n", encoding="utf-8")
    return path


def test_both_shapes_of_front_matter(run, post):
    assert run(POSTS) == counts(created=2)
    boat = post("moving-a-boat")
    assert boat["title"] == "Moving a boat with Pandoc"
    assert boat["author"] == "Ada Quay"
    assert boat["published_at"] == boat["updated_at"] == datetime(2025, 3, 9, 16, 8, tzinfo=UTC)
    assert boat["tags"] == {"pandoc": "pandoc", "export": "export", "harbour": "Harbour"}
    assert boat["summary"].startswith("A boat on land is heavy")
    ropes = post("ropes-a-table")
    assert ropes["author"] == "The crew"
    assert ropes["published_at"] == datetime(2025, 4, 1, 8, tzinfo=UTC)
    assert ropes["tags"] == {"harbour": "Harbour", "ropes": "Ropes"}
    assert run(POSTS) == counts(unchanged=2)


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2025-01-31", datetime(2025, 1, 31, tzinfo=UTC)),
        ("2025-01-31 16:08", datetime(2025, 1, 31, 16, 8, tzinfo=UTC)),
        ("2025-01-31T16:08:09Z", datetime(2025, 1, 31, 16, 8, 9, tzinfo=UTC)),
        ("2025-01-31 16:08:00 +0200", datetime(2025, 1, 31, 14, 8, tzinfo=UTC)),
        ('"2025-01-31"', datetime(2025, 1, 31, tzinfo=UTC)),
    ],
)
def test_dates(run, post, tmp_path, date, expected):
    run(article(tmp_path, header=f"title: A\ndate: {date}"))
    assert post("a")["published_at"] == expected


def test_the_other_fields(run, post, tmp_path):
    header = "Title: A\nDate: 2025-01-01\nAuthors: B, C\n    and D\nModified: 2025-02-01\nDescription: Short."
    (tmp_path / "x.md").write_bytes(
        b"\xef\xbb\xbf" + f"{header}\n\n    code\n".replace("\n", "\r\n").encode()
    )
    assert run(tmp_path) == counts(created=1)
    assert post("a") == {
        "title": "A",
        "summary": "Short.",
        "author": "B, C, and D",
        "published_at": datetime(2025, 1, 1, tzinfo=UTC),
        "updated_at": datetime(2025, 2, 1, tzinfo=UTC),
        "body": "    code",
        "tags": {},
    }


@pytest.mark.parametrize("header", ["title: A\nstatus: draft", "title: A\ndraft: true\ndate: 2025-01-01"])
def test_a_draft_is_imported_but_not_shown(run, post, client, tmp_path, header):
    assert run(article(tmp_path, header=header)) == counts(created=1)
    assert post("a")["published_at"] is None
    assert client.get("/posts/a").status_code == 404
    assert run(tmp_path) == counts(unchanged=1)


def test_a_title_without_ascii_takes_the_name_of_the_file(run, post, tmp_path):
    run(article(tmp_path, "Salt Water.md", header="title: 水\ndate: 2025-01-01"))
    assert post("salt-water")["title"] == "水"


def test_what_is_already_there(run, post, tmp_path):
    run(article(tmp_path))
    article(tmp_path, body="Other.")
    [problem] = run(tmp_path)
    assert problem == (
        f"{tmp_path}/a.md:2: the blog has a post 'a' with other content; "
        "choose --existing update to replace it or --existing skip to keep it"
    )
    assert run(tmp_path, "--existing", "skip") == counts(skipped=1)
    assert post("a")["body"] == "Text."
    assert run(tmp_path, "--existing", "update") == counts(updated=1)
    assert post("a")["body"] == "Other."
    assert post("a")["updated_at"].year > 2025
    assert run(tmp_path, "--existing", "update") == counts(unchanged=1)


def test_update_renders_again_what_another_release_rendered(app, run, post, tmp_path):
    run(article(tmp_path))
    with app.app_context():
        db.session.scalars(select(Post)).one().body_html = "<p>of an older release</p>"
        db.session.commit()
    assert run(tmp_path) == counts(unchanged=1)
    assert run(tmp_path, "--existing", "update") == counts(updated=1)
    assert post("a")["updated_at"] == post("a")["published_at"]
    assert run(tmp_path, "--existing", "update") == counts(unchanged=1)


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
        (b"---\ntitle: A\ndate: 2025-13-45\n---\nText.", 3, "'2025-13-45'; write it like"),
        (b"---\ntitle: A\ndate: yesterday\n---\nText.", 3, "'yesterday'"),
        (b"---\ntitle: A\ndate: 2025-01-01\nupdated: soon\n---\nText.", 4, "the updated 'soon'"),
        (b"---\ntitle: A\nb: c: d\n---\nText.", 3, "is not YAML: mapping values are not allowed here"),
        (b"---\ntitle: [A\n---\nText.", 3, "is not YAML"),
        (b"---\n" + b"[" * 5000 + b"\n---\nText.", 2, "nests too deeply"),
        (b"---\n- a\n---\nText.", 2, "no list of keys"),
        (b"---\ntitle: A\ndate: 2025-01-01\n---\n", 5, "has no text"),
        (b"---\ntitle: A\ndate: 2025-01-01\nslug: a/b\n---\nText.", 4, "slug 'a/b'; set `slug:`"),
        ("---\ntitle: A\ndate: 2025-01-01\ntags: [水]\n---\nText.".encode(), 4, "the tag '水'"),
        (b"---\ntitle: A\ndate: 2025-01-01\nstatus: hidden\n---\nText.", 4, "'hidden'; write `published`"),
        (b"---\ntitle: A\n---\nOne\nTw\xff", 5, "is not UTF-8 (byte 23 of the file); save it"),
        (b"---\ntitle: A\n---\nOne\nTw\x00", 5, "control character U+0000; remove it"),
        (b"---\ntitle: A\n---\nOne\x1b[0m", 4, "control character U+001B"),
        (pelican("Text without an empty line before it\n\nMore."), 3, "is no `Key: value` line"),
    ],
)
def test_a_problem_is_named_with_its_line(run, app, tmp_path, content, line, words):
    (tmp_path / "good.md").write_bytes(pelican("Slug: good\n\nText."))
    bad = tmp_path / "bad.md"
    bad.write_bytes(content)
    [problem] = run(tmp_path)
    assert problem.startswith(f"{bad}:{line}: ")
    assert words in problem
    with app.app_context():
        assert db.session.scalar(select(func.count(Post.id))) == 0


def test_all_problems_of_all_files_are_listed(run, tmp_path):
    article(tmp_path, "a.md", header="date: never\nslug: '!'")
    article(tmp_path, "b.md", header="title: B")
    assert [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in run(tmp_path)] == [
        "a.md:1",
        "a.md:2",
        "a.md:3",
        "b.md:1",
    ]


def test_two_files_with_one_slug(run, tmp_path):
    first, second = article(tmp_path, "a.md"), article(tmp_path, "sub/b.md")
    assert run(tmp_path) == [f"{second}:2: has the slug of {first}, 'a'; change one"]


def test_a_huge_file_is_refused_unread(run, tmp_path, monkeypatch):
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}"))
    [problem] = run(tmp_path)
    assert "52428800 bytes, over the limit of 1114112; split it" in problem


def test_a_file_at_the_limit_is_taken(run, tmp_path):
    path = article(tmp_path, body="x")
    article(tmp_path, body="x" * articles.MAX_BYTES)
    assert path.stat().st_size > articles.MAX_BYTES
    assert run(tmp_path) == counts(created=1)
    article(tmp_path, body="x" * (articles.MAX_BYTES + 1))
    [problem] = run(tmp_path)
    assert "a.md:5: has a text over the limit of 1048576 bytes; split it" in problem


def test_nothing_to_import(run, tmp_path):
    (tmp_path / "notes.txt").write_text("not Markdown")
    assert run(tmp_path) == [f"{tmp_path}: holds no file *.md; name a directory that does"]
    missing = tmp_path / "missing"
    assert run(missing) == [
        f"{missing}: does not exist; name a Markdown file, or a directory with some",
    ]


def test_links_out_of_the_directory_are_not_followed(run, tmp_path):
    outside = article(tmp_path / "outside")
    inside = tmp_path / "inside"
    article(inside, "b.md", header="title: B\ndate: 2025-01-01")
    (inside / "folder").symlink_to(outside.parent)
    (inside / "c.md").symlink_to("b.md")
    assert run(inside) == [f"{inside}/c.md:2: has the slug of {inside}/b.md, 'b'; change one"]
    (inside / "c.md").unlink()
    assert run(inside) == counts(created=1)
    (inside / "link.md").symlink_to(outside)
    [problem] = run(inside)
    assert problem.startswith(f"{inside}/link.md:1: is a link that leads out of")
