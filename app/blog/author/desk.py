"""Shared parts of the desk (the authors' pages below /author): blueprint, permissions, paging of lists."""

import re
from typing import TypeVar

from flask import Blueprint, request
from sqlalchemy import ColumnElement, Select, func, select, true
from sqlalchemy.orm import InstrumentedAttribute

from ..accounts import current_user, signed_in_user
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
def may_edit(post: Post) -> bool:
    """Tell whether the current user may change the post."""
    person = current_user()
    return person is not None and (person.is_admin or post.author_id == person.id)


@bp.app_template_global()
def desk_counts() -> dict[str, int]:
    """Return the number of pending comments on the user's posts, and the number of unread messages."""
    mine = select(Post.id).where(editable())
    pending = select(func.count()).where(Comment.state == "pending", Comment.post_id.in_(mine))
    unread = select(func.count()).where(ContactMessage.is_read.is_(False))
    row = db.session.execute(select(pending.scalar_subquery(), unread.scalar_subquery())).one()
    return {"comments": row[0], "messages": row[1]}


def newest(query: Select[_Row], key: InstrumentedAttribute[int]) -> tuple[list[_Row], int | None]:
    """Return one page of rows, newest first, and the value of `?before` for the next page, or None.

    key: the column of the primary key. The page contains rows whose key is lower than `?before`.
    """
    before = request.args.get("before", "")
    if is_id(before):
        query = query.where(key < int(before))
    rows = list(db.session.scalars(query.order_by(key.desc()).limit(PER_PAGE + 1)))
    return rows[:PER_PAGE], rows[PER_PAGE - 1].id if len(rows) > PER_PAGE else None


def is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,10}", text) is not None and int(text) <= MAX_ID
