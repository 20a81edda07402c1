import hashlib
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select, text, update

from blog import create_app, exporter
from blog.models import (
    CONTROL_CHARACTER,
    Comment,
    Media,
    MediaContent,
    Page,
    Post,
    PostAlias,
    Site,
    Tag,
    TagAlias,
    db,
)
from blog.names import SLUG

from .browser import APP
from .conftest import BASE_URL, clear, count

PICTURE = b"not really a picture"
NAME = f"{hashlib.sha256(PICTURE).hexdigest()[:24]}-3x2.png"
MOMENT = datetime(2025, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def run(app, *arguments):
    """Run a command, and return its JSON, or all lines of its stderr if it fails."""
    result = app.test_cli_runner().invoke(args=list(map(str, arguments)))
    if result.exit_code == 0:
        return json.loads(result.stdout)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.output
    assert result.stdout == "", result.output
    return result.stderr.splitlines()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def media_dir(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / NAME).write_bytes(PICTURE)
    return folder


@pytest.fixture
def app(make_app, media_dir):
    return make_app(MEDIA_DIR=str(media_dir))


@pytest.fixture
def site(app):
    """Fill the blog with posts, a page, comments and a picture."""
    with app.app_context():
        tags = [Tag(slug=name.lower(), name=name) for name in ("Harbour", "Ropes")]
        tags[0].aliases = [TagAlias(slug="harbor")]
        first = Post(
            slug="first",
            title="First: 'of' \"all\" #1",
            summary="What it is about",
            body="Text of it, [with](/a) \\ and `code`.\n\n---\n\n- ☃",
            author="",
            published_at=MOMENT,
            updated_at=MOMENT,
            tags=tags,
        )
        first.aliases = [PostAlias(slug=slug) for slug in ("7", "2025-01-01", "before")]
        first.comments = [
            Comment(author="Grace", email=None, body="One.\n\nTwo ☃", state="approved", created_at=MOMENT),
            Comment(author="Linus", email="l@b.test", body="Spam", state="spam", created_at=MOMENT),
        ]
        first.language = "pt-BR"
        draft = Post(slug="no", title="yes", summary="null", body="~", author="1", updated_at=MOMENT)
        draft.planned_at = datetime(2998, 1, 1, tzinfo=UTC)
        later = Post(slug="later", title="Later", summary="S", body="B", author="A", updated_at=MOMENT)
        later.published_at = datetime(2999, 1, 1, tzinfo=UTC)
        page = Page(slug="about", title="About", body="We.", position=-3, updated_at=MOMENT)
        picture = {"name": NAME, "mime": "image/png", "width": 3, "height": 2, "size_bytes": len(PICTURE)}
        first.guid = "http://old.test/?p=1&q=2"
        db.session.add_all([first, draft, later, page])
        boat = Media(**picture, original_name="ü.png", alt="A ☃", created_at=MOMENT)
        db.session.add(boat)
        db.session.flush()
        db.session.add(MediaContent(media_id=boat.id, content=PICTURE))
        db.session.commit()


@pytest.fixture
def content(app):
    """Return a function that returns the contents of the pictures in the database."""

    def content() -> list[bytes]:
        with app.app_context():
            return list(db.session.scalars(select(MediaContent.content)))

    return content


@pytest.fixture
def of_older_release(app, site):
    """Let the only picture be one of an older release, whose content is not in the database."""
    with app.app_context():
        db.session.execute(delete(MediaContent))
        db.session.commit()


def test_export_of_an_imported_export_is_byte_identical(app, site, tmp_path, media_dir, content):
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(app, "export", one) == {"changed": True, "written": 7, "removed": 0}
    assert run(app, "export", one) == {"changed": False, "written": 0, "removed": 0}
    assert sorted(files(one)) == [
        "comments/first.json",
        "export.json",
        f"media/{NAME}",
        "pages/about.md",
        "posts/first.md",
        "posts/later.md",
        "posts/no.md",
    ]
    assert one.stat().st_mode & 0o777 == 0o700, "only the owner may read the addresses of commenters"
    clear(app)
    (media_dir / NAME).unlink()
    counts = {
        "created": 4,
        "updated": 0,
        "skipped": 0,
        "unchanged": 0,
        "ignored": 0,
        "comments": 2,
        "media": 1,
    }
    assert run(app, "import", one) == {"changed": True, **counts, "ignored_files": []}
    run(app, "export", two)
    assert files(two) == files(one)
    assert (media_dir / NAME).read_bytes() == PICTURE
    assert content() == [PICTURE]
    again = dict.fromkeys(counts, 0) | {"unchanged": 4}
    assert run(app, "import", one) == {"changed": False, **again, "ignored_files": []}
    (one / "posts/more.rst").write_text("of somebody else")
    assert run(app, "import", one) == {"changed": False, **again, "ignored": 1} | {
        "ignored_files": ["posts/more.rst"]
    }


@pytest.mark.parametrize("line", ["draft: true", "status: draft", "password: x", "published: perhaps"])
def test_import_refuses_a_page_that_is_a_draft(app, site, tmp_path, line):
    folder = tmp_path / "site"
    run(app, "export", folder)
    path = folder / "pages/about.md"
    path.write_text(path.read_text().replace("slug:", f"{line}\nslug:"))
    [problem, _] = run(app, "import", folder)
    assert problem.startswith(f"{path}:")


def test_export_and_import_keep_the_ids_of_the_feed(app, make_app, site, tmp_path, media_dir):
    before = re.findall("<id>.*</id>", app.test_client().get("/feed.xml").text)
    run(app, "export", tmp_path / "site")
    clear(app)
    with app.app_context():
        db.session.execute(update(Site).values(guid="https://new.test"))
        db.session.commit()
    run(app, "import", tmp_path / "site")
    assert re.findall("<id>.*</id>", app.test_client().get("/feed.xml").text) == before
    assert "<id>http://old.test/?p=1&amp;q=2</id>" in before


def test_export_keeps_the_id_of_a_post_of_an_earlier_release(app, site, tmp_path):
    with app.app_context():
        db.session.execute(update(Post).values(guid=None))
        db.session.commit()
    run(app, "export", tmp_path / "site")
    assert run(app, "import", tmp_path / "site")["unchanged"] == 4
    assert f"\nguid: {BASE_URL}/posts/first\n" in (tmp_path / "site/posts/first.md").read_text()
    other = tmp_path / "other.md"
    other.write_text(f"---\ntitle: B\ndate: 2025-01-01\nguid: {BASE_URL}/posts/first\n---\nText.\n")
    [problem, _] = run(app, "import", other)
    assert "has the guid of the post 'first'" in problem


def test_import_into_a_blog_with_posts_keeps_the_id_of_its_feed(app, site, tmp_path):
    run(app, "export", tmp_path / "site")
    marker = tmp_path / "site/export.json"
    marker.write_text(marker.read_text().replace(BASE_URL, "https://other.test"))
    run(app, "import", tmp_path / "site")
    assert f"<id>{BASE_URL}/</id>" in app.test_client().get("/feed.xml").text


def test_import_of_an_export_of_an_earlier_release_gives_new_ids(app, site, tmp_path):
    folder = tmp_path / "site"
    run(app, "export", folder)
    for path in [folder / "export.json", *folder.glob("posts/*.md")]:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "guid" not in line))
    clear(app)
    assert run(app, "import", folder)["created"] == 4
    with app.app_context():
        guids = db.session.scalars(select(Post.guid)).all()
        assert len(set(guids)) == 3
        assert all(guid.startswith("urn:uuid:") for guid in guids)


def test_draft_keeps_its_date_in_an_export(app, site, tmp_path):
    run(app, "export", tmp_path / "site")
    text = (tmp_path / "site/posts/no.md").read_text()
    assert "status: draft\ndate: '2998-01-01T00:00:00Z'\n" in text
    clear(app)
    run(app, "import", tmp_path / "site")
    with app.app_context():
        draft = db.session.scalars(select(Post).where(Post.slug == "no")).one()
        assert draft.published_at is None
        assert draft.planned_at == datetime(2998, 1, 1, tzinfo=UTC)


def test_second_export_updates_the_files(app, site, tmp_path):
    folder = tmp_path / "site"
    run(app, "export", folder)
    with app.app_context():
        db.session.delete(db.session.scalars(select(Post).where(Post.slug == "first")).one())
        db.session.scalars(select(Page)).one().title = "About us"
        db.session.commit()
    assert run(app, "export", folder) == {"changed": True, "written": 1, "removed": 2}
    assert "posts/first.md" not in files(folder)


def test_export_refuses_a_directory_with_other_files(app, tmp_path):
    (tmp_path / "precious").write_text("x")
    [problem] = run(app, "export", tmp_path)
    assert "contains other files: name a new directory" in problem
    [problem] = run(app, "export", "/dev/null/x")
    assert "not complete" in problem


def test_export_is_complete_after_the_volume_of_pictures_was_emptied(app, site, tmp_path, media_dir):
    (media_dir / NAME).unlink()
    run(app, "export", tmp_path / "site")
    assert files(tmp_path / "site")[f"media/{NAME}"] == PICTURE


def test_export_has_the_picture_of_an_older_release(app, of_older_release, tmp_path):
    run(app, "export", tmp_path / "site")
    assert files(tmp_path / "site")[f"media/{NAME}"] == PICTURE


def test_second_export_does_not_write_a_picture_again(app, site, tmp_path):
    run(app, "export", tmp_path / "site")
    before = (tmp_path / "site/media" / NAME).stat()
    run(app, "export", tmp_path / "site")
    assert (tmp_path / "site/media" / NAME).stat().st_ino == before.st_ino


def test_import_stores_the_content_of_a_picture_of_an_older_release(app, of_older_release, tmp_path, content):
    run(app, "export", tmp_path / "site")
    assert run(app, "import", tmp_path / "site")["media"] == 1
    assert content() == [PICTURE]


def test_import_is_complete_if_media_dir_cannot_be_written(app, make_app, site, tmp_path, content):
    run(app, "export", tmp_path / "site")
    clear(app)
    assert run(make_app(MEDIA_DIR="/proc/nowhere"), "import", tmp_path / "site")["media"] == 1
    assert content() == [PICTURE]


def test_import_writes_a_picture_whose_file_is_missing(app, site, tmp_path, media_dir):
    run(app, "export", tmp_path / "site")
    (media_dir / NAME).unlink()
    assert run(app, "import", tmp_path / "site")["changed"] is False, "the file is only a copy"
    assert (media_dir / NAME).read_bytes() == PICTURE


def test_export_fails_if_a_picture_is_missing(app, of_older_release, tmp_path, media_dir):
    (media_dir / NAME).unlink()
    [problem] = run(app, "export", tmp_path / "site")
    assert "not complete" in problem
    assert NAME in problem


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("export.json", lambda _: "{}", "does not have the format 1"),
        ("export.json", lambda text: text.replace(NAME, "../x.png"), "entry 1 is not valid"),
        ("export.json", lambda text: text.replace('"width": 3', '"width": "3"'), "entry 1"),
        ("export.json", lambda text: text.replace("A ☃", "A \\u0000"), "entry 1"),
        ("export.json", lambda text: text.replace('"size_bytes": 20', '"size_bytes": 21'), "is damaged"),
        ("export.json", lambda text: text.replace(BASE_URL, "me"), "has a guid that is not valid: 'me'"),
        (f"media/{NAME}", lambda _: "other", "is damaged"),
        ("comments/first.json", lambda _: "[", "is not JSON"),
        ("comments/first.json", lambda _: "7", "entry 1"),
        ("comments/first.json", lambda text: text.replace("spam", "ham"), "entry 2"),
        ("comments/first.json", lambda text: text.replace("Grace", "\\u0007"), "entry 1"),
        ("comments/first.json", lambda text: text.replace('"Grace"', "[]"), "entry 1"),
        (
            "comments/first.json",
            lambda text: re.sub('"created_at": "[^"]*"', '"created_at": "0001-01-01T00:00:00+14:00"', text),
            "entry 1",
        ),
        ("comments/none.json", lambda _: "[]", "does not belong to a post"),
        ("pages/about.md", lambda text: text.replace("-3", "first"), ":4: has the position 'first'"),
        ("pages/about.md", lambda text: text.replace("slug: about", "slug: search"), "/search is an address"),
        ("pages/two.md", lambda _: "---\ntitle: B\nslug: about\n---\nText.", "has the same slug as"),
        ("posts/no.md", lambda text: text + "\x00", "control character"),
        (
            "posts/no.md",
            lambda text: re.sub("guid: .*", "guid: 7", text),
            ":9: has a guid that is not valid: '7'",
        ),
        (
            "posts/no.md",
            lambda text: re.sub("guid: .*", "guid: http://old.test/?p=1&q=2", text),
            "has the guid of the post 'first'",
        ),
        (
            "posts/no.md",
            lambda text: text.replace("slug: 'no'", "slug: before"),
            "is an address of the post",
        ),
        ("posts/no.md", lambda text: text.replace("status:", "aliases: [later]\nstatus:"), "'later'"),
        (
            "posts/no.md",
            lambda text: text.replace("status:", "aliases: ['!']\nstatus:"),
            "an alias that is not valid: '!'",
        ),
        ("posts/no.md", lambda text: text.replace("status:", "aliases: [/a/no/]\nstatus:"), "'no'"),
    ],
)
def test_import_refuses_the_whole_export_if_one_file_is_invalid(app, site, tmp_path, name, change, words):
    folder = tmp_path / "site"
    run(app, "export", folder)
    clear(app)
    path = folder / name
    path.write_text(change(path.read_text() if path.exists() else ""))
    problems = run(app, "import", folder)
    assert any(words in problem for problem in problems), problems
    assert count(app, Post) == 0
    assert count(app, Comment) == 0


def test_import_reports_missing_files(app, site, tmp_path):
    folder = tmp_path / "site"
    run(app, "export", folder)
    (folder / "media" / NAME).unlink()
    (folder / "comments/first.json").unlink()
    (folder / "comments/first.json").symlink_to("nowhere")
    problems = run(app, "import", folder)
    assert sum("cannot be read" in problem for problem in problems) == 2


def test_option_existing_applies_to_pages(app, site, tmp_path):
    folder = tmp_path / "site"
    run(app, "export", folder)
    with app.app_context():
        db.session.scalars(select(Page)).one().body = "Other."
        db.session.commit()
    problems = run(app, "import", folder)
    assert "the blog has a page 'about' with other content" in problems[0]
    assert run(app, "import", folder, "--existing", "skip")["skipped"] == 1
    assert run(app, "import", folder, "--existing", "update")["updated"] == 1
    with app.app_context():
        assert db.session.scalars(select(Page.body)).one() == "We."


def test_import_of_a_changed_page_sets_the_time_of_its_last_change(app, site, tmp_path):
    folder = tmp_path / "site"
    run(app, "export", folder)
    path = folder / "pages/about.md"
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("updated"))
    path.write_text(text.replace("We.", "You."))
    assert run(app, "import", folder, "--existing", "update")["updated"] == 1
    with app.app_context():
        assert db.session.scalars(select(Page.updated_at)).one() > MOMENT


def test_import_refuses_an_address_of_another_post(app, site, tmp_path):
    (tmp_path / "a.md").write_text("---\ntitle: A\nslug: before\ndate: 2025-01-01\n---\nText.\n")
    problems = run(app, "import", tmp_path / "a.md")
    assert "a.md:3: the slug 'before' is an old address of the post 'first'; change the slug" in problems[0]
    (tmp_path / "a.md").write_text("---\ntitle: A\naliases: [before]\ndate: 2025-01-01\n---\nText.\n")
    problems = run(app, "import", tmp_path / "a.md")
    assert "the alias 'before' is an address of the post 'first'; remove the alias" in problems[0]


def test_rerender_corrects_what_older_releases_stored_for_a_text_without_spaces(app, site):
    body = "港には毎朝たくさんの船が入ってきて、町の人々は市場で魚を買う。" * 20
    with app.app_context():
        post = Post(slug="ja", title="港", summary="…", body=body, author="", updated_at=MOMENT)
        post.word_count = 1
        db.session.add(post)
        db.session.commit()
    assert run(app, "rerender")["rerendered"] == 1
    with app.app_context():
        post = db.session.scalars(select(Post).where(Post.slug == "ja")).one()
        assert post.summary.startswith("港には毎朝")
        assert post.word_count == 290
    assert run(app, "rerender")["changed"] is False


def test_rerender_changes_only_texts_with_different_html(app, site):
    assert run(app, "rerender") == {"changed": False, "rerendered": 0, "total": 4, "refused": 0}
    with app.app_context():
        db.session.execute(text("UPDATE post SET body_html = 'old' WHERE slug = 'first'"))
        db.session.execute(text("UPDATE page SET body_html = 'old'"))
        before = [post.version for post in db.session.scalars(select(Post).order_by(Post.id))]
        db.session.commit()
    assert run(app, "rerender") == {"changed": True, "rerendered": 2, "total": 4, "refused": 0}
    assert run(app, "rerender")["changed"] is False
    with app.app_context():
        posts = db.session.scalars(select(Post).order_by(Post.id)).all()
        assert [post.version for post in posts] == before
        assert {post.updated_at for post in posts} == {MOMENT}


MEASURED = """
import atexit, re, sys
from pathlib import Path
from flask.cli import main

def tell():
    sys.stderr.write(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

atexit.register(tell)
main()
"""


def peak_mb(settings, *arguments) -> float:
    """Run a command in a separate process, and return its peak memory in megabytes."""
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    env = os.environ | settings | {"FLASK_APP": "wsgi"}
    done = subprocess.run(command, cwd=APP, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1]) / 1024


def test_memory_of_import_export_and_rerender_does_not_grow_with_the_blog(app, settings, tmp_path):
    """All texts at once would need at least 60 MB. The few that a command may keep need at most 10 MB."""
    body = "    " + "A boat in the harbour. " * 5_000  # the indentation makes it a code block: renders fast
    site = tmp_path / "site"
    posts = [tmp_path / f"posts/{number}.md" for number in range(300)]
    posts[0].parent.mkdir()
    for path in posts:
        path.write_text(f"---\ntitle: Post {path.stem}\ndate: 2025-01-01\n---\n\n{body}\n")
    base = peak_mb(settings, "import", posts[0])
    measured = {"import": peak_mb(settings, "import", posts[0].parent)}
    with app.app_context():
        db.session.execute(
            text(
                "INSERT INTO page (slug, title, body, body_html) "
                "SELECT 'p' || slug, title, body, body_html FROM post"
            )
        )
        comment = {"author": "Ben", "state": "approved"}
        numbers = db.session.scalars(select(Post.id)).all()
        db.session.add_all(Comment(post_id=number, body=body, **comment) for number in numbers)
        db.session.commit()
    measured["export"] = peak_mb(settings, "export", site)
    assert len(files(site)) == 901
    clear(app)
    measured["import of an export"] = peak_mb(settings, "import", site)
    measured["import again"] = peak_mb(settings, "import", site, "--existing", "update")
    with app.app_context():
        db.session.execute(text("UPDATE post SET body_html = ''"))
        db.session.commit()
    measured["rerender"] = peak_mb(settings, "rerender")
    assert {name: peak for name, peak in measured.items() if peak > base + 40} == {}, (base, measured)


def test_check_config_checks_media_dir(app, settings, media_dir):
    assert run(app, "check-config") == {"changed": False, "base_url": settings["BASE_URL"]}
    other = create_app(settings | {"MEDIA_DIR": str(media_dir / "none")})
    [problem] = run(other, "check-config")
    assert "MEDIA_DIR" in problem


TEXT = (
    st.text(max_size=200).filter(lambda text: not CONTROL_CHARACTER.search(text)).map(lambda t: t.strip("\n"))
)
LINE = TEXT.filter(str.strip)
FIRST, LAST = datetime(1, 1, 3, tzinfo=UTC), datetime(9999, 12, 29, tzinfo=UTC)
MOMENTS = st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC))


@given(
    posts=st.dictionaries(
        st.from_regex(SLUG, fullmatch=True),
        st.fixed_dictionaries(
            {"title": LINE, "summary": TEXT, "body": LINE, "author": TEXT, "updated_at": MOMENTS}
            | {"published_at": st.none() | MOMENTS, "guid": st.uuids().map(lambda uuid: uuid.urn)}
        ),
        max_size=3,
    ),
    comments=st.lists(
        st.fixed_dictionaries({"author": LINE, "body": LINE, "created_at": MOMENTS}), max_size=3
    ),
)
def test_export_and_import_preserve_any_text(app, tmp_path_factory, posts, comments):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    clear(app)
    with app.app_context():
        for slug, fields in posts.items():
            fields = {name: _unix(value) for name, value in fields.items()}
            post = Post(slug=slug, **fields)
            post.comments = [
                Comment(**{name: _unix(value) for name, value in row.items()}) for row in comments
            ]
            db.session.add(post)
        db.session.commit()
    run(app, "export", one)
    clear(app)
    assert run(app, "import", one)["created"] == len(posts)
    run(app, "export", two)
    assert files(two) == files(one)
    assert exporter.MARKER in files(one)


def _unix(value):
    """Return a text with the line endings that the blog's forms produce. Return other values unchanged."""
    return value.replace("\r\n", "\n").replace("\r", "\n").strip("\n") if isinstance(value, str) else value
