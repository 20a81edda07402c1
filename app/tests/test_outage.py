"""The responses while the database is down, and when the database stops or returns."""

import contextlib
import threading
import time

import pytest
from flask import Flask, request
from prometheus_client import REGISTRY
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from blog import create_app, outage
from blog.forms import csrf
from blog.models import Post, db
from blog.request_session import with_transactions


@pytest.fixture(autouse=True)
def _reset_outage():
    """End the outage that a test began, so that its thread stops, and the next test begins without it."""
    yield
    outage._outage._is_over.set()
    outage._outage = outage._Outage()


@pytest.fixture
def away(settings: dict[str, str], tmp_path, monkeypatch) -> Flask:
    """Return an app whose database does not answer. Its requests wait only for a short time."""
    monkeypatch.setattr(outage, "PAUSE_S", 0.3)
    url = make_url(settings["DATABASE_URL"]).set(host=None, query={"host": str(tmp_path)})
    return create_app(settings | {"DATABASE_URL": url.render_as_string(hide_password=False)})


@pytest.mark.parametrize("path", ["/", "/posts/any", "/feed.xml", "/search?q=word", "/login", "/contact"])
def test_page_answers_503_with_retry_after(away, path):
    client = away.test_client()
    for _ in range(2):  # the first request notices the outage, and the second one knows of it
        answer = client.get(path, base_url=away.config["BASE_URL"])
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "10"
        assert answer.headers["Cache-Control"] in ("no-store", "private, no-store")
        assert "X-Accel-Expires" not in answer.headers
        assert "We will be right back" in answer.text


def test_form_sent_during_an_outage_gets_503(away):
    answer = away.test_client().post("/contact", base_url=away.config["BASE_URL"], data={"name": "Ada"})
    assert answer.status_code == 503


def get_timed(app: Flask, **headers: str) -> tuple[int, float]:
    """Request the home page. Return its status, and how many seconds the answer took."""
    began = time.monotonic()
    answer = app.test_client().get("/", base_url=app.config["BASE_URL"], headers=headers)
    return answer.status_code, time.monotonic() - began


def test_requests_wait_only_at_the_beginning_of_an_outage(away):
    status, seconds = get_timed(away)
    assert status == 503
    assert 0.3 <= seconds < 2
    status, seconds = get_timed(away)
    assert status == 503
    assert seconds < 0.3


def test_request_does_not_wait_if_nginx_has_a_copy_of_the_page(away, monkeypatch):
    """After the 503, nginx serves its copy."""
    monkeypatch.setattr(outage, "PAUSE_S", 20)
    for _ in range(2):
        status, seconds = get_timed(away, X_Cache_Status="EXPIRED")
        assert status == 503
        assert seconds < 2


def test_only_one_request_per_worker_connects_during_an_outage(away):
    client = away.test_client()
    assert client.get("/", base_url=away.config["BASE_URL"]).status_code == 503
    with outage._outage._probe_lock:  # another request is just trying to connect
        assert client.get("/", base_url=away.config["BASE_URL"]).status_code == 503
        assert client.get("/healthz", base_url=away.config["BASE_URL"]).status_code == 200


def test_end_of_an_outage_is_noticed_without_a_request(app, monkeypatch):
    """Otherwise, a request at the beginning of the next outage would get 503 at once."""
    monkeypatch.setattr(outage, "_WATCH_S", 0.05)
    with app.app_context():
        outage._outage.begin("lost")
    assert not outage._outage.is_over()
    assert outage._outage._is_over.wait(5)


def test_first_request_after_an_outage_finds_the_database(app, client):
    with app.app_context():
        outage._outage.begin("of a test")
    assert client.get("/").status_code == 200
    assert outage._outage.is_over()


@pytest.fixture
def lose(app, server, migrated):
    """Return a function that ends the connection of the current request, as a database that stops does."""

    def lose() -> None:
        number = db.session.scalar(text("SELECT pg_backend_pid()"))
        with server.connect(migrated) as connection:
            connection.execute(text("SELECT pg_terminate_backend(:number)"), {"number": number})

    return lose


def test_request_that_only_reads_is_repeated_once(app, client, lose):
    runs = []

    @app.route("/once", methods=["GET", "POST"])
    @csrf.exempt
    def once() -> str:
        runs.append(request.method)
        if len(runs) == 1:
            lose()
        return str(db.session.scalar(text("SELECT 7")))

    assert client.get("/once").text == "7"
    assert runs == ["GET", "GET"]


@pytest.mark.parametrize(("method", "times"), [("GET", 3), ("HEAD", 3), ("POST", 1)])
def test_request_that_loses_the_database_each_time_gets_503(app, client, lose, method, times):
    """A POST is never repeated, because it may have changed something."""
    runs = []

    @app.route("/each", methods=["GET", "POST"])
    @csrf.exempt
    def each() -> str:
        runs.append(request.method)
        lose()
        return str(db.session.scalar(text("SELECT 7")))

    answer = client.open("/each", method=method)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "10"
    assert len(runs) == times


def test_database_that_is_lost_while_an_error_is_handled_causes_no_500(app, client, lose):
    class Error(Exception):
        pass

    @app.errorhandler(Error)
    def handle(_error: Error) -> str:
        lose()
        return str(db.session.scalar(text("SELECT 7")))

    @app.post("/handled")
    @csrf.exempt
    def handled() -> str:
        raise Error

    assert client.post("/handled").status_code == 503


@pytest.fixture
def refuse(server, migrated):
    """Return a function that ends all connections to the database, which then refuses others for a time."""
    timers = []

    def admit() -> None:
        with server.connect("postgres") as connection:
            connection.execute(text(f"ALTER DATABASE {migrated} ALLOW_CONNECTIONS true"))

    def refuse(seconds: float) -> None:
        ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"
        with server.connect("postgres") as connection:
            connection.execute(text(f"ALTER DATABASE {migrated} ALLOW_CONNECTIONS false"))
            connection.execute(text(ended), {"name": migrated})
        timers.append(threading.Timer(seconds, admit))
        timers[-1].start()

    yield refuse
    for timer in timers:
        timer.join()


@pytest.fixture
def runs(app):
    """Return a list to which each POST to /once appends the result of its query, 7."""
    runs = []

    @app.post("/once")
    @csrf.exempt
    def once() -> str:
        runs.append(db.session.scalar(text("SELECT 7")))
        return "done"

    return runs


def test_form_that_finds_the_database_stopped_waits_and_runs_once(client, refuse, runs):
    assert client.post("/once").status_code == 200
    began = time.monotonic()
    refuse(0.7)
    assert client.post("/once").status_code == 200
    assert 0.7 <= time.monotonic() - began < 3
    assert runs == [7, 7]


def test_form_does_not_run_if_the_database_stays_away(client, refuse, runs, monkeypatch):
    monkeypatch.setattr(outage, "PAUSE_S", 0.2)
    refuse(1)
    assert client.post("/once").status_code == 503
    assert runs == []


def test_form_waits_for_the_lock_before_a_planned_change_and_runs_once(
    client, refuse, runs, server, migrated
):
    """The host program holds the lock until the database stops."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'alembic_version'::regclass"
    locked, ran = threading.Event(), []

    def change():
        with server.connect(migrated) as connection, contextlib.suppress(OperationalError):
            connection.execute(text("BEGIN"))
            connection.execute(text("LOCK TABLE alembic_version"))
            locked.set()
            while not connection.execute(text(waiting)).scalar():
                time.sleep(0.01)
            ran.extend([*runs, "waited"])
            refuse(0.5)
            connection.execute(text("SELECT 1"))

    changing = threading.Thread(target=change, daemon=True)
    changing.start()
    assert locked.wait(5)
    assert client.post("/once").status_code == 200
    changing.join(5)
    assert ran == ["waited"], "the form must not run while another transaction has the lock"
    assert runs == [7]


def test_repeated_request_counts_once_in_the_metrics(app, client, lose):
    runs = []

    @app.get("/counted")
    def counted() -> str:
        runs.append(1)
        if len(runs) == 1:
            lose()
        return str(db.session.scalar(text("SELECT 7")))

    client.get("/counted")
    name, labels = "blog_http_requests_total", {"endpoint": "counted", "method": "GET"}
    assert REGISTRY.get_sample_value(name, labels | {"status": "200"}) == 1
    assert REGISTRY.get_sample_value(name, labels | {"status": "503"}) is None


def test_complete_page_is_sent_although_the_connection_is_lost(app, client, server, migrated):
    @app.get("/read")
    def read() -> str:
        number = db.session.scalar(text("SELECT pg_backend_pid()"))
        db.session.scalars(select(Post)).all()
        with server.connect(migrated) as connection:
            connection.execute(text("SELECT pg_terminate_backend(:number)"), {"number": number})
        return "read"

    assert client.get("/read").text == "read"
    assert client.get("/").status_code == 200


def test_full_disk_is_named_and_is_not_an_outage(app, client):
    @app.post("/full")
    @csrf.exempt
    def full() -> str:
        raised = "RAISE 'could not extend file' USING ERRCODE = 'disk_full'"
        db.session.execute(text(f"DO $$ BEGIN {raised}; END $$"))
        return "saved"

    answer = client.post("/full")
    assert answer.status_code == 507
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Its disk is full, and nothing was saved." in answer.text
    assert outage._outage.is_over()
    assert client.get("/").status_code == 200


def test_failed_statement_is_not_an_outage(app):
    """After a 503, nginx would serve an old page each time, as in an outage."""

    @app.get("/slow")
    def slow() -> str:
        with Session(with_transactions(db.engine)) as session:
            session.execute(text("SET LOCAL statement_timeout = 10"))
            return str(session.scalar(text("SELECT pg_sleep(5)")))

    assert app.test_client().get("/slow", base_url=app.config["BASE_URL"]).status_code == 500
    assert outage._outage.is_over()
