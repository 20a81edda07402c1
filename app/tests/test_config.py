import os
import subprocess
import sys

import pytest
from flask import request

from blog import ConfigError, create_app
from blog.config import load
from blog.models import db

from .browser import APP

GOOD = {
    "DATABASE_URL": "postgresql://blog@db:5432/blog",
    "SECRET_KEY": "k" * 32,
    "BASE_URL": "https://blog.example.com",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"DATABASE_URL": ""}, ["DATABASE_URL", "not set", "postgresql://user@db:5432/blog"]),
        ({"DATABASE_URL": "nonsense"}, ["DATABASE_URL", "not a URL"]),
        ({"DATABASE_URL": "postgresql://blog@db:port/blog"}, ["DATABASE_URL", "not a URL"]),
        ({"DATABASE_URL": "sqlite:///blog"}, ["DATABASE_URL", "Postgres"]),
        ({"DATABASE_URL": "postgresql://db/blog"}, ["DATABASE_URL", "user"]),
        ({"DATABASE_URL": "postgresql://a:hunter2@db/blog"}, ["password", "DATABASE_PASSWORD_FILE"]),
        ({"DATABASE_PASSWORD_FILE": "/nowhere"}, ["DATABASE_PASSWORD_FILE", "/nowhere", "No such file"]),
        ({"SECRET_KEY": ""}, ["SECRET_KEY_FILE", "not set"]),
        ({"SECRET_KEY": "short"}, ["SECRET_KEY", "5 characters", "token_hex"]),
        ({"SECRET_KEY_FILE": "/dev/null"}, ["SECRET_KEY_FILE", "empty"]),
        ({"SECRET_KEY_FALLBACKS_FILE": "/nowhere"}, ["SECRET_KEY_FALLBACKS_FILE", "No such file"]),
        ({"SECRET_KEY_FALLBACKS_FILE": "/proc/self/comm"}, ["SECRET_KEY_FALLBACKS_FILE", "32 characters"]),
        ({"BASE_URL": ""}, ["BASE_URL", "not set"]),
        ({"BASE_URL": "blog.example.com"}, ["BASE_URL", "https://"]),
        ({"BASE_URL": "https://blog.example.com/path"}, ["BASE_URL", "path"]),
        ({"BASE_URL": "https://me@blog.example.com"}, ["BASE_URL"]),
        ({"BASE_URL": "https://blog.example.com:port"}, ["BASE_URL"]),
        ({"BASE_URL": "http://[::1]:8000"}, ["BASE_URL", "IPv4"]),
        ({"SECURITY_CONTACT": "a@b.test"}, ["SECURITY_CONTACT", "'a@b.test'", "mailto:security@example.com"]),
        ({"SECURITY_CONTACT": "http://b.test/"}, ["SECURITY_CONTACT", "https://"]),
        ({"SECURITY_CONTACT": "mailto:a@b.test\nExpires: x"}, ["SECURITY_CONTACT", "begins with"]),
        ({"POSTS_PER_PAGE": "0"}, ["POSTS_PER_PAGE", "'0'", "from 1 to 100"]),
        ({"POSTS_PER_PAGE": "many"}, ["POSTS_PER_PAGE", "'many'"]),
        ({"PROXY_HOPS": "-1"}, ["PROXY_HOPS"]),
        ({"METRICS_PORT": "65536"}, ["METRICS_PORT", "from 0 to 65535"]),
        ({"WEB_CONCURRENCY": "0"}, ["WEB_CONCURRENCY", "from 1 to 64"]),
        ({"WEB_THREADS": "four"}, ["WEB_THREADS", "'four'"]),
        ({"REGISTRATION": "yes"}, ["REGISTRATION", "'yes'", "closed or open"]),
        ({"MEDIA_DIR": "media"}, ["MEDIA_DIR", "'media'", "/srv/media"]),
        ({"MAX_UPLOAD_MB": "51"}, ["MAX_UPLOAD_MB", "from 1 to 50"]),
        ({"CSP_IMG_SRC": "'self'; script-src *"}, ["CSP_IMG_SRC", "';'"]),
    ],
)
def test_error_names_the_wrong_setting_and_the_correction(change, words):
    with pytest.raises(ConfigError) as caught:
        load(GOOD | change)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "hunter2" not in message


def test_secrets_are_read_from_files(tmp_path):
    (tmp_path / "key").write_text("s" * 40 + "\n")
    (tmp_path / "password").write_text("p@ss:word\n")
    config = load(
        {
            "DATABASE_URL": GOOD["DATABASE_URL"],
            "DATABASE_PASSWORD_FILE": str(tmp_path / "password"),
            "SECRET_KEY_FILE": str(tmp_path / "key"),
            "BASE_URL": GOOD["BASE_URL"],
        }
    )
    assert config["SECRET_KEY"] == "s" * 40
    assert config["DATABASE_URL"].password == "p@ss:word"
    assert "p@ss" not in str(config["DATABASE_URL"])


def test_file_of_former_keys_is_optional_and_may_be_empty(tmp_path):
    file = tmp_path / "former"
    assert load(GOOD)["SECRET_KEY_FALLBACKS"] == []
    for text, keys in {"": [], f"{'a' * 32}\n{'b' * 32}\n": ["a" * 32, "b" * 32]}.items():
        file.write_text(text)
        assert load(GOOD | {"SECRET_KEY_FALLBACKS_FILE": str(file)})["SECRET_KEY_FALLBACKS"] == keys


def test_cookies_follow_the_scheme_of_the_base_url():
    secure = load(GOOD)
    assert secure["SESSION_COOKIE_NAME"] == "__Host-session"
    assert secure["SESSION_COOKIE_SECURE"] is True
    assert load(GOOD | {"BASE_URL": "http://127.0.0.1:8080/"})["SESSION_COOKIE_SECURE"] is False


def test_trusted_hosts_are_the_base_url_and_the_extra_hosts():
    assert load(GOOD | {"TRUSTED_HOSTS": "a.test, b.test,"})["TRUSTED_HOSTS"] == [
        "blog.example.com",
        "a.test",
        "b.test",
    ]


def test_create_app_opens_no_connection():
    app = create_app(GOOD)
    with app.app_context():
        assert db.engine.pool.checkedin() == 0


def test_missing_setting_ends_the_process_with_one_line():
    env = {"PATH": os.environ["PATH"], "FLASK_APP": "wsgi"}
    command = [sys.executable, "-m", "flask", "migrate"]
    result = subprocess.run(command, cwd=APP, env=env, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "slipway: BASE_URL is not set. Set it, for example BASE_URL=https://blog.example.com"
    ]


def test_app_trusts_only_the_stated_number_of_proxies():
    app = create_app(GOOD | {"PROXY_HOPS": "1"})

    @app.get("/who")
    def who():
        return f"{request.remote_addr} {request.scheme}"

    headers = {"X-Forwarded-For": "6.6.6.6, 10.0.0.9", "X-Forwarded-Proto": "https"}
    response = app.test_client().get("/who", base_url="http://blog.example.com", headers=headers)
    assert response.text == "10.0.0.9 https"
