"""Sessions that the server can end. The cookie has a random token, and a row has the digest of the token.

A session ends when it was not used for PERMANENT_SESSION_LIFETIME (config.py), when its user signs out, ends
it on the account page or gets a new password (accounts.py, cli.py), or when the user signs in again and has
KEPT sessions that were used more recently.
The names and attributes of the cookies are in `_cookies` in config.py.

Each write to this table is committed at once in a separate transaction, so it stays if the request fails.
"""

import secrets
from datetime import timedelta

from flask import current_app, request, session
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, select, update

from . import throttle
from .models import User, UserSession, db

NOTED_AFTER = timedelta(minutes=5)  # last_seen_at is updated at most this often
KEPT = 50  # the number of sessions per user; a new session beyond this ends the least recently used one

# Most browsers name several of these words in the User-Agent, so the first match in this order decides.
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
    """Store a new session of `person`. Return its token and the id of its row.

    token: the token to use instead of a random one, for a cookie from an older release.
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
    """Return the user of a session and the id of its row, or None if the session has ended.

    If the session was last extended more than NOTED_AFTER ago, this extends it: the row, and the cookie.
    """
    row = db.session.execute(_SESSION, {"token": throttle.digest(token)}).first()
    if row is None:
        return None
    person, number, note = row
    if note:
        with db.engine.begin() as connection:
            change = update(UserSession).where(UserSession.id == number, _LONG_AGO).values(_seen())
            connection.execute(change)
        session.modified = True
    return person, number


def of(person: User) -> list[UserSession]:
    """Return the sessions of `person`, the most recently used session first."""
    query = select(UserSession).join(User, UserSession.user_id == User.id)
    query = query.where(User.id == person.id, _is_valid())
    return list(db.session.scalars(query.order_by(UserSession.last_seen_at.desc(), UserSession.id.desc())))


def end(person: User, number: int) -> bool:
    """End the session with the id `number` if it belongs to `person`. Tell whether a session was ended."""
    return _delete(UserSession.user_id == person.id, UserSession.id == number) > 0


def end_all(person: User, *, but: int | None = None) -> None:
    """End all sessions of `person`, except the one with the id `but`."""
    _delete(UserSession.user_id == person.id, UserSession.id.is_distinct_from(but))


def describe(user_agent: str) -> str:
    """Summarise a User-Agent in a few fixed words, such as "Firefox on Linux"."""
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
    """Return the columns to set for a session that is used now."""
    return {
        "browser": describe(request.headers.get("User-Agent", "")),
        "client": throttle.client(),
        "last_seen_at": func.now(),
        "expires_at": func.now() + current_app.permanent_session_lifetime,
    }


# Each request of a user needs this query, so it is made only once.
_LONG_AGO = UserSession.last_seen_at < func.now() - NOTED_AFTER
_SESSION = (
    select(User, UserSession.id, _LONG_AGO)
    .join(UserSession, UserSession.user_id == User.id)
    .where(UserSession.token == bindparam("token"), _is_valid())
)
