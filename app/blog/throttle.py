"""Rate limits. Attempts are counted in Postgres, so that all workers share the counts."""

import hashlib
import ipaddress
import math
from datetime import timedelta
from typing import Any

from flask import request
from sqlalchemy import ColumnElement, case, delete, extract, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute

from .models import Throttle, db


def allow(key: str, limit: int, seconds: int) -> bool:
    """Count an attempt for `key`. Tell whether it is one of the first `limit` attempts of its time window.

    seconds: the length of the window, which begins with the first attempt.
    The count is committed at once in a separate transaction, so it stays if the request fails.
    """
    expired = Throttle.expires_at <= func.now()
    window_end = func.now() + timedelta(seconds=seconds)
    count = (
        insert(Throttle)
        .values(key=digest(key), count=1, expires_at=window_end)
        .on_conflict_do_update(
            index_elements=[Throttle.key],
            set_={
                "count": case((expired, 1), else_=func.least(Throttle.count, limit) + 1),
                "expires_at": case((expired, window_end), else_=Throttle.expires_at),
            },
        )
        .returning(Throttle.count)
    )
    with db.engine.begin() as connection:
        tries = connection.execute(count).scalar_one()
    if tries == 1:  # a new window has begun, so delete the expired windows now
        forget_rows(Throttle.key, expired)
    return tries <= limit


def retry_after(key: str) -> int:
    """Return the seconds until the window of `key` ends, rounded up; 0 if `key` has no window."""
    left = select(extract("epoch", Throttle.expires_at - func.now())).where(Throttle.key == digest(key))
    with db.engine.connect() as connection:
        return max(0, math.ceil(connection.scalar(left) or 0))


def forget(key: str) -> None:
    """Reset the count of `key`."""
    with db.engine.begin() as connection:
        connection.execute(delete(Throttle).where(Throttle.key == digest(key)))


def forget_rows(key: InstrumentedAttribute[Any], *which: ColumnElement[bool]) -> None:
    """Delete rows at once in a separate transaction, except rows that another request has locked.

    key: the primary key. which: the conditions for the rows.
    """
    found = select(key).where(*which).with_for_update(skip_locked=True)
    with db.engine.begin() as connection:
        connection.execute(delete(key.class_).where(key.in_(found)))


def client() -> str:
    """Return what is counted as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return "unknown"
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))


def digest(key: str) -> str:
    """Return the SHA-256 of `key` in hexadecimal: short ASCII text, whatever the key is."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
