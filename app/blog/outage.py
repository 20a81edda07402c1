"""While the database is away: 503 at once, so that nginx serves what it has and no request waits."""

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
    """While the database is away, let one request at a time of each worker look for it."""
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
    """End what was read, while an answer can still be given: the page is there, whatever becomes of that."""
    try:
        db.session.close()
    except DBAPIError:
        db.session.invalidate()
    return response


@bp.app_errorhandler(DBAPIError)
@bp.app_errorhandler(PendingRollbackError)
@bp.app_errorhandler(TimeoutError)
def _database_failed(error: Exception) -> tuple[str, int, dict[str, str]]:
    """Answer 503 where there is no connection; what the database itself answered is another error."""
    cause = getattr(error, "orig", None)
    if isinstance(error, DBAPIError) and not error.connection_invalidated and getattr(cause, "pgcode", None):
        raise error
    _is_away.set()
    current_app.logger.error("the database did not answer: %s", cause or error)
    return page(ServiceUnavailable())


@bp.app_errorhandler(503)
def page(error: ServiceUnavailable) -> tuple[str, int, dict[str, str]]:
    """Return the page that says so, and when to come again."""
    headers = {"Retry-After": str(RETRY_AFTER_S), "Cache-Control": "no-store"}
    return render_template("error.html", error=error), 503, headers
