"""Error responses to forms that the user may not send, and to forms that came after a change of the post."""

from flask import render_template, request
from flask_wtf.csrf import CSRFError
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.exceptions import Conflict, Forbidden, HTTPException

from ..accounts import current_user
from ..models import db
from .desk import bp
from .editor import FORM_OF_ANOTHER_SESSION, NOT_ALLOWED, SESSION_ENDED
from .pages import PageForm, page_editor
from .posts import PostForm, post_editor


@bp.errorhandler(Forbidden)
@bp.errorhandler(CSRFError)
def _refused(error: HTTPException) -> tuple[str, int]:
    """If the form of an editor was refused, show it again with the author's text, so that no text is lost."""
    is_post = request.endpoint in ("author.new_post", "author.edit_post")
    is_page = request.endpoint in ("author.new_page", "author.edit_page")
    if request.method != "POST" or not (is_post or is_page):
        return render_template("error.html", error=error), error.code or 403
    form = PostForm() if is_post else PageForm()
    if current_user() is None:
        # Keep the token that was sent: it is valid again after the author has signed in. A new token would
        # belong to the present session, and the sign-in ends that.
        form.csrf_token.current_token = request.form.get("csrf_token", "")
        problem = SESSION_ENDED
    else:
        problem = FORM_OF_ANOTHER_SESSION if isinstance(error, CSRFError) else NOT_ALLOWED
    page = post_editor(form, problem=problem) if is_post else page_editor(form, problem=problem)
    return page, error.code or 403


@bp.errorhandler(StaleDataError)
def _changed_meanwhile(_error: StaleDataError) -> tuple[str, int]:
    db.session.rollback()
    return render_template("error.html", error=Conflict()), 409
