from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from sqlalchemy import func, select, update

from blog import throttle
from blog.models import Throttle, db


@pytest.fixture(autouse=True)
def context(app):
    with app.app_context():
        yield


def stored() -> list[Throttle]:
    return list(db.session.scalars(select(Throttle)))


def test_tries_in_a_window_are_limited():
    assert [throttle.allow("a", 2, 60) for _ in range(4)] == [True, True, False, False]
    assert throttle.allow("b", 2, 60)
    assert 55 <= throttle.retry_after("a") <= 60
    assert throttle.retry_after("none") == 0


def test_expired_windows_are_deleted():
    throttle.allow("a", 1, 60)
    throttle.allow("b", 1, 60)
    past = datetime.now(UTC) - timedelta(seconds=1)
    with db.engine.begin() as connection:
        connection.execute(update(Throttle).values(expires_at=past))
    assert throttle.retry_after("a") == 0
    assert throttle.allow("a", 1, 60)
    assert not throttle.allow("a", 1, 60)
    assert len(stored()) == 1, "the expired window of b is deleted"


def test_forget_resets_the_count_of_a_key():
    throttle.allow("a", 1, 60)
    throttle.forget("a")
    assert throttle.allow("a", 1, 60)


def test_key_of_any_text_is_stored_as_a_digest():
    for key in ("\0", "x" * 10_000, "\ud800"):
        assert throttle.allow(key, 1, 60)
        assert not throttle.allow(key, 1, 60)
    assert {len(row.key) for row in stored()} == {64}


def test_count_is_kept_after_a_rollback():
    throttle.allow("a", 1, 60)
    db.session.rollback()
    assert not throttle.allow("a", 1, 60)


def test_simultaneous_tries_are_all_counted(app):
    answers = []

    def try_it() -> None:
        with app.app_context():
            answers.extend(throttle.allow("a", 5, 60) for _ in range(5))

    threads = [Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 15 + [True] * 5
    assert db.session.scalar(select(func.count()).select_from(Throttle)) == 1


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", "unknown"),
    ],
)
def test_client_is_an_ipv4_address_or_an_ipv6_network(app, address, client):
    with app.test_request_context(environ_base={"REMOTE_ADDR": address}):
        assert throttle.client() == client
