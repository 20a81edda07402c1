"""Limit the attempts to guess a password, without locking out the account's owner.

A browser or an address from which a user has signed in before is a "known place" of this user. Each known
place has a separate count of attempts for this user's account. All other attempts are counted per client,
per client and account, and per account. Many clients together can use up the count per account, but the
owner can still sign in from a known place.
"""

import secrets
from datetime import timedelta

from flask import Response, after_this_request, current_app, request, url_for
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from . import throttle
from .models import KnownPlace, User, db

CLIENT_TRIES, CLIENT_WINDOW_S = 20, 600
PAIR_TRIES, ACCOUNT_TRIES, KNOWN_TRIES, WINDOW_S = 10, 50, 20, 3600
KNOWN_FOR = timedelta(days=180)
KEPT = 50  # the number of known places per user


def refuse(email: str, account: User) -> str | None:
    """Count an attempt to sign in. Return None if it is allowed, else the key of the count that is used up.

    email: the address from the form, in lower case.
    account: the user with this address, or a dummy user if there is none.
    """
    for place in _known_places(account):
        if throttle.allow(_key(place, email, account), KNOWN_TRIES, WINDOW_S):
            return None
    client = throttle.client()
    for key, limit, seconds in (
        (f"login {client}", CLIENT_TRIES, CLIENT_WINDOW_S),
        (_key(client, email, account), PAIR_TRIES, WINDOW_S),
        (_key("", email, account), ACCOUNT_TRIES, WINDOW_S),
    ):
        if not throttle.allow(key, limit, seconds):
            return key
    return None


def remember(person: User) -> None:
    """Store the browser and the address of this request as known places of `person`. Reset their counts."""
    token = request.cookies.get(_cookie_name(person), "")
    if _browser(token) not in _known_places(person):
        token = secrets.token_urlsafe(32)
    places = [_browser(token), _address()]
    throttle.forget_rows(KnownPlace.id, KnownPlace.expires_at <= func.now())
    expires_at = func.now() + KNOWN_FOR
    rows = [{"user_id": person.id, "place": place, "expires_at": expires_at} for place in places]
    same = [KnownPlace.user_id, KnownPlace.place]
    with db.engine.begin() as connection:
        connection.execute(
            insert(KnownPlace)
            .values(rows)
            .on_conflict_do_update(index_elements=same, set_={"expires_at": expires_at})
        )
    others = select(KnownPlace.id).where(KnownPlace.user_id == person.id)
    others = others.order_by(KnownPlace.expires_at.desc(), KnownPlace.id.desc()).offset(KEPT)
    throttle.forget_rows(KnownPlace.id, KnownPlace.id.in_(others))
    for place in (*places, throttle.client()):
        throttle.forget(_key(place, person.email, person))

    name = _cookie_name(person)

    @after_this_request
    def keep(response: Response) -> Response:
        response.set_cookie(
            name,
            token,
            max_age=KNOWN_FOR,
            path=url_for("accounts.login"),
            secure=current_app.config["SESSION_COOKIE_SECURE"],
            httponly=True,
            samesite="Lax",
        )
        return response


def forget_places(person: User) -> None:
    """Delete the known places of `person`, because an intruder may have added some."""
    with db.engine.begin() as connection:
        connection.execute(delete(KnownPlace).where(KnownPlace.user_id == person.id))


def forget_tries(person: User) -> None:
    """Reset the count of attempts from all unknown places for the account of `person`."""
    throttle.forget(_key("", person.email, person))


def _known_places(account: User) -> list[str]:
    """Return the browser and the address of this request, if they are known places of this user."""
    places = [_browser(request.cookies.get(_cookie_name(account), "")), _address()]
    query = select(KnownPlace.place).where(KnownPlace.user_id == account.id, KnownPlace.place.in_(places))
    known = set(db.session.scalars(query.where(KnownPlace.expires_at > func.now())))
    return [place for place in places if place in known]


def _browser(token: str) -> str:
    return throttle.digest(f"browser {token}")


def _address() -> str:
    return throttle.digest(f"address {throttle.client()}")


def _key(place: str, email: str, account: User) -> str:
    """Return the key of a count. The key contains the session epoch, so a new password starts new counts."""
    return f"login {place} {email} {account.session_epoch}"


def _cookie_name(account: User) -> str:
    """Return the name of the account's cookie. Users who share a browser have separate cookies."""
    return f"{current_app.config['BROWSER_COOKIE_NAME']}-{account.id}"
