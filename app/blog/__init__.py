"""A small Flask blog: posts in Markdown, rendered to sanitised HTML."""

from collections.abc import Mapping
from functools import lru_cache
from inspect import iscoroutinefunction

from flask import Flask, Response, current_app, render_template
from werkzeug.exceptions import HTTPException, SecurityError
from werkzeug.middleware.proxy_fix import ProxyFix

from . import (
    accounts,
    assets,
    author,
    cli,
    comments,
    config,
    contact,
    feeds,
    freshness,
    health,
    languages,
    media,
    metrics,
    names,
    outage,
    pages,
    search,
    security_txt,
)
from .config import ConfigError
from .forms import csrf
from .models import db

__all__ = ["ConfigError", "create_app"]


def create_app(settings: Mapping[str, str] | None = None) -> Flask:
    """Create the application. This opens no database connection.

    settings: values by the names of environment variables. None means the environment of the process.
    Raises ConfigError, which names the missing or wrong setting.
    """
    app = Flask(__name__, static_folder=None)
    app.config.from_mapping(config.load(settings))
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    # A page has some 50 addresses, which depend only on these arguments.
    app.jinja_env.globals["url_for"] = lru_cache(maxsize=2_000)(app.url_for)
    hops = app.config["PROXY_HOPS"]
    outage.init_app(app)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]  # Flask's interface

    db.init_app(app)
    # The extension also closes asynchronous sessions after each request. The blog has none, and Flask would
    # start an event loop in a new thread for this.
    app.teardown_appcontext_funcs = [
        function for function in app.teardown_appcontext_funcs if not iscoroutinefunction(function)
    ]
    assets.init_app(app)
    app.url_map.converters["slug"] = names.SlugConverter
    metrics.init_app(app)
    # Flask runs after_request functions in reverse order of registration. accounts is registered before
    # freshness, so accounts runs later and can make a response private that freshness made public.
    readers = (pages, feeds, security_txt, search, comments, contact, languages)
    for module in (health, outage, media, accounts, freshness, author, *readers):
        app.register_blueprint(module.bp)
    csrf.init_app(app)  # csrf reads the body, so it must run after media, which sets the body limit
    app.register_error_handler(HTTPException, _error_page)
    app.after_request(_security_headers)
    for command in cli.commands:
        app.cli.add_command(command)
    return app


def _error_page(error: HTTPException) -> tuple[str, int] | HTTPException:
    if error.code is None or error.code < 400:
        return error  # it is a redirect, not an error
    if isinstance(error, SecurityError):
        return error  # the Host header is not trusted, so url_for cannot build URLs
    return render_template("error.html", error=error), error.code


def _security_headers(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", current_app.config["CONTENT_SECURITY_POLICY"])
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "strict-origin-when-cross-origin")
    return response
