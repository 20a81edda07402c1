"""Error responses to forms that were sent after the session ended, or after somebody changed the post."""

from flask import render_template, request
from flask_wtf.csrf import CSRFError
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.exceptions import Conflict, HTTPException

from ..accounts import SignedOutError
from ..models import db
from .desk import bp
from .editor import SESSION_ENDED
from .pages import PageForm, page_editor
from .posts import PostForm, post_editor


@bp.errorhandler(SignedOutError)
@bp.errorhandler(CSRFError)
def _session_ended(error: HTTPException) -> tuple[str, int]:
    """Show the editor again with the text that the author sent, so that the author does not lose it."""
    if request.endpoint in ("author.new_post", "author.edit_post"):
        page = post_editor(PostForm(), problem=SESSION_ENDED)
    elif request.endpoint in ("author.new_page", "author.edit_page"):
        page = page_editor(PageForm(), problem=SESSION_ENDED)
    else:
        page = render_template("error.html", error=error)
    return page, error.code or 403


@bp.errorhandler(StaleDataError)
def _changed_meanwhile(_error: StaleDataError) -> tuple[str, int]:
    db.session.rollback()
    return render_template("error.html", error=Conflict()), 409
