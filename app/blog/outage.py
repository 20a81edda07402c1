"""While the database is down, answer 503 at once. nginx then serves its cache, and no request waits."""

import threading

from flask import Blueprint, Response, current_app, render_template, request
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, PendingRollbackError, TimeoutError
from werkzeug.exceptions import ServiceUnavailable

from .models import db

RETRY_AFTER_S = 10

bp = Blueprint("outage", __name__)

_is_away = threading.Event()
_looking = threading.Lock()


@bp.before_app_request
def _refuse_at_once() -> None:
    """While the database is down, let one request at a time per worker try to connect. Refuse the others."""
    if not _is_away.is_set() or request.blueprint == "health" or request.endpoint == "static":
        return
    if not _looking.acquire(blocking=False):
        raise ServiceUnavailable
    try:
        with db.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        _is_away.clear()
    finally:
        _looking.release()


@bp.after_app_request
def _let_go(response: Response) -> Response:
    """Close the database session now. The page is complete, so an error while closing must not replace it."""
    try:
        db.session.close()
    except DBAPIError:
        db.session.invalidate()
    return response


@bp.app_errorhandler(DBAPIError)
@bp.app_errorhandler(PendingRollbackError)
@bp.app_errorhandler(TimeoutError)
def _database_failed(error: Exception) -> tuple[str, int, dict[str, str]]:
    """Answer 503 if the connection failed. An error that the database itself reported is raised again."""
    cause = getattr(error, "orig", None)
    if isinstance(error, DBAPIError) and not error.connection_invalidated and getattr(cause, "pgcode", None):
        raise error
    _is_away.set()
    current_app.logger.error("the database did not answer: %s", cause or error)
    return page(ServiceUnavailable())


@bp.app_errorhandler(503)
def page(error: ServiceUnavailable) -> tuple[str, int, dict[str, str]]:
    """Return the error page for status 503, with the header Retry-After."""
    headers = {"Retry-After": str(RETRY_AFTER_S), "Cache-Control": "no-store"}
    return render_template("error.html", error=error), 503, headers
