"""Requests that only read have no transaction, and others have one."""

from threading import Thread

import pytest
from flask import Flask
from sqlalchemy import text

from blog.forms import csrf
from blog.models import db

TIME = text("SELECT now()")  # the time when the transaction began


@pytest.fixture
def times(app: Flask) -> None:
    """Add a route that reads the time twice, and returns how many different times these are."""

    @app.route("/times", methods=["GET", "POST"])
    @csrf.exempt
    def times() -> str:
        return str(len({db.session.scalar(TIME) for _ in range(2)}))


@pytest.mark.usefixtures("times")
@pytest.mark.parametrize(("method", "number"), [("GET", "2"), ("POST", "1")])
def test_only_a_request_that_writes_has_a_transaction(client, method, number):
    assert client.open("/times", method=method).text == number


def test_command_has_a_transaction(app):
    with app.app_context():
        assert len({db.session.scalar(TIME) for _ in range(2)}) == 1


def test_request_starts_no_thread(client, monkeypatch):
    """Flask would start an event loop to close asynchronous sessions."""
    started, start = [], Thread.start

    def record(thread: Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(Thread, "start", record)
    assert client.get("/").status_code == 200
    assert started == []
