"""The messages from the contact form. Only administrators read them."""

from flask import abort, flash, redirect, render_template, request, url_for
from sqlalchemy import func, select
from werkzeug.wrappers import Response as AnyResponse

from ..accounts import admin_required
from ..models import ContactMessage, db
from .desk import MAX_ID, bp, newest

# The value of the form's field `decision`, and the attribute of the message that it changes.
_CHANGES = {
    "read": ("is_read", True),
    "unread": ("is_read", False),
    "spam": ("is_spam", True),
    "no spam": ("is_spam", False),
}


@bp.get("/messages")
@admin_required
def messages() -> str:
    """List the messages from the contact form. `?show=spam` lists those that are spam, and only those."""
    show = _shown()
    query = select(ContactMessage).where(ContactMessage.is_spam.is_(show == "spam"))
    found, older = newest(query, ContactMessage.created_at, ContactMessage.id)
    numbers = select(ContactMessage.is_spam, func.count()).group_by(ContactMessage.is_spam)
    counts = dict(db.session.execute(numbers).all())
    return render_template("author/messages.html", messages=found, older=older, show=show, counts=counts)


@bp.post(f"/messages/<int(max={MAX_ID}):number>")
@admin_required
def handle_message(number: int) -> AnyResponse:
    """Mark a message as read, unread, spam or no spam, or delete it. The field `decision` says which."""
    message = db.session.get(ContactMessage, number) or abort(404)
    decision = request.form.get("decision", "")
    if decision == "delete":
        db.session.delete(message)
        flash(f"The message from {message.name} is deleted.")
    elif decision in _CHANGES:
        attribute, value = _CHANGES[decision]
        setattr(message, attribute, value)
        if attribute == "is_spam":
            flash(f"The message from {message.name} is now in {'Spam' if value else 'Inbox'}.")
    else:
        abort(400)
    db.session.commit()
    return redirect(url_for(".messages", show=_shown()), 303)


def _shown() -> str | None:
    """Return "spam" if the page lists the messages that are spam."""
    return "spam" if request.args.get("show") == "spam" else None
