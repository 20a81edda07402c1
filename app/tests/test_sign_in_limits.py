"""The limits of attempts to guess a password.

A browser or an address from which a user has signed in is a known place of this user: see
blog/sign_in_limits.py.
"""

import io
import time
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest
from sqlalchemy import func, select, update

from blog import sign_in_limits
from blog.models import KnownPlace, User, db

from .conftest import ADA, NEW_PASSWORD, PASSWORD, PASSWORD_CHANGE, count, token_of

HOME = "198.51.100.7"


@pytest.fixture(autouse=True)
def ada(signed_in):
    return signed_in("Ada")


@pytest.fixture
def began() -> float:
    """Return the time before the first attempt to sign in."""
    return time.time()


@pytest.fixture
def visitor(app):
    """Return a function that makes a browser with an address, or gives the address to an existing browser."""

    def visit(address: str, browser=None):
        browser = browser or app.test_client()
        browser.environ_base["REMOTE_ADDR"] = address
        return browser

    return visit


@pytest.fixture
def regular(visitor):
    """Return a browser in which Ada has signed in, from the address HOME, and has signed out again."""
    browser = visitor(HOME)
    assert browser.send("/login", **ADA).status_code == 303
    assert browser.send("/logout").status_code == 303
    return browser


@pytest.fixture
def guess(visitor):
    """Return a function that sends wrong passwords from different addresses, and returns the last answer."""

    def send(times: int, **fields: str):
        with patch("blog.models.check_password_hash", return_value=False):
            for number in range(times):
                stranger = visitor(f"203.0.113.{number + 1}")
                response = stranger.send("/login", **ADA | {"password": "wrong"} | fields)
        return response

    return send


def number_of(app, name: str) -> int:
    with app.app_context():
        return db.session.scalar(select(User.id).where(User.name == name))


def test_many_guesses_lock_out_only_unknown_places(began, regular, visitor, guess):
    assert guess(60).status_code == 429
    refused = visitor("192.0.2.1").send("/login", **ADA)
    assert refused.status_code == 429
    # The hour begins with the first attempt. On a busy machine, the attempts take some seconds.
    assert 3599 - (time.time() - began) <= int(refused.headers["Retry-After"]) <= 3600
    assert "Wait 60 minutes" in refused.text
    assert visitor("192.0.2.1", regular).send("/login", **ADA).status_code == 303, "a known browser"
    assert visitor(HOME).send("/login", **ADA).status_code == 303, "a known address"


def test_tries_of_an_unknown_address_are_limited_too(guess):
    assert guess(60, email="eve@blog.test").text.count("Too many attempts") == 1


def test_known_browser_of_one_account_is_unknown_to_another_account(app, signed_in, regular, visitor, guess):
    signed_in("Eve")
    eve = visitor("192.0.2.66")
    assert eve.send("/login", email="eve@blog.test", password=PASSWORD).status_code == 303
    eve.send("/logout")
    guess(60)
    assert eve.send("/login", **ADA).status_code == 429
    value = eve.get_cookie(f"browser-{number_of(app, 'Eve')}", "blog.test", "/login").value
    eve.set_cookie(f"browser-{number_of(app, 'Ada')}", value, domain="blog.test", path="/login")
    assert eve.send("/login", **ADA).status_code == 429
    eve.set_cookie(f"browser-{number_of(app, 'Ada')}", "", domain="blog.test", path="/login")
    assert eve.send("/login", **ADA).status_code == 429


def test_guesses_from_a_known_browser_are_limited_too(regular, visitor, guess, monkeypatch):
    monkeypatch.setattr(sign_in_limits, "KNOWN_TRIES", 2)
    guess(60)
    elsewhere = visitor("192.0.2.1", regular)
    for status in (422, 422, 429):
        assert elsewhere.send("/login", **ADA | {"password": "wrong"}).status_code == status
    assert elsewhere.send("/login", **ADA).status_code == 429


def test_guesses_from_a_known_address_do_not_lock_out_the_known_browser(regular, visitor, guess):
    neighbour = visitor(HOME)
    with patch("blog.models.check_password_hash", return_value=False):
        for _ in range(60):
            status = neighbour.send("/login", **ADA | {"password": "wrong"}).status_code
    assert status == 429
    assert regular.send("/login", **ADA).status_code == 303


def test_tries_of_one_client_are_limited_per_account_and_in_total(visitor, monkeypatch):
    monkeypatch.setattr(sign_in_limits, "PAIR_TRIES", 2)
    monkeypatch.setattr(sign_in_limits, "CLIENT_TRIES", 5)
    guesser = visitor("203.0.113.1")
    waits = []
    for email in ("ada", "ada", "ada", "eve", "ivy"):
        response = guesser.send("/login", email=f"{email}@blog.test", password="wrong")
        waits.append(int(response.headers.get("Retry-After", 0)) > 0)
    assert waits == [False, False, True, False, False]
    response = guesser.send("/login", email="ann@blog.test", password="wrong")
    assert 590 <= int(response.headers["Retry-After"]) <= 600
    assert visitor("203.0.113.2").send("/login", **ADA).status_code == 303, "others can sign in"


def test_sign_in_resets_the_counts_of_its_place(regular, monkeypatch):
    monkeypatch.setattr(sign_in_limits, "KNOWN_TRIES", 2)
    monkeypatch.setattr(sign_in_limits, "PAIR_TRIES", 0)
    for _ in range(4):
        assert regular.send("/login", **ADA | {"password": "wrong"}).status_code == 422
        assert regular.send("/login", **ADA).status_code == 303
        regular.send("/logout")


@pytest.mark.parametrize("password", [PASSWORD, NEW_PASSWORD])
def test_set_password_resets_the_count_of_unknown_places(runner, visitor, guess, password):
    guess(60)
    arguments = ["user", "set-password", "--email", "ada@blog.test", "--password-file", "-"]
    assert runner.invoke(args=arguments, input=io.BytesIO(password.encode())).exit_code == 0
    assert visitor("192.0.2.1").send("/login", **ADA | {"password": password}).status_code == 303


def test_new_password_deletes_the_other_known_places(ada, regular, visitor, guess):
    new = ADA | {"password": NEW_PASSWORD}
    assert visitor("192.0.2.9", ada).send("/account/password", **PASSWORD_CHANGE).status_code == 303
    guess(60)
    assert regular.send("/login", **new).status_code == 429
    ada.send("/logout")
    assert ada.send("/login", **new).status_code == 303


def test_place_stays_known_for_half_a_year(app, regular, guess):
    past = datetime.now(UTC) - timedelta(seconds=1)
    with app.app_context():
        ages = db.session.scalars(select(KnownPlace.expires_at - func.now())).all()
        assert all(timedelta(days=179) < age <= timedelta(days=180) for age in ages)
        db.session.execute(update(KnownPlace).values(expires_at=past))
        db.session.commit()
    guess(60)
    assert regular.send("/login", **ADA).status_code == 429


def test_oldest_known_places_of_a_user_are_deleted(app, visitor, monkeypatch):
    monkeypatch.setattr(sign_in_limits, "KEPT", 3)
    for number in range(4):
        assert visitor(f"192.0.2.{number}").send("/login", **ADA).status_code == 303
    assert count(app, KnownPlace) == 3


def test_shared_browser_is_known_to_both_users(signed_in, visitor, guess, regular):
    signed_in("Eve")
    eve = ADA | {"email": "eve@blog.test"}
    assert regular.send("/login", **eve).status_code == 303
    regular.send("/logout")
    guess(60)
    guess(60, email="eve@blog.test")
    elsewhere = visitor("192.0.2.1", regular)
    assert elsewhere.send("/login", **ADA).status_code == 303
    elsewhere.send("/logout")
    assert elsewhere.send("/login", **eve).status_code == 303


def test_browser_cookie_is_sent_only_to_the_login_page(app, add_posts, visitor):
    add_posts(1)
    stranger = visitor(HOME)
    assert "Set-Cookie" not in stranger.get("/").headers
    assert "browser" not in stranger.get("/login").headers["Set-Cookie"]
    response = stranger.send("/login", **ADA)
    [cookie] = [text for text in response.headers.getlist("Set-Cookie") if text.startswith("browser-")]
    for attribute in ("Path=/login", "HttpOnly", "SameSite=Lax", "Max-Age=15552000"):
        assert attribute in cookie.split("; ")
    stranger.send("/logout")
    stranger.delete_cookie("session", domain="blog.test")
    assert stranger.get_cookie(f"browser-{number_of(app, 'Ada')}", "blog.test", "/login")
    assert "public" in stranger.get("/").headers["Cache-Control"]


def test_browser_cookie_of_an_https_site_is_secure(make_app):
    secure = make_app(BASE_URL="https://blog.test").test_client()
    token = token_of(secure.get("/login", base_url="https://blog.test"))
    headers = {"Referer": "https://blog.test/login"}
    fields = ADA | {"csrf_token": token}
    response = secure.post("/login", base_url="https://blog.test", data=fields, headers=headers)
    assert response.status_code == 303
    [cookie] = [text for text in response.headers.getlist("Set-Cookie") if "browser" in text]
    assert cookie.startswith("__Secure-browser-")
    assert "Secure" in cookie.split("; ")
