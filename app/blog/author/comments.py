"""The pages where authors moderate the comments on their own posts."""

from typing import Any, cast

from flask import abort, flash, redirect, render_template, request, url_for
from sqlalchemy import ColumnElement, CursorResult, Delete, Update, delete, func, select, update
from sqlalchemy.orm import contains_eager
from werkzeug.wrappers import Response as AnyResponse

from ..accounts import login_required
from ..models import COMMENT_STATES, Comment, Post, db
from .desk import bp, editable, is_id, newest


@bp.route("/comments", methods=["GET", "POST"])
@login_required
def comments() -> str | tuple[str, int] | AnyResponse:
    """List the comments in one state, such as pending, on the posts that the user may change.

    A POST request approves, marks as spam or deletes comments. A button for all selected comments sends the
    field `decision` (its value is approve, spam or delete) and the field `ids` with the comments' ids. A
    button for one comment sends one field: its name is approve, spam or delete, and its value is the
    comment's id.
    """
    state = request.args.get("state", "pending")
    if state not in COMMENT_STATES:
        abort(404)
    mine = select(Post.id).where(editable())
    if request.method == "POST":
        return _decide(state, Comment.post_id.in_(mine))
    query = select(Comment).join(Comment.post).options(contains_eager(Comment.post))
    query = query.where(Comment.state == state, Comment.post_id.in_(mine))
    found, older = newest(query, Comment.created_at, Comment.id)
    counts = dict(
        db.session.execute(
            select(Comment.state, func.count()).where(Comment.post_id.in_(mine)).group_by(Comment.state)
        ).all()
    )
    return render_template(
        "author/comments.html", comments=found, older=older, state=state, states=COMMENT_STATES, counts=counts
    )


def _decide(state: str, may_edit: ColumnElement[bool]) -> AnyResponse:
    done = {"approve": "approved", "spam": "marked as spam", "delete": "deleted"}
    decision = next((name for name in done if name in request.form), request.form.get("decision"))
    if decision not in done:
        abort(400)
    numbers = request.form.getlist(decision if decision in request.form else "ids")
    ids = [int(number) for number in numbers if is_id(number)]
    condition = Comment.id.in_(ids) & may_edit
    change: Delete | Update
    if decision == "delete":
        change = delete(Comment).where(condition)
    else:
        new_state = "approved" if decision == "approve" else "spam"
        change = update(Comment).where(condition).values(state=new_state)
    count = cast(CursorResult[Any], db.session.execute(change)).rowcount
    db.session.commit()
    if count:
        flash(f"{count} comment{'s' if count > 1 else ''} {done[decision]}.")
    else:
        flash("Nothing was changed: no comment was selected, or those selected no longer exist.", "error")
    return redirect(url_for(".comments", state=state), 303)
