import io
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, update

from blog import sessions
from blog.models import User, UserSession, db

from .conftest import ADA, BASE_URL, NEW_PASSWORD, PASSWORD, PASSWORD_CHANGE, count, is_signed_in, token_of

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.0 Mobile/15E148 Safari/604.1"
)


@pytest.fixture
def ada(app, signed_in):
    """Create the user Ada, and return a client that is not signed in."""
    client = signed_in("Ada")
    client.send("/logout")
    return client


@pytest.fixture
def browser(app, ada):
    """Return a function that makes a browser in which Ada is signed in."""

    def sign_in(user_agent: str = FIREFOX):
        client = app.test_client()
        client.environ_base["HTTP_USER_AGENT"] = user_agent
        assert client.send("/login", **ADA).status_code == 303
        return client

    return sign_in


@pytest.fixture
def copy_of(app):
    """Return a function that makes another browser with the session cookie of a given browser."""

    def copy(client):
        other = app.test_client()
        other.set_cookie("session", client.get_cookie("session", "blog.test").value, domain="blog.test")
        return other

    return copy


def change_rows(app, **values: object) -> None:
    with app.app_context():
        db.session.execute(update(UserSession).values(values))
        db.session.commit()


def end_sessions(app) -> None:
    with app.app_context():
        db.session.execute(delete(UserSession))
        db.session.commit()


def path_to_end(page) -> str:
    [path] = re.findall(r'action="(/account/sessions/\d+/end)"', page.text)
    return path


def test_sign_out_ends_the_session_of_every_copy_of_the_cookie(app, browser, copy_of):
    client = browser()
    copy = copy_of(client)
    assert is_signed_in(copy)
    client.send("/logout")
    assert not is_signed_in(client)
    assert not is_signed_in(copy)
    assert count(app, UserSession) == 0


def test_sign_out_in_one_browser_keeps_the_session_of_another(browser):
    one, other = browser(), browser()
    one.send("/logout")
    assert not is_signed_in(one)
    assert is_signed_in(other)


def test_user_ends_a_session_from_another_browser(app, browser):
    laptop, phone = browser(), browser(PHONE)
    page = laptop.get("/account")
    assert re.findall(r"<b>(.*)</b>", page.text) == ["Safari on iPhone", "Firefox on Linux"]
    assert page.text.count("This browser") == 1
    assert laptop.send(path_to_end(page)).location == "/account"
    page = laptop.get("/account")
    assert "That session has ended." in page.text
    assert "iPhone" not in page.text
    assert not is_signed_in(phone)
    assert is_signed_in(laptop)


def test_user_ends_all_other_sessions_at_once(app, browser):
    one, *others = [browser() for _ in range(3)]
    assert "End all other sessions" in one.get("/account").text
    assert one.send("/account/sessions/end").location == "/account"
    assert is_signed_in(one)
    assert not any(is_signed_in(other) for other in others)
    page = one.get("/account").text
    assert "End all other sessions" not in page
    assert "/account/sessions/" not in page


def test_user_cannot_end_sessions_of_another_user(app, browser, signed_in):
    ada, eve = browser(), signed_in("Eve")
    with app.app_context():
        number = db.session.scalar(select(UserSession.id).join(User).where(User.name == "Ada"))
    assert eve.send(f"/account/sessions/{number}/end").location == "/account"
    assert "has ended" not in eve.get("/account").text
    eve.send("/account/sessions/end")
    assert is_signed_in(ada)
    assert is_signed_in(eve)


def test_ending_a_session_requires_a_token_and_a_session(app, browser, client):
    one, other = browser(), browser()
    path = path_to_end(one.get("/account"))
    for target in (path, "/account/sessions/end"):
        assert one.post(target).status_code == 400
        assert client.send(target).status_code == 403
        assert one.get(target).status_code in (404, 405)
    assert is_signed_in(other)


def test_user_ends_the_current_session(app, browser):
    one = browser()
    with app.app_context():
        number = db.session.scalar(select(UserSession.id))
    assert one.send(f"/account/sessions/{number}/end").status_code == 303
    assert not is_signed_in(one)


def test_new_password_ends_all_sessions_except_the_current_one(app, browser, copy_of):
    one, other = browser(), browser()
    copy = copy_of(one)
    assert one.send("/account/password", **PASSWORD_CHANGE).status_code == 303
    assert is_signed_in(one)
    assert not is_signed_in(other)
    assert not is_signed_in(copy), "the new session has another cookie"
    assert count(app, UserSession) == 1


def test_set_password_with_a_new_password_ends_all_sessions(app, browser, runner):
    one = browser()
    arguments = ["user", "set-password", "--email", "ada@blog.test", "--password-file", "-"]
    runner.invoke(args=arguments, input=io.BytesIO(PASSWORD.encode()))
    assert is_signed_in(one), "a session stays valid if the password is the same as before"
    runner.invoke(args=arguments, input=io.BytesIO(NEW_PASSWORD.encode()))
    assert not is_signed_in(one)
    assert count(app, UserSession) == 0


def test_deletion_of_a_user_deletes_the_sessions(app, browser):
    one = browser()
    with app.app_context():
        db.session.delete(db.session.scalars(select(User)).one())
        db.session.commit()
    assert count(app, UserSession) == 0
    assert not is_signed_in(one)


def test_next_sign_in_deletes_the_rows_of_expired_sessions(app, browser):
    one = browser()
    change_rows(app, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert not is_signed_in(one)
    assert count(app, UserSession) == 1
    browser()
    assert count(app, UserSession) == 1


def test_use_of_a_session_extends_it(app, browser):
    one = browser()
    now = datetime.now(UTC)
    change_rows(app, last_seen_at=now - timedelta(days=10), expires_at=now + timedelta(days=4))
    one.environ_base["REMOTE_ADDR"] = "192.0.2.77"
    one.get("/")
    with app.app_context():
        row = db.session.scalars(select(UserSession)).one()
    assert row.last_seen_at > now - timedelta(seconds=5)
    assert row.expires_at > now + timedelta(days=13)
    assert row.client == "192.0.2.77"


def test_response_replaces_the_cookie_only_to_extend_the_session(app, browser):
    """Else a slow response could replace the cookie of a later sign-in, or repeat a message."""
    one = browser()
    one.get("/author/")
    assert "Set-Cookie" not in one.get("/author/").headers
    change_rows(app, last_seen_at=datetime.now(UTC) - timedelta(minutes=6))
    assert "session=" in one.get("/author/").headers["Set-Cookie"]
    assert "Set-Cookie" not in one.get("/author/").headers


def test_post_request_does_not_replace_the_cookie_of_an_ended_session(app, browser):
    one = browser()
    page = one.get("/author/posts/new")
    end_sessions(app)
    refused = one.post("/author/preview", data={"body": "x", "csrf_token": token_of(page)})
    assert refused.status_code == 403
    assert "Set-Cookie" not in refused.headers


def test_only_the_newest_sessions_of_a_user_are_kept(app, browser, monkeypatch):
    monkeypatch.setattr(sessions, "KEPT", 2)
    first, second, third = (browser() for _ in range(3))
    assert not is_signed_in(first)
    assert is_signed_in(second)
    assert is_signed_in(third)


def test_session_needs_one_query_and_an_ended_session_needs_none(app, browser, add_posts, queries):
    add_posts(1)
    one, other = browser(), browser()

    def queries_of(client) -> int:
        client.get("/")
        queries.clear()
        client.get("/")
        return len(queries)

    anonymous = queries_of(app.test_client())
    assert queries_of(one) == anonymous + 1
    other.send("/account/sessions/end")
    assert queries_of(one) == anonymous


@pytest.fixture
def former(app, ada):
    """Return a browser that signed in under an older release without the table user_session."""
    client = app.test_client()
    with app.app_context():
        person = db.session.scalars(select(User)).one()
    with client.session_transaction(base_url=BASE_URL) as session:
        session |= {
            "user": person.id,
            "epoch": person.session_epoch,
            "csrf_token": "the-token-of-this-session",
        }
        session.permanent = True
    return client


def test_session_of_an_older_release_gets_a_row(app, former, copy_of):
    copy = copy_of(former)
    assert is_signed_in(former)
    assert is_signed_in(former)
    assert is_signed_in(copy), "the copy of the cookie belongs to the same session"
    assert count(app, UserSession) == 1
    assert "This browser" in former.get("/account").text


def test_sign_out_ends_a_session_of_an_older_release_for_every_copy_of_its_cookie(app, former, copy_of):
    before, unused = copy_of(former), copy_of(former)
    assert is_signed_in(before)
    former.send("/logout")
    assert not any(is_signed_in(client) for client in (former, before, unused))
    assert count(app, UserSession) == 0


def test_sign_out_ends_a_session_of_an_older_release_for_copies_from_before_its_first_form(
    app, former, copy_of
):
    """The older release added a CSRF token to the cookie when it showed the first form."""
    with former.session_transaction(base_url=BASE_URL) as session:
        token = session.pop("csrf_token")
    before = copy_of(former)
    with former.session_transaction(base_url=BASE_URL) as session:
        session["csrf_token"] = token
    former.send("/logout")
    assert not is_signed_in(before)


def test_new_password_ends_a_session_of_an_older_release(app, former):
    with app.app_context():
        db.session.execute(update(User).values(session_epoch=User.session_epoch + 1))
        db.session.commit()
    assert not is_signed_in(former)
    assert count(app, UserSession) == 0


def test_older_release_accepts_the_session_cookie(app, browser):
    """An older release reads only the user's id and epoch. It ends sessions by a change of the epoch."""
    one = browser()
    with one.session_transaction(base_url=BASE_URL) as session, app.app_context():
        person = db.session.scalars(select(User)).one()
        assert session["user"] == person.id
        assert session["epoch"] == person.session_epoch
        person.session_epoch += 1
        db.session.commit()
    assert not is_signed_in(one)


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        (PHONE, "Safari on iPhone"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (Linux; Android 15) Chrome/140.0 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) Version/18 Safari/605", "Safari on Mac"),
        ("curl/8.14.1", "A browser"),
        ("", "A browser"),
        ("<script>" * 1000, "A browser"),
    ],
)
def test_browser_is_described_in_fixed_words(user_agent, words):
    assert sessions.describe(user_agent) == words
