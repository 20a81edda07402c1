"""Fixtures for the app and its database, which is a real Postgres.

The tests use the server of TEST_DATABASE_URL, whose role must be allowed to create databases and roles. If
TEST_DATABASE_URL is not set, they start a temporary server with the newest Postgres on this host.
"""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis
import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from itsdangerous import URLSafeTimedSerializer
from sqlalchemy import create_engine, delete, event, func, select, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.pool import NullPool
from werkzeug.security import generate_password_hash

from blog import create_app, schema, sessions
from blog.models import Base, ContactMessage, Media, Page, Post, Tag, Throttle, User, db

from .browser import live, page, screenshot

# Fixtures of browser.py that the test modules use.
__all__ = ["live", "page", "screenshot"]

BASE_URL = "http://blog.test:8080"
PASSWORD = "correct horse battery"
PASSWORD_HASH = generate_password_hash(PASSWORD)
ADA = {"email": "ada@blog.test", "password": PASSWORD}
NEW_PASSWORD = "another long password"
PASSWORD_CHANGE = {"old": PASSWORD, "new": NEW_PASSWORD, "again": NEW_PASSWORD}

# Hypothesis calls a test with many inputs ("examples"). All examples of a test share its fixtures. Hypothesis
# stores no failed examples, because they may depend on the state of the fixtures.
hypothesis.settings.register_profile(
    "blog",
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("blog")


def count(app: Flask, model: type[Base]) -> int:
    """Return the number of rows of a table."""
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(model))


def clear(app: Flask) -> None:
    """Delete the rows that the examples of a test add. For so few rows, DELETE is faster than TRUNCATE."""
    with app.app_context():
        for table in (Post, Tag, Page, Media, ContactMessage, Throttle):
            db.session.execute(delete(table))
        db.session.commit()


def token_of(response) -> str:
    """Return the CSRF token of the form on a page."""
    return re.search(r'name="csrf_token"[^>]*value="([^"]+)"', response.text)[1]


def is_signed_in(client: FlaskClient) -> bool:
    return client.get("/account").status_code == 200


@dataclass(frozen=True)
class Server:
    """A Postgres server.

    admin: the URL of a role that may create databases and roles.
    folder: a directory for the files with passwords, and for the app's MEDIA_DIR.
    """

    admin: URL
    folder: Path

    def connect(self, database: str, **user: str) -> contextlib.AbstractContextManager[Connection]:
        """Open an autocommit connection, as the administrator or as `username` with `password`."""
        url = self.admin.set(database=database, **user)
        return create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Make an empty database, and remove it at the end."""
        with self.connect(self.admin.database) as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield name
        finally:
            # A test may have restarted the server, so use a new connection.
            with self.connect(self.admin.database) as connection:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))

    @contextlib.contextmanager
    def migrated(self, name: str) -> Iterator[str]:
        """Make a database with the whole schema, and remove it at the end."""
        with self.database(name):
            with create_app(self.settings(name)).app_context():
                schema.migrate(wait_s=5)
            yield name

    def settings(self, database: str, **user: str) -> dict[str, str]:
        """Return the app's settings for a database of this server."""
        url = self.admin.set(database=database, **user)
        settings = {
            "DATABASE_URL": url._replace(drivername="postgresql", password=None).render_as_string(),
            "SECRET_KEY": "a-key-for-tests-that-is-long-enough",
            "BASE_URL": BASE_URL,
            "SITE_DESCRIPTION": "Notes & <harbours>",
            "SITE_AUTHOR": "The crew",
            "POSTS_PER_PAGE": "3",
            "MEDIA_DIR": str(self.folder / "media"),
        }
        if url.password is not None:
            file = self.folder / f"{url.username}.password"
            file.write_text(str(url.password))
            settings["DATABASE_PASSWORD_FILE"] = str(file)
        return settings


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("passwords")
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield Server(make_url(given).set(drivername="postgresql+psycopg2"), folder)
    else:
        with cluster() as made:
            yield made.server(folder)


class Cluster:
    """A temporary Postgres server. folder: the directory of its socket, its data and its log."""

    def __init__(self, folder: str) -> None:
        versions = sorted(
            Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
        )
        if not versions:
            pytest.exit(
                "No Postgres: install the package `postgresql`, or set TEST_DATABASE_URL.", returncode=1
            )
        self.folder, self._binaries = folder, versions[-1].parent
        # Postgres refuses to run as root.
        user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self._as_user = (
            {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
            if user == "postgres"
            else {}
        )
        shutil.chown(folder, user)
        subprocess.run(
            [
                self._binaries / "initdb",
                "-D",
                f"{folder}/data",
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **self._as_user,
        )

    def server(self, passwords: Path) -> Server:
        """Return the server for the tests. passwords: its `folder`."""
        return Server(make_url(f"postgresql+psycopg2://postgres@/postgres?host={self.folder}"), passwords)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = {"listen_addresses": "", "unix_socket_directories": self.folder, "fsync": "off"}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        log = Path(self.folder, "log")
        with log.open("a") as output:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", f"{self.folder}/data", *flags],
                stdout=output,
                stderr=output,
                cwd=self.folder,
                **self._as_user,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg2.connect(host=self.folder, user="postgres", dbname="postgres").close()
                break
            except psycopg2.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.exit(f"Postgres does not start:\n{log.read_text()}", returncode=1)
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server as `docker stop` does."""
        self._process.send_signal(signal.SIGINT)  # STOPSIGNAL of the Postgres image: a fast shutdown
        self._process.wait(timeout=20)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a temporary Postgres server."""
    folder = tempfile.mkdtemp(prefix="slipway-test-")
    try:
        cluster = Cluster(folder)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def migrated(server: Server) -> Iterator[str]:
    """Create a database with the whole schema, and return its name."""
    with server.migrated("slipway_test") as name:
        yield name


@pytest.fixture
def settings(server: Server, migrated: str) -> Iterator[dict[str, str]]:
    """Return the settings of an app whose database has the schema but no data."""
    yield server.settings(migrated)
    kept = ("schema_history", "site")  # migrations write the rows of these tables
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables if table.name not in kept)
    with server.connect(migrated) as connection:
        connection.execute(text(f"TRUNCATE {tables}"))


@pytest.fixture
def empty_settings(server: Server) -> Iterator[dict[str, str]]:
    """Return the settings of an app whose database is empty."""
    with server.database("slipway_test_empty") as name:
        yield server.settings(name)


class _Client(FlaskClient):
    def open(self, *arguments, **options):
        return super().open(*arguments, **({"base_url": BASE_URL, "buffered": True} | options))

    def send(self, path: str, headers: dict[str, str] | None = None, **fields: object):
        """Post a form with the CSRF token of this session."""
        return self.post(path, data=fields | {"csrf_token": self.token()}, headers=headers)

    def token(self) -> str:
        """Return a CSRF token of this session."""
        with self.session_transaction(base_url=BASE_URL) as session:
            session["csrf_token"] = "the-token-of-this-session"
        serializer = URLSafeTimedSerializer(self.application.secret_key, salt="wtf-csrf-token")
        return serializer.dumps("the-token-of-this-session")


@pytest.fixture
def make_app(settings: dict[str, str]):
    """Return a function that creates an app with changed settings."""
    apps = []

    def make(**changed: str) -> Flask:
        app = create_app(settings | changed)
        app.test_client_class = _Client
        apps.append(app)
        return app

    yield make
    for app in apps:
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def app(make_app) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def signed_in(app: Flask):
    """Return a function that makes a user with the password PASSWORD, and returns a client of this user."""

    def sign_in(name: str = "Ada", *, is_admin: bool = False) -> FlaskClient:
        with app.app_context():
            person = User(email=f"{name}@blog.test", name=name, is_admin=is_admin, session_epoch=0)
            person.password_hash = PASSWORD_HASH
            db.session.add(person)
            db.session.commit()
            number = person.id
            with app.test_request_context():
                token, _ = sessions.begin(person)
        client = app.test_client()
        with client.session_transaction(base_url=BASE_URL) as session:
            session |= {"user": number, "epoch": 0, "token": token}
        return client

    return sign_in


@pytest.fixture
def ada(signed_in):
    """Return a client of Ada, a signed-in author who is not an administrator."""
    return signed_in("Ada")


@pytest.fixture
def admin(signed_in):
    return signed_in("Grace", is_admin=True)


@pytest.fixture
def post(app):
    """Return a function that returns the columns of the newest post, with its tags and aliases."""

    def post(**where: object) -> dict[str, object]:
        with app.app_context():
            found = db.session.scalars(select(Post).filter_by(**where).order_by(Post.id.desc())).first()
            columns = {
                key: getattr(found, key)
                for key, _ in Post.__table__.columns.items()
                if key not in ("search", "lexemes")
            }
            return columns | {
                "tags": [tag.name for tag in found.tags],
                "tags_by_slug": {tag.slug: tag.name for tag in found.tags},
                "aliases": [alias.slug for alias in found.aliases],
            }

    return post


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


@pytest.fixture
def run_import(runner):
    """Return a function that runs `flask import`, and returns its JSON or the lines with its problems."""

    def run(*arguments):
        result = runner.invoke(args=["import", *map(str, arguments)])
        if result.exit_code == 0:
            return json.loads(result.stdout)
        assert result.exit_code == 1, result.stderr
        assert result.stdout == ""
        return result.stderr.splitlines()[:-1]

    return run


@pytest.fixture
def add_posts(app: Flask):
    """Return a function that adds `count` posts, each published a minute after the one before.

    The oldest is `post-1`. The post `post-N` has the tags `harbour` and `tag-N`.
    """

    def add(count: int, **values: object) -> None:
        start = datetime(2025, 1, 1, tzinfo=UTC)
        with app.app_context():
            harbour = Tag(slug="harbour", name="Harbour")
            for number in range(1, count + 1):
                moment = start + timedelta(minutes=number)
                fields = {
                    "slug": f"post-{number}",
                    "title": f"Post {number}",
                    "summary": f"Summary {number}",
                    "author": "Ada Quay",
                    "published_at": moment,
                    "updated_at": moment,
                    "body": f"Text of {number}.",
                }
                tags = [harbour, Tag(slug=f"tag-{number}", name=f"Tag {number}")]
                db.session.add(Post(**(fields | values), tags=tags))
            db.session.commit()

    return add


@pytest.fixture
def queries(app):
    """Return the list of the SQL statements that the app executes."""
    statements = []
    with app.app_context():
        engine = db.engine

    def note(_connection, _cursor, statement, *_):
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)
