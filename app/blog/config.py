"""Read the settings from the environment once, at the start, and check them.

On a host, a setting that an operator can change is a variable of the role stack, in
roles/stack/defaults/main.yml, and compose.yml.j2 passes it on. Its default here is for a blog without
Slipway.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from .languages import is_language

CONNECT_TIMEOUT_S = 3
# The body limit of every request except uploads. nginx has the same limit below /author/
# (__stack_max_post_mb), and a lower one elsewhere (stack_max_body_kb).
BODY_LIMIT_BYTES = 4 * 1024 * 1024
STATEMENT_TIMEOUT_MS = 15_000  # less than proxy_read_timeout of nginx, so that a slow request gets a page


class ConfigError(Exception):
    """A setting is missing or wrong. The message names the setting, and tells how to correct it."""


def load(settings: Mapping[str, str] | None = None) -> dict[str, object]:
    """Read and check every setting. Return Flask's configuration.

    settings: the values by name of environment variable. If it is None, the environment is read.
    Raises ConfigError at the first setting that is missing or wrong.
    """
    env = os.environ if settings is None else settings
    base_url, host = _base_url(env)
    database_url = _database_url(env)
    key, former_keys = _secret_key(env), _former_keys(env)
    return {
        **load_server(env),
        "BASE_URL": base_url,
        "SITE_LANGUAGE": _language(env),
        "SITE_TITLE": env.get("SITE_TITLE") or "Slipway",
        "SITE_DESCRIPTION": env.get("SITE_DESCRIPTION", ""),
        "SITE_AUTHOR": env.get("SITE_AUTHOR", ""),
        "SECURITY_CONTACT": _security_contact(env),
        "POSTS_PER_PAGE": _integer(env, "POSTS_PER_PAGE", default=10, lowest=1, highest=100),
        "PROXY_HOPS": _integer(env, "PROXY_HOPS", default=0, lowest=0, highest=10),
        "REGISTRATION": _choice(env, "REGISTRATION", "closed", "open") == "open",
        "MEDIA_DIR": _absolute_path(env, "MEDIA_DIR", default="/srv/media"),
        "MAX_UPLOAD_BYTES": _integer(env, "MAX_UPLOAD_MB", default=10, lowest=1, highest=50) * 1024 * 1024,
        "MAX_MEDIA_BYTES": _integer(env, "MAX_MEDIA_MB", default=2048, lowest=1, highest=1024**2)
        * 1024
        * 1024,
        "MAX_CONTENT_LENGTH": BODY_LIMIT_BYTES,
        "MAX_FORM_MEMORY_SIZE": BODY_LIMIT_BYTES,
        "CONTENT_SECURITY_POLICY": _content_security_policy(env),
        "TRUSTED_HOSTS": [
            host,
            *(name.strip() for name in env.get("TRUSTED_HOSTS", "").split(",") if name.strip()),
        ],
        **_database(database_url),
        "SECRET_KEY": key,
        "SECRET_KEY_FALLBACKS": former_keys,
        # The last key signs tokens, and each key verifies them. So a form that was opened before a change of
        # the key can still be sent.
        "WTF_CSRF_SECRET_KEY": [*former_keys, key],
        "WTF_CSRF_TIME_LIMIT": None,  # a user's token is the same in each session (accounts.py)
        **_cookies(https=base_url.startswith("https:")),
    }


def _database(url: URL) -> dict[str, object]:
    connect_args = {
        "application_name": "slipway blog",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": 5000,  # milliseconds to wait for a host that does not respond
        "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
    }
    engine = {
        "url": url,
        "isolation_level": "AUTOCOMMIT",  # see request_session.py
        "pool_pre_ping": True,  # after a restart of the database, connect again without an error page
        "pool_timeout": 5,
        "connect_args": connect_args,
    }
    return {"DATABASE_URL": url, "SQLALCHEMY_ENGINES": {"default": engine}}


def _cookies(*, https: bool) -> dict[str, object]:
    return {
        # Browsers accept a __Host- cookie only over HTTPS, for exactly this host and the path /.
        "SESSION_COOKIE_NAME": "__Host-session" if https else "session",
        "SESSION_COOKIE_SECURE": https,
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_PATH": "/",
        # Else a slow response could replace a cookie that another request has changed, such as a sign-in.
        "SESSION_REFRESH_EACH_REQUEST": False,
        "PERMANENT_SESSION_LIFETIME": timedelta(days=14),
        # The beginning of a cookie's name; the rest is the number of a user. The cookie marks a browser in
        # which this user has signed in before. Only /login receives it.
        "BROWSER_COOKIE_NAME": "__Secure-browser" if https else "browser",
    }


def load_server(settings: Mapping[str, str] | None = None) -> dict[str, int]:
    """Read and check the settings of gunicorn: WEB_CONCURRENCY, WEB_THREADS, METRICS_PORT.

    METRICS_PORT 0 turns the metrics off. Raises ConfigError, as `load` does.
    """
    env = os.environ if settings is None else settings
    return {
        "WEB_CONCURRENCY": _integer(env, "WEB_CONCURRENCY", default=2, lowest=1, highest=64),
        "WEB_THREADS": _integer(env, "WEB_THREADS", default=4, lowest=1, highest=256),
        "METRICS_PORT": _integer(env, "METRICS_PORT", default=9100, lowest=0, highest=65535),
    }


def _required(env: Mapping[str, str], name: str, example: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise ConfigError(f"{name} is not set. Set it, for example {name}={example}")
    return value


def _file(env: Mapping[str, str], name: str) -> str:
    path = Path(env[name])
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            f"{name}: cannot read {path} ({reason}). Name a file that uid {os.getuid()} can read."
        ) from error


def _secret_file(env: Mapping[str, str], name: str) -> str:
    value = _file(env, name)
    if not value:
        raise ConfigError(f"{name}: {env[name]} is empty. Write the secret into it.")
    return value


def _database_url(env: Mapping[str, str]) -> URL:
    example = "postgresql://user@db:5432/blog"
    text = _required(env, "DATABASE_URL", example)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # do not chain the error, because it may contain the URL's password
        raise ConfigError(f"DATABASE_URL is not a URL. Write it like {example}") from None
    if url.drivername != "postgresql" or not url.database or not url.username:
        raise ConfigError(f"DATABASE_URL must name a user and a database of Postgres, like {example}")
    if url.password is not None:
        raise ConfigError(
            "DATABASE_URL contains a password. Remove it, and set DATABASE_PASSWORD_FILE to a file with it."
        )
    password = _secret_file(env, "DATABASE_PASSWORD_FILE") if env.get("DATABASE_PASSWORD_FILE") else None
    return url.set(drivername="postgresql+psycopg2", password=password)


def _secret_key(env: Mapping[str, str]) -> str:
    name = "SECRET_KEY_FILE" if env.get("SECRET_KEY_FILE") else "SECRET_KEY"
    if name == "SECRET_KEY_FILE":
        key = _secret_file(env, name)
    elif not (key := env.get(name, "")):
        raise ConfigError(
            "SECRET_KEY_FILE is not set. Set it to a file with a random key (or set SECRET_KEY)."
        )
    if len(key) < 32:
        raise ConfigError(
            f"{name}: the key has {len(key)} characters. Use at least 32. "
            "Make a key with: python3 -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return key


def _former_keys(env: Mapping[str, str]) -> list[str]:
    """Return the former keys, which still verify sessions but do not sign new ones."""
    name = "SECRET_KEY_FALLBACKS_FILE"
    if not env.get(name):
        return []
    keys = _file(env, name).splitlines()
    if any(len(key) < 32 for key in keys):
        raise ConfigError(
            f"{name}: a key has fewer than 32 characters. Write only former keys, one per line."
        )
    return keys


def _base_url(env: Mapping[str, str]) -> tuple[str, str]:
    """Return the base URL without a trailing slash, and its host name."""
    text = _required(env, "BASE_URL", "https://blog.example.com")
    problem = ConfigError(
        f"BASE_URL is {text!r}. Write the scheme, the host name or IPv4 address, and the port if it is not "
        "the default, without a path, like https://blog.example.com"
    )
    try:
        url = urlsplit(text)
        host, _port = url.hostname, url.port
    except ValueError:
        raise problem from None
    if url.scheme not in ("http", "https") or url.path not in ("", "/") or url.query or url.fragment:
        raise problem
    if not host or url.username is not None or not re.fullmatch(r"[a-z0-9.-]+", host):
        raise problem
    return f"{url.scheme}://{url.netloc.lower()}", host


def _security_contact(env: Mapping[str, str]) -> str:
    uri = env.get("SECURITY_CONTACT", "").strip()
    if not re.fullmatch(r"|https://[!-~]+|mailto:[!-~]+@[!-~]+|tel:[0-9+().-]+", uri):
        raise ConfigError(
            f"SECURITY_CONTACT is {uri!r}. Write an address that begins with mailto:, https:// or tel:, "
            "like mailto:security@example.com"
        )
    return uri


def _integer(env: Mapping[str, str], name: str, *, default: int, lowest: int, highest: int) -> int:
    text = env.get(name, "").strip() or str(default)
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not lowest <= int(text) <= highest:
        raise ConfigError(f"{name} is {text!r}. Set a whole number from {lowest} to {highest}.")
    return int(text)


def _choice(env: Mapping[str, str], name: str, default: str, *others: str) -> str:
    value = env.get(name, "").strip() or default
    if value not in (default, *others):
        raise ConfigError(f"{name} is {value!r}. Set it to {' or '.join((default, *others))}.")
    return value


def _language(env: Mapping[str, str]) -> str:
    value = env.get("SITE_LANGUAGE", "").strip() or "en"
    if not is_language(value):
        raise ConfigError(f"SITE_LANGUAGE is {value!r}. Set it to a language tag, such as en or pt-BR.")
    return value


def _absolute_path(env: Mapping[str, str], name: str, *, default: str) -> Path:
    path = Path(env.get(name, "").strip() or default)
    if not path.is_absolute():
        raise ConfigError(f"{name} is {str(path)!r}. Set the absolute path of a directory, like {default}.")
    return path


def _content_security_policy(env: Mapping[str, str]) -> str:
    img_src = env.get("CSP_IMG_SRC", "").strip() or "'self' https:"
    if not re.fullmatch(r"[!-+\--:<-~ ]+", img_src):
        raise ConfigError(
            f"CSP_IMG_SRC is {img_src!r}. Write sources separated by spaces, without ';' and ',', "
            "like 'self' https:"
        )
    return (
        f"default-src 'self'; img-src {img_src}; frame-ancestors 'none'; base-uri 'self'; "
        "form-action 'self'; object-src 'none'"
    )
