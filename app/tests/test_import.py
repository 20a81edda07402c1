import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from blog import articles, importer
from blog.importer import texts
from blog.models import Post, db

POSTS = Path(__file__).parent / "posts"


@pytest.fixture
def run(runner):
    """Run `flask import`, and return its JSON or the lines of its problems."""

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
    outcomes = {"created": 0, "updated": 0, "skipped": 0, "unchanged": 0, "ignored": 0} | changed
    return {"changed": bool(outcomes["created"] or outcomes["updated"]), **outcomes, "ignored_files": []}


def article(folder: Path, name: str = "a.md", *, header: str = "title: A\ndate: 2025-01-01", body="Text."):
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f"---\n{header}\n---\n\n{body}\n", encoding="utf-8")
    return path


def test_import_reads_yaml_and_pelican_front_matter(run, post):
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
def test_import_reads_dates_of_several_formats(run, post, tmp_path, date, expected):
    run(article(tmp_path, header=f"title: A\ndate: {date}"))
    assert post("a")["published_at"] == expected


def test_import_reads_all_fields_of_a_pelican_file(run, post, tmp_path):
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


DATED = "title: A\ndate: 2025-01-01"
TRUE = ["true", "True", "TRUE", "yes", "Yes", "on", "y", "1", '"true"', "[true]"]
FALSE = ["false", "False", "no", "NO", "off", "n", "0", "'no'"]


@pytest.mark.parametrize(
    "lines",
    [
        *(f"draft: {value}" for value in TRUE),
        *(f"published: {value}" for value in FALSE),
        "Draft: yes",
        "isDraft: true",
        "is_draft: true",
        "private: true",
        "publish: false",
        "public: false",
        "status: draft",
        "Status: Private",
        "status: skip",
        "status: pending",
        "visibility: private",
        "published: true\nprivate: true",
        "draft: true\npassword: secret\nexpiryDate: 2026-01-01",
    ],
)
def test_unpublished_post_of_another_program_becomes_a_draft(run, post, client, tmp_path, lines):
    assert run(article(tmp_path, header=f"{DATED}\n{lines}")) == counts(created=1)
    assert post("a")["published_at"] is None
    assert client.get("/posts/a").status_code == 404
    assert run(tmp_path) == counts(unchanged=1)


def test_draft_needs_no_date(run, post, tmp_path):
    run(article(tmp_path, header="title: A\ndraft: 1"))
    assert post("a")["published_at"] is None


@pytest.mark.parametrize("header", ["Draft: yes", "Published: no", "Status: draft", "Private: True"])
def test_draft_of_pelican_becomes_a_draft(run, post, tmp_path, header):
    (tmp_path / "a.md").write_text(f"Title: A\nDate: 2025-01-01\n{header}\n\nText.\n")
    assert run(tmp_path) == counts(created=1)
    assert post("a")["published_at"] is None


@pytest.mark.parametrize("folder", ["_drafts", "Drafts", "blog/_drafts/2025"])
def test_post_in_a_folder_of_drafts_becomes_a_draft(run, post, tmp_path, folder):
    article(tmp_path / folder)
    assert run(tmp_path) == counts(created=1)
    assert post("a")["published_at"] is None
    article(tmp_path / folder, body="Other.")
    assert run(tmp_path / folder / "a.md", "--existing", "update") == counts(updated=1)
    assert post("a")["published_at"] is None


@pytest.mark.parametrize(
    "lines",
    [
        *(f"draft: {value}" for value in FALSE),
        *(f"published: {value}" for value in TRUE),
        "status: published",
        "status: publish",
        "visibility: public",
        "private: no",
        'password: ""',
        "unlisted: false",
        "expiryDate:",
    ],
)
def test_published_post_of_another_program_becomes_public(run, post, tmp_path, lines):
    assert run(article(tmp_path, header=f"{DATED}\n{lines}")) == counts(created=1)
    assert post("a")["published_at"] == datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("draft: maybe", "has the unknown draft 'maybe'; write `false` or `true`"),
        ("draft:", "has the unknown draft ''; write `false` or `true`"),
        ("draft: {no: no}", "has the unknown draft ''; write `false` or `true`"),
        ("published: 2025-01-01", "has the unknown published '2025-01-01'; write `true` or `false`"),
        ("private: 2", "has the unknown private '2'"),
        ("status: hidden", "has the unknown status 'hidden'; write `published` or `draft`"),
        ("status: inherit", "has the unknown status 'inherit'"),
        ("status:", "has the unknown status ''"),
        ("visibility: members", "has the unknown visibility 'members'; write `public` or `private`"),
        ("password: secret", "has the field password"),
        ("unlisted: true", "has the field unlisted"),
        ("hidden: yes", "has the field hidden"),
        ("headless: true", "has the field headless"),
        ("expiryDate: 2024-01-01", "has the field expirydate, which the blog does not support"),
        ("expiry_date: 2099-01-01", "write `status: draft`, or remove the line"),
        ("unpublishDate: 2099-01-01", "has the field unpublishdate"),
        ("<<: {draft: true}", "write every field out"),
        ("publishDate: soon", "has the wrong publishdate 'soon'"),
    ],
)
def test_import_refuses_a_post_with_an_unclear_audience(run, app, tmp_path, line, words):
    path = article(tmp_path, header=f"{DATED}\n{line}")
    [problem] = run(tmp_path)
    assert problem.startswith(f"{path}:4: ")
    assert words in problem
    with app.app_context():
        assert db.session.scalar(select(func.count(Post.id))) == 0


@pytest.mark.parametrize("name", ["publishDate", "pubdate", "publish_date"])
def test_post_with_a_future_publish_date_is_scheduled(run, post, client, tmp_path, name):
    run(article(tmp_path, header=f"{DATED}\n{name}: 2199-01-01"))
    assert post("a")["published_at"] == datetime(2199, 1, 1, tzinfo=UTC)
    assert client.get("/posts/a").status_code == 404
    run(article(tmp_path, "b.md", header=f"title: B\n{name}: 2025-01-01"))
    assert post("b")["published_at"] == datetime(2025, 1, 1, tzinfo=UTC), "instead of a date"


def test_import_reads_all_markdown_files_and_reports_other_files(run, post, runner, tmp_path):
    for number, suffix in enumerate(("md", "markdown", "MD", "Markdown", "mdown", "mkd", "mkdn", "mdwn")):
        article(tmp_path, f"{number}.{suffix}", header=f"title: T{number}\ndate: 2025-01-01")
    for name in ("b/one.rst", "b/two.rst", "c.html", "LICENSE", "picture.png", ".git/config", ".DS_Store"):
        article(tmp_path, name)
    (tmp_path / "README.md").write_text("# How to write\n")
    article(tmp_path, ".trash/deleted.md", header="title: D\ndate: 2025-01-01")
    article(tmp_path, "e/README.md", header="title: E\ndate: 2025-01-01")
    (tmp_path / "folder").symlink_to(tmp_path)
    named = [".trash/deleted.md", "LICENSE", "b/one.rst", "c.html", "picture.png"]
    told = run(tmp_path)
    assert told == counts(created=9, ignored=8) | {"ignored_files": named}
    said = runner.invoke(args=["import", str(tmp_path)]).stderr
    assert "Ignored: 8 files, such as .trash/deleted.md, LICENSE, b/one.rst, c.html" in said


def test_import_fails_if_somebody_saves_the_post_at_the_same_time(run, tmp_path, monkeypatch):
    run(article(tmp_path))
    article(tmp_path, body="Other.")
    fill = texts.Posts._fill

    def meanwhile(*arguments):
        with db.engine.begin() as connection:
            connection.execute(update(Post).values(version=Post.version + 1))
        fill(*arguments)

    monkeypatch.setattr(texts.Posts, "_fill", meanwhile)
    assert run(tmp_path, "--existing", "update") == []
    monkeypatch.undo()
    assert run(tmp_path, "--existing", "update") == counts(updated=1)


def test_import_reports_an_unreadable_folder(run, tmp_path, monkeypatch):
    article(tmp_path, "a.md")
    article(tmp_path, "closed/b.md", header="title: B\ndate: 2025-01-01")

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)  # simulated, because root may read everything
    assert run(tmp_path) == [f"{tmp_path}/closed: cannot be read (Permission denied); make it readable"]


def test_import_of_a_single_readme_requires_front_matter(run, tmp_path):
    (tmp_path / "README.md").write_text("# Hello\n")
    [problem] = run(tmp_path / "README.md")
    assert "has no front matter" in problem


def test_import_fails_if_a_file_changes_at_the_same_time(run, app, tmp_path, monkeypatch):
    article(tmp_path, "a.md", header="title: A\ndate: 2025-01-01")
    path = article(tmp_path, "b.md", header="title: B\ndate: 2025-01-01")
    check = importer.check_addresses

    def meanwhile(*arguments):
        check(*arguments)
        article(tmp_path, "b.md", header="title: C\ndate: 2025-01-01")

    monkeypatch.setattr(importer, "check_addresses", meanwhile)
    assert run(tmp_path) == [f"{path}:1: changed during the import; import again"]
    with app.app_context():
        assert db.session.scalar(select(func.count(Post.id))) == 0


def test_post_with_a_title_without_ascii_gets_its_slug_from_the_file_name(run, post, tmp_path):
    run(article(tmp_path, "Salt Water.md", header="title: 水\ndate: 2025-01-01"))
    assert post("salt-water")["title"] == "水"


def test_option_existing_applies_to_posts(run, post, tmp_path):
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


def test_update_renders_html_of_another_release_again(app, run, post, tmp_path):
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
        (b"---\ntitle: A\ndate: 2025-01-01\nupdated: soon\n---\nText.", 4, "the wrong updated 'soon'"),
        (b"---\ntitle: A\nb: c: d\n---\nText.", 3, "is not YAML: mapping values are not allowed here"),
        (b"---\ntitle: [A\n---\nText.", 3, "is not YAML"),
        (b"---\n" + b"[" * 5000 + b"\n---\nText.", 2, "nests too deeply"),
        (b"---\n- a\n---\nText.", 2, "does not consist of keys"),
        (b"---\ntitle: A\ndate: 2025-01-01\n---\n", 5, "has no text"),
        (b"---\ntitle: A\ndate: 2025-01-01\nslug: a/b\n---\nText.", 4, "the wrong slug 'a/b'; set `slug:`"),
        ("---\ntitle: A\ndate: 2025-01-01\ntags: [水]\n---\nText.".encode(), 4, "the wrong tag '水'"),
        (b"---\ntitle: A\n---\nOne\nTw\xff", 5, "is not UTF-8 (byte 23 of the file); save it"),
        (b"---\ntitle: A\n---\nOne\nTw\x00", 5, "control character U+0000; remove it"),
        (b"---\ntitle: A\n---\nOne\x1b[0m", 4, "control character U+001B"),
        (pelican("Text without an empty line before it\n\nMore."), 3, "is not a `Key: value` line"),
    ],
)
def test_import_reports_a_problem_with_its_line(run, app, tmp_path, content, line, words):
    (tmp_path / "good.md").write_bytes(pelican("Slug: good\n\nText."))
    bad = tmp_path / "bad.md"
    bad.write_bytes(content)
    [problem] = run(tmp_path)
    assert problem.startswith(f"{bad}:{line}: ")
    assert words in problem
    with app.app_context():
        assert db.session.scalar(select(func.count(Post.id))) == 0


def test_import_lists_all_problems_of_all_files(run, tmp_path):
    article(tmp_path, "a.md", header="date: never\nslug: '!'")
    article(tmp_path, "b.md", header="title: B")
    assert [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in run(tmp_path)] == [
        "a.md:1",
        "a.md:2",
        "a.md:3",
        "b.md:1",
    ]


def test_import_refuses_two_files_with_the_same_slug(run, tmp_path):
    first, second = article(tmp_path, "a.md"), article(tmp_path, "sub/b.md")
    assert run(tmp_path) == [f"{second}:2: has the same slug as {first}, 'a'; change one slug"]


def test_import_refuses_a_huge_file_without_reading_it(run, tmp_path, monkeypatch):
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}"))
    [problem] = run(tmp_path)
    assert "52428800 bytes, over the limit of 1114112; split it" in problem


def test_import_accepts_a_text_of_exactly_the_limit(run, tmp_path):
    path = article(tmp_path, body="x")
    article(tmp_path, body="x" * articles.MAX_BYTES)
    assert path.stat().st_size > articles.MAX_BYTES
    assert run(tmp_path) == counts(created=1)
    article(tmp_path, body="x" * (articles.MAX_BYTES + 1))
    [problem] = run(tmp_path)
    assert "a.md:5: has a text over the limit of 1048576 bytes; split it" in problem


def test_import_reports_a_source_without_markdown_files(run, tmp_path):
    (tmp_path / "notes.txt").write_text("not Markdown")
    assert run(tmp_path) == [
        f"{tmp_path}: contains no Markdown files (*.md, *.markdown, *.mdown, *.mdwn, *.mkd or *.mkdn); "
        "name another directory"
    ]
    missing = tmp_path / "missing"
    assert run(missing) == [
        f"{missing}: does not exist; name a Markdown file, or a directory with Markdown files",
    ]


def test_import_does_not_follow_links_out_of_the_directory(run, tmp_path):
    outside = article(tmp_path / "outside")
    inside = tmp_path / "inside"
    article(inside, "b.md", header="title: B\ndate: 2025-01-01")
    (inside / "folder").symlink_to(outside.parent)
    (inside / "c.md").symlink_to("b.md")
    assert run(inside) == [f"{inside}/c.md:2: has the same slug as {inside}/b.md, 'b'; change one slug"]
    (inside / "c.md").unlink()
    assert run(inside) == counts(created=1, ignored=1) | {"ignored_files": ["folder"]}
    (inside / "link.md").symlink_to(outside)
    [problem] = run(inside)
    assert problem.startswith(f"{inside}/link.md:1: is a link to a file outside")
