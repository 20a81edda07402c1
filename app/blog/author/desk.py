"""Shared parts of the desk (the authors' pages below /author): blueprint, permissions, paging of lists."""

import re
from datetime import UTC, datetime
from typing import TypeVar

from flask import Blueprint, request
from sqlalchemy import ColumnElement, Select, func, select, true, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from ..accounts import current_user, signed_in_user
from ..front_matter import utc
from ..models import Comment, ContactMessage, Media, Post, db

PER_PAGE = 30
MAX_ID = 2**31 - 1

bp = Blueprint("author", __name__, url_prefix="/author")

_Row = TypeVar("_Row", Comment, ContactMessage, Media, Post)


def editable() -> ColumnElement[bool]:
    """Return the SQL condition for the posts that the user may change: own posts, or all as administrator."""
    person = signed_in_user()
    return true() if person.is_admin else Post.author_id == person.id


@bp.app_template_global()
def may_edit(thing: Post | Media) -> bool:
    """Tell whether the current user may change a post, or the description of a picture."""
    person = current_user()
    return person is not None and (person.is_admin or thing.author_id == person.id)


@bp.app_template_global()
def desk_counts() -> dict[str, int]:
    """Return the number of pending comments on the user's posts, and of unread messages without spam."""
    mine = select(Post.id).where(editable())
    pending = select(func.count()).where(Comment.state == "pending", Comment.post_id.in_(mine))
    unread = select(func.count()).where(~ContactMessage.is_read, ~ContactMessage.is_spam)
    row = db.session.execute(select(pending.scalar_subquery(), unread.scalar_subquery())).one()
    return {"comments": row[0], "messages": row[1]}


def newest(
    query: Select[_Row],
    moment: ColumnElement[datetime] | InstrumentedAttribute[datetime],
    key: InstrumentedAttribute[int],
) -> tuple[list[_Row], str | None]:
    """Return one page of rows, newest first, and the value of `?before` for the next page, or None.

    moment: the time to sort by. key: the column of the primary key, which sorts rows of the same time.
    """
    if last := _parse_place(request.args.get("before", "")):
        query = query.where(tuple_(moment, key) < tuple_(*last))
    ordered = query.add_columns(moment).order_by(moment.desc(), key.desc()).limit(PER_PAGE + 1)
    rows = [tuple(row) for row in db.session.execute(ordered)]
    found: list[_Row] = [row for row, _moment in rows[:PER_PAGE]]
    if len(rows) <= PER_PAGE:
        return found, None
    last_moment: datetime = rows[PER_PAGE - 1][1]
    return found, place(last_moment, found[-1].id)


def place(moment: datetime, number: int) -> str:
    """Return the value of `?before` for the rows after the row with this time and this primary key."""
    return f"{utc(moment)}~{number}"


def _parse_place(text: str) -> tuple[datetime, int] | None:
    """Return the time and the id in a value of `?before`, or None if it is not valid."""
    moment, _separator, number = text.rpartition("~")
    try:
        return (datetime.fromisoformat(moment).astimezone(UTC), int(number)) if is_id(number) else None
    except (ValueError, OverflowError):
        return None


def is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,10}", text) is not None and int(text) <= MAX_ID
