import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, event, insert, select, text

from blog import create_app, schema
from blog.models import Base, Post, SchemaHistory, db

from .browser import APP
from .conftest import BASE_URL

REVISIONS = ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"]
HEAD = REVISIONS[-1]
EXPAND = f"""
import sqlalchemy as sa
from alembic import op
revision = "9001"
down_revision = "{HEAD}"
def upgrade():
    op.add_column("post", sa.Column("subtitle", sa.Text))
"""
CONTRACT = """
from alembic import op
revision = "9002"
down_revision = "9001"
destructive = True
def upgrade():
    op.drop_column("post", "subtitle")
"""
BROKEN = """
from alembic import op
revision = "9002"
down_revision = "9001"
def upgrade():
    op.drop_column("post", "no_such_column")
"""


INSERT_POST = (
    "INSERT INTO post (slug, title, summary, body, body_html, word_count, author, published_at) "
    "VALUES (:slug, 'A', '', 'B', '<p>B</p>', 1, '', '2025-01-01')"
)


@pytest.fixture
def newer_release(tmp_path, monkeypatch):
    """Return a function that adds migrations to this code, so that the code is like a newer release."""

    def become(*migrations: str) -> None:
        folder = tmp_path / "migrations"
        folder.joinpath("versions").mkdir(parents=True)
        for path in [*schema.MIGRATIONS.glob("*.*"), *schema.MIGRATIONS.glob("versions/*.py")]:
            folder.joinpath(path.relative_to(schema.MIGRATIONS)).write_bytes(path.read_bytes())
        for number, migration in enumerate(migrations):
            folder.joinpath("versions", f"new_{number}.py").write_text(migration)
        monkeypatch.setattr(schema, "MIGRATIONS", folder)

    return become


def flask(app, *arguments: str):
    result = app.test_cli_runner().invoke(args=arguments)
    return result, json.loads(result.stdout) if result.exit_code == 0 else None


def readiness(app) -> int:
    return app.test_client().get("/readyz", base_url=BASE_URL).status_code


def test_migrate_creates_the_schema_and_is_idempotent(empty_settings):
    app = create_app(empty_settings)
    pending = {
        "changed": False,
        "pending": REVISIONS,
        "current": None,
        "head": HEAD,
        "destructive": [],
        "blocked_by": None,
    }
    assert flask(app, "migrate", "--check")[1] == pending
    assert readiness(app) == 503
    assert flask(app, "migrate", "--check")[1] == pending
    assert flask(app, "migrate")[1] == {"changed": True, "applied": REVISIONS, "head": HEAD}
    assert readiness(app) == 200
    assert flask(app, "migrate")[1] == {"changed": False, "applied": [], "head": HEAD}
    assert flask(app, "migrate", "--check")[1] == pending | {"pending": [], "current": HEAD}


def test_migrations_create_the_schema_of_the_models(app):
    with app.app_context(), db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_contents_of_pictures_are_stored_without_compression(app):
    """Postgres would decompress a compressed content from its beginning for each part that the blog reads."""
    query = text(
        "SELECT attstorage FROM pg_attribute "
        "WHERE attrelid = 'media_content'::regclass AND attname = 'content'"
    )
    with app.app_context(), db.engine.connect() as connection:
        assert connection.scalar(query) == "e"


@pytest.fixture
def from_0003(empty_settings, monkeypatch, tmp_path):
    """Return an app whose database has the schema of revision 0003, and a post."""
    app, newest, earlier = create_app(empty_settings), schema.MIGRATIONS, tmp_path / "migrations"
    shutil.copytree(newest, earlier)
    for path in earlier.glob("versions/*.py"):
        if path.name >= "0004":
            path.unlink()
    monkeypatch.setattr(schema, "MIGRATIONS", earlier)
    flask(app, "migrate")
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text(INSERT_POST), {"slug": "first"})
    monkeypatch.setattr(schema, "MIGRATIONS", newest)
    return app


def test_earlier_release_can_still_write_posts(app):
    """It does not name the columns that this release added."""
    new = select(Post.guid, Post.language, Post.planned_at)
    with app.app_context():
        db.session.execute(text(INSERT_POST), {"slug": "a"})
        db.session.commit()
        assert tuple(db.session.execute(new).one()) == (None, "", None)


def test_migration_keeps_the_ids_that_the_feeds_of_earlier_releases_had(empty_settings, from_0003):
    flask(from_0003, "migrate")
    with from_0003.app_context(), db.engine.begin() as connection:
        connection.execute(text(INSERT_POST), {"slug": "by-the-earlier-release"})
    moved = create_app(empty_settings | {"BASE_URL": "https://other.test"})
    for one, base_url in ((from_0003, BASE_URL), (moved, "https://other.test")):
        feed = one.test_client().get("/feed.xml", base_url=base_url).text
        names = ("/", "/posts/by-the-earlier-release", "/posts/first")
        assert re.findall("<id>(.*)</id>", feed) == [f"{BASE_URL}{name}" for name in names]


@pytest.mark.parametrize(
    "statements",
    [
        "INSERT INTO comment (post_id, author, body) VALUES (1, 'Ben', 'Yes.')",
        "SELECT FROM media; SELECT FROM post",
        "SELECT FROM contact_message; SELECT FROM post",
    ],
    ids=["a comment", "the list of pictures", "the list of messages"],
)
def test_request_during_the_migrations_waits_and_succeeds(server, from_0003, statements):
    database = from_0003.config["DATABASE_URL"].database
    sent = []

    def send() -> None:
        with server.connect(database) as connection:
            connection.execute(text(statements))

    def send_while_post_is_locked(_connection, _cursor, statement, *_: object) -> None:
        if "ADD COLUMN lexemes" in statement:
            sent.append(executor.submit(send))
            with server.connect(database) as observer:
                waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                while observer.scalar(waiting) == 0:
                    time.sleep(0.01)

    with ThreadPoolExecutor() as executor:
        event.listen(Engine, "before_cursor_execute", send_while_post_is_locked)
        try:
            result, _ = flask(from_0003, "migrate")
        finally:
            event.remove(Engine, "before_cursor_execute", send_while_post_is_locked)
        assert result.exit_code == 0, result.stderr
        [request] = sent
        assert request.exception() is None


def test_old_release_stays_ready_until_a_destructive_migration(
    empty_settings, newer_release, monkeypatch, caplog
):
    app, old = create_app(empty_settings), schema.MIGRATIONS
    flask(app, "migrate")
    newer_release(EXPAND)
    assert readiness(app) == 503, "the new release waits for its migration"
    assert flask(app, "migrate")[1]["applied"] == ["9001"]
    assert readiness(app) == 200

    monkeypatch.setattr(schema, "MIGRATIONS", old)
    assert readiness(app) == 200
    assert flask(app, "migrate")[1] == {"changed": False, "applied": [], "head": HEAD}

    with app.app_context(), db.engine.begin() as connection:
        connection.execute(insert(SchemaHistory).values(revision="9002", destructive=True))
        connection.execute(text("UPDATE alembic_version SET version_num = '9002'"))
    response = app.test_client().get("/readyz", base_url=BASE_URL)
    assert response.status_code == 503
    assert response.text == "not ready\n"
    assert "revision 9002 removed parts that this release needs" in caplog.text
    told = flask(app, "migrate", "--check")[1]
    assert told["pending"] == []
    assert told["current"] == "9002"
    assert told["blocked_by"] == "9002"
    refused, _ = flask(app, "migrate")
    assert refused.exit_code == 1
    assert "deploy a newer release" in refused.stderr


def test_release_is_ready_after_its_own_destructive_migration(empty_settings, newer_release):
    app = create_app(empty_settings)
    newer_release(EXPAND, CONTRACT)
    told = flask(app, "migrate", "--check")[1]
    assert told["pending"] == [*REVISIONS, "9001", "9002"]
    assert told["destructive"] == ["9002"]
    assert flask(app, "migrate")[1]["applied"] == [*REVISIONS, "9001", "9002"]
    assert readiness(app) == 200
    with app.app_context(), db.engine.connect() as connection:
        rows = connection.execute(text("SELECT revision, destructive FROM schema_history ORDER BY id"))
        assert [tuple(row) for row in rows] == [
            *((revision, False) for revision in REVISIONS),
            ("9001", False),
            ("9002", True),
        ]


def test_failed_migration_changes_nothing(empty_settings, newer_release):
    app = create_app(empty_settings)
    newer_release(EXPAND, BROKEN)
    result, _ = flask(app, "migrate")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no_such_column" in result.stderr
    assert "Traceback" not in result.stderr
    assert flask(app, "migrate", "--check")[1]["current"] is None


def test_two_simultaneous_migrations_succeed(empty_settings):
    env = os.environ | empty_settings | {"FLASK_APP": "wsgi"}
    command = [sys.executable, "-m", "flask", "migrate"]
    running = [
        subprocess.Popen(command, cwd=APP, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=30) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert sorted(json.loads(stdout)["changed"] for stdout, _ in outputs) == [False, True]


def test_migrate_reports_the_other_migration_after_the_wait_limit(app):
    with app.app_context(), schema.migrator_engine().connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:key)"), {"key": schema.ADVISORY_LOCK})
        result, _ = flask(app, "migrate", "--wait", "0.2")
    assert result.exit_code == 1
    assert "another migration still runs after 0.2 s" in result.stderr
    assert "'slipway migrate'" in result.stderr
    assert flask(app, "migrate")[1]["changed"] is False


def test_locked_table_ends_the_migration(empty_settings, newer_release, monkeypatch):
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_S", 0.2)
    app = create_app(empty_settings)
    flask(app, "migrate")
    newer_release(EXPAND)
    with app.app_context():
        db.session.execute(text("LOCK TABLE post IN ACCESS SHARE MODE"))
        result, _ = flask(app, "migrate")
        assert result.exit_code == 1
        assert "stayed locked for 0.2 s, so nothing was changed" in result.stderr
        db.session.rollback()
    assert flask(app, "migrate")[1]["applied"] == ["9001"]


@pytest.fixture
def roles(server):
    """Return settings with the role that owns the tables, and settings with a role that can only use them."""
    password = "only-for-tests"
    owner, user = "slipway_test_owner", "slipway_test_user"
    with server.database("slipway_test_roles") as name, server.connect(name) as connection:
        for statement in (
            f"DROP ROLE IF EXISTS {owner}, {user}",  # of a run that was killed
            f"CREATE ROLE {owner} LOGIN PASSWORD '{password}'",
            f"CREATE ROLE {user} LOGIN PASSWORD '{password}'",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
            f"GRANT ALL ON SCHEMA public TO {owner}",
            f"GRANT USAGE ON SCHEMA public TO {user}",
            f"GRANT {owner} TO CURRENT_USER",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {user}",
        ):
            connection.execute(text(statement))
        yield (
            server.settings(name, username=owner, password=password),
            server.settings(name, username=user, password=password),
        )
        for role in (owner, user):
            connection.execute(text(f"DROP OWNED BY {role} CASCADE"))
            connection.execute(text(f"DROP ROLE {role}"))


def test_app_needs_only_the_right_to_use_the_tables(roles, tmp_path):
    owner, user = map(create_app, roles)
    assert flask(owner, "migrate")[1]["changed"] is True

    post = tmp_path / "post.md"
    post.write_text("---\ntitle: Hello\ndate: 2025-01-01\ntags: [a]\n---\nText.\n")
    (tmp_path / "password").write_text("a long enough password")
    admin = ("--email", "a@b.test", "--password-file", str(tmp_path / "password"))
    assert flask(user, "import", str(post))[1]["created"] == 1
    assert flask(user, "user", "ensure-admin", *admin)[1]["created"] is True
    assert readiness(user) == 200
    assert user.test_client().get("/posts/hello", base_url=BASE_URL).status_code == 200
    with user.app_context(), db.engine.connect() as connection:
        for right in ("CREATE", "USAGE"):
            query = text("SELECT has_schema_privilege('public', :right)")
            assert connection.scalar(query, {"right": right}) is (right == "USAGE")
