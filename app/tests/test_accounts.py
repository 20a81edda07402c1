import io
import json
import re
import time
from threading import Thread
from unittest.mock import patch

import pytest
from sqlalchemy import select, update
from werkzeug.security import check_password_hash

from blog import accounts, create_app, sessions
from blog.models import User, UserSession, db

from .conftest import ADA, BASE_URL, NEW_PASSWORD, PASSWORD, PASSWORD_CHANGE, is_signed_in, token_of


@pytest.fixture
def open_client(make_app):
    """Return a client of a blog where everybody may register."""
    return make_app(REGISTRATION="open").test_client()


def test_user_signs_in_and_out(ada, client):
    page = client.get("/login?next=/author/comments")
    token = token_of(page)
    response = client.post("/login?next=/author/comments", data=ADA | {"csrf_token": token})
    assert response.status_code == 303
    assert response.location == "/author/comments"
    cookie = response.headers["Set-Cookie"]
    for attribute in ("HttpOnly", "SameSite=Lax", "Path=/", "Expires="):
        assert attribute in cookie
    assert is_signed_in(client)
    assert client.get("/login").location == "/author/"
    assert client.send("/logout").location == "/"
    assert not is_signed_in(client)


@pytest.fixture
def with_key(make_app, tmp_path, ada):
    """Return a function that changes the secret key, and returns a client and the CSRF token of an open form.

    The client's session and the form began before the change of the key.
    """
    with ada.session_transaction(base_url=BASE_URL) as session:
        session.permanent = True  # a login makes the session permanent too
    page = ada.get("/account")
    token = token_of(page)
    cookie = ada.get_cookie("session", domain="blog.test").value

    def make(former):
        (tmp_path / "former").write_text("".join(f"{key}\n" for key in former))
        changed = {"SECRET_KEY": "n" * 40, "SECRET_KEY_FALLBACKS_FILE": str(tmp_path / "former")}
        client = make_app(**changed).test_client()
        client.set_cookie("session", cookie, domain="blog.test")
        return client, token

    return make


def test_sessions_and_open_forms_survive_a_change_of_the_key(with_key, settings):
    client, token = with_key([settings["SECRET_KEY"]])
    assert is_signed_in(client)
    assert client.post("/logout", data={"csrf_token": token}).location == "/"
    assert not is_signed_in(client)


def test_sessions_and_forms_of_a_removed_key_are_refused(with_key):
    client, token = with_key(["f" * 40])
    assert not is_signed_in(client)
    assert client.post("/logout", data={"csrf_token": token}).status_code == 400


def test_sessions_and_forms_that_are_used_are_signed_with_the_current_key(app, with_key, settings):
    client, _ = with_key([settings["SECRET_KEY"]])
    with app.app_context():
        earlier = UserSession.last_seen_at - sessions.NOTED_AFTER
        db.session.execute(update(UserSession).values(last_seen_at=earlier))
        db.session.commit()
    page = client.get("/account")
    cookie = client.get_cookie("session", domain="blog.test").value
    token = token_of(page)
    client, _ = with_key([])
    client.set_cookie("session", cookie, domain="blog.test")
    assert is_signed_in(client)
    assert client.post("/logout", data={"csrf_token": token}).location == "/"


def test_login_ignores_the_case_of_the_email_address(ada, client):
    assert client.send("/login", **ADA | {"email": "  ADA@Blog.Test "}).status_code == 303


def test_session_cookie_is_limited_to_this_host_and_https(settings):
    app = create_app(settings | {"BASE_URL": "https://blog.test"})
    cookie = app.test_client().get("/login", base_url="https://blog.test").headers["Set-Cookie"]
    assert cookie.startswith("__Host-session=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


def test_https_form_requires_a_referer_of_this_site(make_app):
    site = "https://blog.test"
    client = make_app(BASE_URL=site).test_client()
    token = token_of(client.get("/login", base_url=site))
    for referer, status in ((None, 400), ("https://evil.test/", 400), (f"{site}/login", 422)):
        headers = {"Referer": referer} if referer else {}
        response = client.post("/login", base_url=site, data={"csrf_token": token}, headers=headers)
        assert response.status_code == status


@pytest.mark.parametrize(
    "target",
    [
        "//evil.test",
        "https://evil.test",
        "/\\evil.test",
        "javascript:alert(1)",
        "evil",
        "/a\nb",
        "/%0d%0ax y",
        "",
    ],
)
def test_login_does_not_redirect_to_another_site(ada, client, target):
    response = client.send("/login?next=" + target.replace("\n", "%0a"), **ADA)
    assert response.location == "/author/"


def test_unknown_address_and_wrong_password_get_the_same_page(ada, client):
    wrong = client.send("/login", **ADA | {"password": "wrong"})
    unknown = client.send("/login", email="eve@blog.test", password="wrong")
    assert wrong.status_code == unknown.status_code == 422
    strip = re.compile(r'value="[^"]*"')
    assert strip.sub("", wrong.text) == strip.sub("", unknown.text)
    assert "The email address and the password do not match." in unknown.text
    assert "wrong" not in unknown.text


def test_login_hashes_the_password_for_an_unknown_address_too(ada, client):
    for email in ("ada@blog.test", "eve@blog.test"):
        with patch("blog.models.check_password_hash", side_effect=check_password_hash) as check:
            client.send("/login", email=email, password="wrong")
        (used, _), _ = check.call_args
        assert check.call_count == 1
        assert used.startswith("scrypt:32768:8:1$")


def test_dummy_user_cannot_sign_in(client):
    assert client.send("/login", email="nobody", password=" ").status_code == 422
    with patch("blog.models.check_password_hash", return_value=True):
        assert client.send("/login", email="nobody", password="x").status_code == 422


@pytest.mark.parametrize("email", ["", "\0", "a" * 300, "\x1b[31m"])
def test_login_refuses_invalid_input(client, email):
    assert client.send("/login", email=email, password="x").status_code == 422
    assert client.send("/login", email="a@b.test", password="x" * 2000).status_code == 422
    assert client.send("/login").status_code == 422


def test_login_and_logout_require_a_csrf_token(ada, client):
    assert client.post("/login", data=ADA).status_code == 400
    assert ada.post("/logout").status_code == 400
    assert is_signed_in(ada)


def test_account_page_redirects_a_visitor_to_the_login_page(client):
    response = client.get("/account?a=b")
    assert response.status_code == 302
    assert response.location == "/login?next=/account?a%3Db"
    assert client.send("/account/name", name="X").status_code == 403
    assert client.get("/logout").status_code == 404


@pytest.mark.parametrize("cookie", ["nonsense", "eyJ1c2VyIjoxfQ.x.y"])
def test_forged_session_cookie_is_refused(client, cookie):
    client.set_cookie("session", cookie, domain="blog.test")
    assert not is_signed_in(client)


def test_session_of_a_deleted_user_is_invalid(app, ada):
    with app.app_context():
        db.session.delete(db.session.scalars(select(User)).one())
        db.session.commit()
    assert not is_signed_in(ada)


def test_caches_do_not_store_pages_of_a_signed_in_user(ada, client, add_posts):
    add_posts(1)
    for path in ("/", "/posts/post-1", "/account", "/none"):
        assert ada.get(path).headers["Cache-Control"] == "private, no-store"
    assert "Write</a>" in ada.get("/").text
    assert client.get("/login").headers["Cache-Control"] == "private, no-store"
    stranger = client.application.test_client()
    assert "public" in stranger.get("/", base_url=BASE_URL).headers["Cache-Control"]


def test_user_changes_the_name(ada):
    assert ada.send("/account/name", name=" Ada  Quay ").status_code == 303
    page = ada.get("/account")
    assert 'value="Ada Quay"' in page.text
    assert "Your name is changed." in page.text
    assert ada.send("/account/name", name="x" * 101).status_code == 422


def test_new_password_replaces_the_old_one_and_ends_the_other_sessions(app, ada, client):
    assert client.send("/login", **ADA).status_code == 303
    assert ada.send("/account/password", **PASSWORD_CHANGE).status_code == 303
    assert is_signed_in(ada)
    assert not is_signed_in(client)
    assert client.send("/login", **ADA).status_code == 422
    assert client.send("/login", **ADA | {"password": NEW_PASSWORD}).status_code == 303


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"old": "wrong"}, "not your current password"),
        ({"old": ""}, "Enter your current password"),
        ({"new": "short", "again": "short"}, "at least 12 characters"),
        ({"new": "x" * 1001, "again": "x" * 1001}, "at least 12 characters"),
        ({"again": "something else"}, "The two new passwords differ"),
    ],
)
def test_account_page_refuses_an_invalid_password_change(ada, change, words):
    response = ada.send("/account/password", **PASSWORD_CHANGE | change)
    assert response.status_code == 422
    assert words in response.text


def test_tries_of_the_current_password_are_limited(ada, monkeypatch):
    monkeypatch.setattr(accounts, "PASSWORD_TRIES", 1)
    assert ada.send("/account/password", old="wrong").status_code == 422
    refused = ada.send("/account/password", old="wrong")
    assert refused.status_code == 429
    assert "Too many attempts" in refused.text


def test_registration_is_closed_by_default(client):
    assert client.get("/register").status_code == 404
    assert client.send("/register", name="E", email="e@blog.test", password=PASSWORD).status_code == 404
    assert "Register" not in client.get("/login").text


def test_visitor_registers_an_account(open_client):
    assert "Register" in open_client.get("/login").text
    assert open_client.get("/register").status_code == 200
    fields = {"name": "Eve", "email": "Eve@blog.test", "password": PASSWORD, "is_admin": "1"}
    assert open_client.send("/register", **fields).location == "/author/"
    assert is_signed_in(open_client)
    assert open_client.get("/register").location == "/author/"
    with open_client.application.app_context():
        eve = db.session.scalars(select(User)).one()
        assert eve.email == "eve@blog.test"
        assert eve.name == "Eve"
        assert not eve.is_admin
    open_client.send("/logout")
    again = open_client.send("/register", **fields)
    assert again.status_code == 409
    assert "An account with this address exists" in again.text


@pytest.mark.parametrize(
    "change", [{"name": ""}, {"email": "eve"}, {"email": "a b@c"}, {"password": "short"}, {"name": "\0"}]
)
def test_registration_refuses_invalid_fields(open_client, change):
    fields = {"name": "Eve", "email": "eve@blog.test", "password": PASSWORD}
    assert open_client.send("/register", **fields | change).status_code == 422


def test_number_of_registrations_is_limited(open_client, monkeypatch):
    monkeypatch.setattr(accounts, "REGISTRATIONS", 0)
    fields = {"name": "Eve", "email": "eve@blog.test", "password": PASSWORD}
    assert open_client.send("/register", **fields).status_code == 429


def test_set_password_changes_the_password_and_ends_the_sessions(app, runner, ada, client):
    def run(password: bytes, email: str = "ADA@blog.test"):
        arguments = ["user", "set-password", "--email", email, "--password-file", "-"]
        return runner.invoke(args=arguments, input=io.BytesIO(password))

    assert json.loads(run(PASSWORD.encode()).stdout) == {"changed": False, "email": "ada@blog.test"}
    assert is_signed_in(ada)
    assert json.loads(run(NEW_PASSWORD.encode() + b"\n").stdout) == {
        "changed": True,
        "email": "ada@blog.test",
    }
    assert not is_signed_in(ada)
    assert client.send("/login", **ADA | {"password": NEW_PASSWORD}).status_code == 303
    assert run(b"short").exit_code == 1
    nobody = run(PASSWORD.encode(), "eve@blog.test")
    assert nobody.exit_code == 1
    assert "no user has the email address" in nobody.stderr
    assert run(PASSWORD.encode(), "a\0b").exit_code == 1


def test_only_one_password_is_hashed_at_a_time(app):
    """Each hash needs 32 MB of memory."""
    running = most = 0

    def slow(*_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        return False

    user = User(email="a", name="", password_hash="x")
    with patch("blog.models.check_password_hash", side_effect=slow):
        threads = [Thread(target=user.check_password, args=("x",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1
