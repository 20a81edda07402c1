"""Import the comments of an export."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from ..exporter import COMMENT_FIELDS
from ..models import COMMENT_STATES, Comment, Post
from .entries import entries, moment, read_json, refuse_control_characters
from .step import Import
from .texts import Found


def check_comments(paths: list[Path], posts: dict[str, Found], step: Import) -> None:
    for path in paths:
        if path.stem not in posts:
            step.problems.append(f"{path}:1: does not belong to a post of this export; remove the file")
        # Reading the entries reports those that are not valid.
        for _comment in _comments(path, step):
            pass


def _comments(path: Path, step: Import) -> Iterator[Comment]:
    return entries(path, read_json(path, step), _comment, step)


def _comment(row: dict[str, Any]) -> Comment:
    """Return the comment in `row`. Raises KeyError, TypeError or ValueError if it is not valid."""
    comment = Comment(**{name: row[name] for name in COMMENT_FIELDS}, created_at=moment(row))
    if comment.state not in COMMENT_STATES:
        raise ValueError
    refuse_control_characters(comment.author, comment.body, comment.email or "")
    return comment


def write_comments(paths: list[Path], step: Import) -> None:
    for path in paths:
        post_id = step.session.scalars(select(Post.id).where(Post.slug == path.stem)).one()
        old = select(Comment.created_at, Comment.author, Comment.body).where(Comment.post_id == post_id)
        known = {tuple(row) for row in step.session.execute(old)}
        for comment in _comments(path, step):
            if (comment.created_at, comment.author, comment.body) not in known:
                comment.post_id = post_id
                step.session.add(comment)
                step.counts["comments"] += 1
        step.stop_at_problems()
        step.session.flush()
