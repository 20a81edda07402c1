"""Readers' comments. The form needs a session, so it is not on the page of the post, which caches keep.

A comment waits for approval, unless an administrator wrote it. If a comment is refused, the form appears
again with the reader's text.
"""

from flask import Blueprint, Response, abort, redirect, render_template, url_for
from sqlalchemy import select
from werkzeug.wrappers import Response as AnyResponse
from wtforms.validators import DataRequired, Length

from . import pages, throttle
from .accounts import current_user
from .forms import ReaderForm, TextField, csrf
from .models import Comment, Post, db

LIMIT, WINDOW_S = 5, 600  # a client may send LIMIT comments in WINDOW_S seconds

bp = Blueprint("comments", __name__, url_prefix="/posts/<slug:slug>/comment")
csrf.exempt(bp)  # CommentForm checks the token and, if it is not valid, shows the reader's text again


class CommentForm(ReaderForm):
    body = TextField("Comment", [DataRequired("Write a comment."), Length(max=5000)])


@bp.route("", methods=["GET", "POST"])
def comment(slug: str) -> AnyResponse | tuple[str, int] | tuple[str, int, dict[str, str]]:
    """Show the form for a comment on a post. A POST request stores the comment."""
    post = _post(slug)
    person = current_user()
    form = CommentForm(data={"name": person.name, "email": person.email} if person else None)
    if not form.validate_on_submit():
        status = 422 if form.is_submitted() else 200
        return render_template("comment.html", form=form, post=post), status
    key = f"comment {throttle.client()}"
    if not throttle.allow(key, LIMIT, WINDOW_S):
        problem = "Too many comments. Try again in ten minutes."
        page = render_template("comment.html", form=form, post=post, problem=problem)
        return page, 429, {"Retry-After": str(throttle.retry_after(key))}
    state = "approved" if person and person.is_admin else "spam" if form.is_trapped else "pending"
    author, email, body = form.name.data, form.email.data or None, form.body.data
    db.session.add(Comment(post_id=post.id, author=author, email=email, body=body, state=state))
    db.session.commit()
    if state == "approved":
        return redirect(url_for("pages.post", slug=slug, _anchor="blog_comments"), 303)
    return redirect(url_for(".thanks", slug=slug), 303)


@bp.get("/thanks")
def thanks(slug: str) -> str:
    """Confirm a comment and explain that it waits for approval."""
    _post(slug)
    message = "Your comment will appear below the post after an author has approved it."
    target = url_for("pages.post", slug=slug)
    return render_template("thanks.html", message=message, target=target, target_name="Back to the post")


@bp.after_request
def _private(response: Response) -> Response:
    response.headers["Cache-Control"] = "private, no-store"
    return response


def _post(slug: str) -> Post:
    return db.session.scalar(select(Post).where(Post.slug == slug, pages.is_visible())) or abort(404)
