"""The messages from the contact form. Only administrators read them."""

from flask import abort, flash, redirect, render_template, request, url_for
from sqlalchemy import select
from werkzeug.wrappers import Response as AnyResponse

from ..accounts import admin_required
from ..models import ContactMessage, db
from .desk import MAX_ID, bp, newest


@bp.get("/messages")
@admin_required
def messages() -> str:
    """List the messages from the contact form."""
    found, older = newest(select(ContactMessage), ContactMessage.id)
    return render_template("author/messages.html", messages=found, older=older)


@bp.post(f"/messages/<int(max={MAX_ID}):number>")
@admin_required
def handle_message(number: int) -> AnyResponse:
    """Mark a message as read or unread, or delete it. The form's field `decision` names the action."""
    message = db.session.get(ContactMessage, number) or abort(404)
    decision = request.form.get("decision")
    if decision not in ("read", "unread", "delete"):
        abort(400)
    if decision == "delete":
        db.session.delete(message)
        flash(f"The message from {message.name} is deleted.")
    else:
        message.is_read = decision == "read"
    db.session.commit()
    return redirect(url_for(".messages"), 303)
