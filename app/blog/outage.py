"""Requests while the database is away: a short outage delays them, and a longer one ends them with 503.

A restart of the database takes a few seconds. A request that arrives meanwhile waits for the database. If the
database is lost in the middle of a request that only reads, the request is repeated. Any other request first
begins a transaction, and waits if that fails. If it loses the database later, it gets 503, because nobody
knows what it has changed. From PAUSE_S after the beginning of the outage, every request gets 503 at once, so
that no request waits in vain. If nginx has an older copy of the page, the request never waits: after the 503,
nginx serves that copy.
"""

import socket
import threading
import time
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Blueprint, Flask, Response, current_app, render_template, request
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, PendingRollbackError, TimeoutError
from werkzeug.exceptions import HTTPException, InternalServerError, ServiceUnavailable

from .models import db

RETRY_AFTER_S = 10
PAUSE_S = 6  # how long requests wait, from the beginning of an outage
_PROBE_S = 0.1  # the time between two attempts to connect while requests wait
_WATCH_S = 1  # the same while no request waits
# How long an attempt waits for a TCP connection. While the database's container is replaced, its address does
# not exist, and libpq would wait longer.
_REACH_S = 0.5
# SQLSTATE of a lost connection (class 08), and of a server that stops, starts or has crashed.
_LOST = ("08", "57P")
_DISK_FULL = "53100"
# A second repetition may be necessary: the first may get another pooled connection that the stopping server
# is about to close. Do not repeat more often: the request itself may be what ends the connection.
_REPETITIONS = 2
_REPEATED = "blog.repeated"  # the key in the WSGI environment: how often the request was repeated

bp = Blueprint("outage", __name__)


class _Outage:
    """The current outage of the database, if any, in this worker."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._is_over.set()
        self._lock, self._probe_lock, self._began = threading.Lock(), threading.Lock(), 0.0

    def is_over(self) -> bool:
        return self._is_over.is_set()

    def begin(self, reason: object) -> None:
        """Note that the database did not answer, and log the reason once."""
        with self._lock:
            if self.is_over():
                self._began = time.monotonic()
                self._is_over.clear()
                current_app.logger.error("the database did not answer: %s", reason)
                app = current_app._get_current_object()  # type: ignore[attr-defined]  # Flask's interface
                threading.Thread(target=self._watch, args=(app,), daemon=True).start()

    def _watch(self, app: Flask) -> None:
        """Notice the end of the outage even if no request comes.

        Otherwise the next outage would count as a part of this one, and its requests would get 503 at once.
        """
        with app.app_context():
            while not self._is_over.wait(_WATCH_S):
                self._try()

    def end(self) -> None:
        """Note that the database answers."""
        with self._lock:
            if not self.is_over():
                seconds = time.monotonic() - self._began
                self._is_over.set()
                current_app.logger.warning("the database answers again, after %.1f s", seconds)

    def _try(self) -> None:
        """Try to connect, unless another thread of this worker is trying."""
        if self._probe_lock.acquire(blocking=False):
            try:
                if _database_answers():
                    self.end()
            finally:
                self._probe_lock.release()

    def wait(self, *, patiently: bool) -> bool:
        """Wait for the database until PAUSE_S after it was lost. Tell whether it answers.

        One thread at a time per worker tries to connect. patiently: False to try once without waiting.
        """
        while not self.is_over():
            self._try()
            left = self._began + PAUSE_S - time.monotonic() if patiently else 0
            if left <= 0:
                break
            self._is_over.wait(min(left, _PROBE_S))
        return self.is_over()


_outage = _Outage()


def _database_answers() -> bool:
    url = db.engine.url
    try:
        if url.host:
            socket.create_connection((url.host, url.port or 5432), _REACH_S).close()
        with db.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except (OSError, DBAPIError, TimeoutError):
        return False
    return True


class DiskFull(HTTPException):
    """The database cannot write, because its disk is full: 507 Insufficient Storage (RFC 4918)."""

    code: int = 507


class _LostError(BaseException):
    """The database was lost during a request that can be repeated.

    It derives from BaseException, because Flask's error handlers would catch an Exception.
    """


class _Repeater:
    """Repeat a request that ends with _LostError."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for number in range(_REPETITIONS):
            environ[_REPEATED] = number
            try:
                return self._app(environ, start_response)
            except _LostError:
                time.sleep(_PROBE_S)
        environ[_REPEATED] = _REPETITIONS
        return self._app(environ, start_response)


def init_app(app: Flask) -> None:
    """Repeat requests that lose their connection to the database."""
    app.wsgi_app = _Repeater(app.wsgi_app)  # type: ignore[method-assign]  # Flask's interface


def _is_patient() -> bool:
    """Tell whether this request may wait: not if nginx has a copy of the page, which it then serves."""
    return request.headers.get("X-Cache-Status") != "EXPIRED"


def _may_be_repeated() -> bool:
    left = _REPETITIONS - request.environ[_REPEATED]
    return request.method in ("GET", "HEAD") and _is_patient() and left > 0


@bp.before_app_request
def _wait_for_database() -> None:
    if request.blueprint == "health" or request.endpoint == "static":
        return
    if not _outage.is_over() and not _outage.wait(patiently=_is_patient()):
        raise ServiceUnavailable
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        _begin_transaction()


def _begin_transaction() -> None:
    """Begin the transaction of a request that cannot be repeated, while the request can still wait.

    Before a planned change of the database, the host program locks alembic_version (host/slipway/startup.py).
    So it waits for this transaction, or this request waits here, and begins again with the next database.
    """
    for _attempt in range(1 + _REPETITIONS):
        try:
            db.session.execute(text("SELECT FROM alembic_version"))
        except DBAPIError as error:
            if not _is_lost(error):
                raise
            _close_session()
            _outage.begin(error.orig or error)
            if not _outage.wait(patiently=True):
                break
        else:
            return
    raise ServiceUnavailable


@bp.after_app_request
def _close_session_early(response: Response) -> Response:
    """Close the database session now. The page is complete, so an error while closing must not replace it."""
    _close_session()
    return response


def _close_session() -> None:
    try:
        db.session.close()
    except DBAPIError:
        db.session.invalidate()


def _is_lost(error: Exception) -> bool:
    """Tell whether an error means that the database is away, not that it has refused a statement."""
    if isinstance(error, PendingRollbackError | TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "pgcode", None)
    return error.connection_invalidated or code is None or code.startswith(_LOST)


@bp.app_errorhandler(DBAPIError)
@bp.app_errorhandler(PendingRollbackError)
@bp.app_errorhandler(TimeoutError)
def _database_failed(error: Exception) -> tuple[str, int, dict[str, str]]:
    """Answer 503, or repeat the request, if the database is away; answer 507 if its disk is full.

    Otherwise raise the error again.
    """
    if getattr(getattr(error, "orig", None), "pgcode", None) == _DISK_FULL:
        current_app.logger.error("the database cannot save anything: %s", error)
        return page(DiskFull())
    if not _is_lost(error):
        raise error
    _outage.begin(getattr(error, "orig", None) or error)
    if _may_be_repeated() and not isinstance(error, TimeoutError):
        _close_session()
        raise _LostError
    return page(ServiceUnavailable())


@bp.app_errorhandler(InternalServerError)
def _handler_failed(error: InternalServerError) -> tuple[str, int, dict[str, str]]:
    """If the database was lost while the blog handled another error, answer as for a lost database."""
    original = error.original_exception
    if isinstance(original, Exception) and _is_lost(original):
        return _database_failed(original)
    return render_template("error.html", error=error), 500, {}


@bp.app_errorhandler(503)
def page(error: ServiceUnavailable | DiskFull) -> tuple[str, int, dict[str, str]]:
    """Return the error page for status 503 or 507, with the header Retry-After."""
    headers = {"Retry-After": str(RETRY_AFTER_S), "Cache-Control": "no-store"}
    return render_template("error.html", error=error), error.code, headers
