"""The responses while the database is down, and when the database stops or returns."""

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.engine import make_url

from blog import create_app, outage
from blog.models import Post, db


@pytest.fixture(autouse=True)
def _is_there():
    """Reset the flag of an outage, so that the next test finds the database."""
    yield
    outage._is_away.clear()


@pytest.fixture
def away(settings: dict[str, str], tmp_path) -> Flask:
    """Return an app whose database does not answer."""
    url = make_url(settings["DATABASE_URL"]).set(host=None, query={"host": str(tmp_path)})
    return create_app(settings | {"DATABASE_URL": url.render_as_string(hide_password=False)})


@pytest.mark.parametrize("path", ["/", "/posts/any", "/feed.xml", "/search?q=word", "/login", "/contact"])
def test_page_answers_503_with_retry_after(away, path):
    client = away.test_client()
    for _ in range(2):  # the first request notices the outage, and the second one finds the flag
        answer = client.get(path, base_url=away.config["BASE_URL"])
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "10"
        assert answer.headers["Cache-Control"] in ("no-store", "private, no-store")
        assert "X-Accel-Expires" not in answer.headers
        assert "We will be right back" in answer.text


def test_form_sent_during_an_outage_gets_503(away):
    answer = away.test_client().post("/contact", base_url=away.config["BASE_URL"], data={"name": "Ada"})
    assert answer.status_code == 503


def test_only_one_request_per_worker_connects_during_an_outage(away):
    client = away.test_client()
    assert client.get("/", base_url=away.config["BASE_URL"]).status_code == 503
    with outage._looking:  # another request is just trying to connect
        assert client.get("/", base_url=away.config["BASE_URL"]).status_code == 503
        assert client.get("/healthz", base_url=away.config["BASE_URL"]).status_code == 200


def test_first_request_after_an_outage_finds_the_database(app, client):
    outage._is_away.set()
    assert client.get("/").status_code == 200
    assert not outage._is_away.is_set()


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


def test_failed_statement_is_not_an_outage(app):
    """After a 503, nginx would serve an old page each time, as in an outage."""

    @app.get("/slow")
    def slow() -> str:
        db.session.execute(text("SET LOCAL statement_timeout = 10"))
        return str(db.session.scalar(text("SELECT pg_sleep(5)")))

    assert app.test_client().get("/slow", base_url=app.config["BASE_URL"]).status_code == 500
    assert not outage._is_away.is_set()
