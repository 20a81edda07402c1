"""Sessions that the server can end: the cookie has a random token, and a row its digest.

Each statement here is committed at once, in a transaction of its own, whatever becomes of the request.
"""

import secrets
from datetime import timedelta

from flask import current_app, request
from sqlalchemy import ColumnElement, and_, delete, func, insert, select, update

from . import throttle
from .models import User, UserSession, db

NOTED_AFTER = timedelta(minutes=5)  # that somebody was here is written down no more often
KEPT = 50  # sessions of one user: who begins another ends the one that was not used for longest

# The first word that is found tells: most browsers claim to be several others too.
_BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "FxiOS": "Firefox",
    "Chrome": "Chrome",
    "CriOS": "Chrome",
    "Safari": "Safari",
}
_SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Macintosh": "Mac",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}


def begin(person: User, token: str | None = None) -> tuple[str, int]:
    """Write down a new session of `person`; return its token and the id of its row.

    token: another one than a random one.
    """
    token = token or secrets.token_urlsafe(32)
    throttle.forget_rows(UserSession.id, UserSession.expires_at <= func.now())
    row = {"user_id": person.id, "epoch": person.session_epoch, "token": throttle.digest(token)} | _seen()
    with db.engine.begin() as connection:
        number = connection.execute(insert(UserSession).values(row).returning(UserSession.id)).scalar_one()
    newest_first = (UserSession.last_seen_at.desc(), UserSession.id.desc())
    others = select(UserSession.id).where(UserSession.user_id == person.id).order_by(*newest_first)
    throttle.forget_rows(UserSession.id, UserSession.id.in_(others.offset(KEPT)))
    return token, number


def find(token: str) -> tuple[User, int] | None:
    """Return whose session it is, and the id of its row; None when it has ended."""
    long_ago = UserSession.last_seen_at < func.now() - NOTED_AFTER
    query = select(User, UserSession.id, long_ago).join(UserSession, UserSession.user_id == User.id)
    row = db.session.execute(query.where(UserSession.token == throttle.digest(token), _is_valid())).first()
    if row is None:
        return None
    person, number, note = row
    if note:
        with db.engine.begin() as connection:
            connection.execute(update(UserSession).where(UserSession.id == number, long_ago).values(_seen()))
    return person, number


def of(person: User) -> list[UserSession]:
    """Return the sessions of `person`, the one that was used last first."""
    query = select(UserSession).join(User, UserSession.user_id == User.id)
    query = query.where(User.id == person.id, _is_valid())
    return list(db.session.scalars(query.order_by(UserSession.last_seen_at.desc(), UserSession.id.desc())))


def end(person: User, number: int) -> bool:
    """End a session by the id of its row, if it is one of `person`; tell whether it was."""
    return _delete(UserSession.user_id == person.id, UserSession.id == number) > 0


def end_all(person: User, *, but: int | None = None) -> None:
    """End all sessions of `person`, but the one with the id `but`."""
    _delete(UserSession.user_id == person.id, UserSession.id.is_distinct_from(but))


def describe(user_agent: str) -> str:
    """Return in a few words of ours what a User-Agent says: Firefox on Linux."""
    browser, system = (
        next((name for word, name in names.items() if word in user_agent), None)
        for names in (_BROWSERS, _SYSTEMS)
    )
    browser = browser or "A browser"
    return f"{browser} on {system}" if system else browser


def _delete(*which: ColumnElement[bool]) -> int:
    with db.engine.begin() as connection:
        return connection.execute(delete(UserSession).where(*which)).rowcount


def _is_valid() -> ColumnElement[bool]:
    return and_(UserSession.epoch == User.session_epoch, UserSession.expires_at > func.now())


def _seen() -> dict[str, object]:
    """Return what there is to say of a session that is used now."""
    return {
        "browser": describe(request.headers.get("User-Agent", "")),
        "client": throttle.client(),
        "last_seen_at": func.now(),
        "expires_at": func.now() + current_app.permanent_session_lifetime,
    }
