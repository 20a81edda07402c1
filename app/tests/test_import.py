"""The fields and the files that `flask import` reads, and its treatment of existing posts."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import select, update

from blog.models import Post, db

from .articles import article, counts
from .browser import POSTS


def test_import_reads_yaml_and_pelican_front_matter(run_import, post):
    assert run_import(POSTS) == counts(created=2)
    boat = post(slug="moving-a-boat")
    assert boat["title"] == "Moving a boat with Pandoc"
    assert boat["author"] == "Ada Quay"
    assert boat["published_at"] == boat["updated_at"] == datetime(2025, 3, 9, 16, 8, tzinfo=UTC)
    assert boat["tags_by_slug"] == {"pandoc": "pandoc", "export": "export", "harbour": "Harbour"}
    assert boat["summary"].startswith("A boat on land is heavy")
    ropes = post(slug="ropes-a-table")
    assert ropes["author"] == "The crew"
    assert ropes["published_at"] == datetime(2025, 4, 1, 8, tzinfo=UTC)
    assert ropes["tags_by_slug"] == {"harbour": "Harbour", "ropes": "Ropes"}
    assert run_import(POSTS) == counts(unchanged=2)


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
def test_import_reads_dates_of_several_formats(run_import, post, tmp_path, date, expected):
    run_import(article(tmp_path, header=f"title: A\ndate: {date}"))
    assert post(slug="a")["published_at"] == expected


def test_import_reads_all_fields_of_a_pelican_file(run_import, post, tmp_path):
    header = "Title: A\nDate: 2025-01-01\nAuthors: B, C\n    and D\nModified: 2025-02-01\nDescription: Short."
    (tmp_path / "x.md").write_bytes(
        b"\xef\xbb\xbf" + f"{header}\n\n    code\n".replace("\n", "\r\n").encode()
    )
    assert run_import(tmp_path) == counts(created=1)
    expected = {
        "title": "A",
        "summary": "Short.",
        "author": "B, C, and D",
        "published_at": datetime(2025, 1, 1, tzinfo=UTC),
        "updated_at": datetime(2025, 2, 1, tzinfo=UTC),
        "body": "    code",
        "tags": [],
    }
    found = post(slug="a")
    assert {name: found[name] for name in expected} == expected


def test_import_reads_all_markdown_files_and_reports_other_files(run_import, post, runner, tmp_path):
    for number, suffix in enumerate(("md", "markdown", "MD", "Markdown", "mdown", "mkd", "mkdn", "mdwn")):
        article(tmp_path, f"{number}.{suffix}", header=f"title: T{number}\ndate: 2025-01-01")
    for name in ("b/one.rst", "b/two.rst", "c.html", "LICENSE", "picture.png", ".git/config", ".DS_Store"):
        article(tmp_path, name)
    (tmp_path / "README.md").write_text("# How to write\n")
    article(tmp_path, ".trash/deleted.md", header="title: D\ndate: 2025-01-01")
    article(tmp_path, "e/README.md", header="title: E\ndate: 2025-01-01")
    (tmp_path / "folder").symlink_to(tmp_path)
    named = [".trash/deleted.md", "LICENSE", "b/one.rst", "c.html", "picture.png"]
    told = run_import(tmp_path)
    assert told == counts(created=9, ignored=8) | {"ignored_files": named}
    said = runner.invoke(args=["import", str(tmp_path)]).stderr
    assert "Ignored: 8 files, such as .trash/deleted.md, LICENSE, b/one.rst, c.html" in said


def test_post_with_a_title_without_letters_gets_its_slug_from_the_file_name(run_import, post, tmp_path):
    run_import(article(tmp_path, "Salt Water.md", header="title: 🚢\ndate: 2025-01-01"))
    assert post(slug="salt-water")["title"] == "🚢"


def test_option_existing_applies_to_posts(run_import, post, tmp_path):
    run_import(article(tmp_path))
    article(tmp_path, body="Other.")
    [problem] = run_import(tmp_path)
    assert problem == (
        f"{tmp_path}/a.md:2: the blog has a post 'a' with other content; "
        "choose --existing update to replace it or --existing skip to keep it"
    )
    assert run_import(tmp_path, "--existing", "skip") == counts(skipped=1)
    assert post(slug="a")["body"] == "Text."
    assert run_import(tmp_path, "--existing", "update") == counts(updated=1)
    assert post(slug="a")["body"] == "Other."
    assert post(slug="a")["updated_at"].year > 2025
    assert run_import(tmp_path, "--existing", "update") == counts(unchanged=1)


def test_update_renders_html_of_another_release_again(app, run_import, post, tmp_path):
    run_import(article(tmp_path))
    with app.app_context():
        db.session.scalars(select(Post)).one().body_html = "<p>of an older release</p>"
        db.session.commit()
    assert run_import(tmp_path) == counts(unchanged=1)
    assert run_import(tmp_path, "--existing", "update") == counts(updated=1)
    assert post(slug="a")["updated_at"] == post(slug="a")["published_at"]
    assert run_import(tmp_path, "--existing", "update") == counts(unchanged=1)


@pytest.mark.parametrize(("title", "slug"), [("Straße nach Łódź", "strae-nach-odz"), ("水", "salt-water")])
def test_post_that_an_older_release_imported_keeps_its_slug(run_import, app, post, tmp_path, title, slug):
    article(tmp_path, "salt-water.md", header=f"title: {title}\ndate: 2025-01-01")
    run_import(tmp_path)
    with app.app_context():
        db.session.execute(update(Post).values(slug=slug))
        db.session.commit()
    assert run_import(tmp_path) == counts(unchanged=1)


def test_post_with_another_title_does_not_get_the_slug_of_an_older_release(run_import, post, tmp_path):
    article(tmp_path / "one", header="title: Ode\ndate: 2025-01-01")
    run_import(tmp_path / "one")
    article(tmp_path / "two", header="title: Łode\ndate: 2025-01-01")
    assert run_import(tmp_path / "two")["created"] == 1
