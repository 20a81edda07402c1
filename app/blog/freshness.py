"""Limit the age of responses from nginx's cache.

Every public page has an expiry time, so that normally no response is older than two seconds. Only while the
blog or its database is down, nginx serves older pages, for the hours of `inactive` in blog.conf.j2. These
pages must not show withdrawn content, which is content that was deleted, unpublished or renamed. So each
withdrawal begins a new "generation": a new random name, which is part of nginx's cache key. nginx then finds
none of the pages that it cached before.
"""

import fcntl
import tempfile
import time
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, g, request
from sqlalchemy import Executable, Update, event, inspect
from sqlalchemy.orm import InstanceState, ORMExecuteState, Session, UOWTransaction

from .models import Comment, Page, Post, Tag

# nginx may cache a response until the end of the second in which the request arrived. For one more second,
# nginx may serve this response while it requests a new one. So a response is at most two seconds old.
STALE_S = 1
# Caches may keep only responses with these statuses. Another response, such as 500, may be temporary.
_KEPT = {200, 301, 302, 308, 404, 410}
_LINK = ".generation"

bp = Blueprint("freshness", __name__)


@bp.before_app_request
def _begin() -> None:
    g.asked_at = time.time()  # the time before the first query, so that no data is older than this


@bp.after_app_request
def _keep(response: Response) -> Response:
    """If a response has no Cache-Control, let caches keep it.

    If the request has a session, accounts.py makes the response private afterwards.
    """
    is_public = "Cache-Control" not in response.headers and "asked_at" in g
    if request.method not in ("GET", "HEAD") or response.status_code not in _KEPT or not is_public:
        return response
    response.cache_control.public = True
    response.cache_control.max_age = 0  # browsers ask each time whether the page with this ETag has changed
    response.cache_control.s_maxage = 1
    response.cache_control.stale_while_revalidate = STALE_S
    # For nginx, s-maxage would begin when the response arrives, which is later than the database queries.
    response.headers["X-Accel-Expires"] = f"@{int(g.asked_at)}"
    if response.status_code == 200:
        response.add_etag()
        response.make_conditional(request)
    return response


def begin_generation(folder: Path) -> None:
    """Invalidate all pages in nginx's cache: point the link `folder/.generation` to a new directory.

    folder: a directory that nginx can read too. Raises OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{_LINK}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = Path(tempfile.mkdtemp(prefix=f"{_LINK}-", dir=folder))
        link = folder / f"{_LINK}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(new.name)
        link.rename(folder / _LINK)
        for former in folder.glob(f"{_LINK}-*"):
            if former != new:
                former.rmdir()


def generation(folder: Path) -> str:
    """Return the name of the present generation; empty before the first withdrawal."""
    try:
        return str((folder / _LINK).readlink())
    except OSError:
        return ""


@event.listens_for(Session, "before_flush")
def _note_withdrawn(session_: Session, _context: UOWTransaction, _instances: object) -> None:
    changed = (*session_.deleted, *(row for row in session_.dirty if session_.is_modified(row)))
    if any(_is_withdrawn(row, gone=row in session_.deleted) for row in changed):
        session_.info["withdrawn"] = True


@event.listens_for(Session, "do_orm_execute")
def _note_withdrawn_in_bulk(state: ORMExecuteState) -> None:
    if not (state.is_update or state.is_delete) or state.bind_mapper is None:
        return
    if state.bind_mapper.class_ in (Comment, Page, Post) and not _is_approval(state.statement):
        state.session.info["withdrawn"] = True


def _is_approval(statement: Executable) -> bool:
    return isinstance(statement, Update) and statement.compile().params.get("state") == "approved"


@event.listens_for(Session, "after_commit")
def _withdraw(session_: Session) -> None:
    if not session_.info.pop("withdrawn", False):
        return
    try:
        begin_generation(current_app.config["MEDIA_DIR"])
    except OSError as error:
        current_app.logger.error(
            "MEDIA_DIR cannot be written, so withdrawn pages may reappear while the blog or its database is "
            "down. Let the blog write to it: %s",
            error,
        )


@event.listens_for(Session, "after_rollback")
def _forget(session_: Session) -> None:
    session_.info.pop("withdrawn", None)


def _is_withdrawn(row: object, *, gone: bool) -> bool:
    """Tell whether writing the row removes something that readers could see."""
    if not isinstance(row, Comment | Page | Post | Tag):
        return False
    state: InstanceState[Any] = inspect(row)
    past = state.attrs
    if isinstance(row, Comment):
        return "approved" in past.state.history.deleted or (gone and row.state == "approved")
    if gone or past.slug.history.deleted:
        return True
    if isinstance(row, Tag):
        return any(past.name.history.deleted)
    # A draft had no publication time, so readers could not see it, and its change withdraws nothing.
    return isinstance(row, Post) and any(past.published_at.history.deleted)
