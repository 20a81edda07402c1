"""The contact form. Messages are stored; administrators read them under /author/messages."""

from flask import Blueprint, Response, redirect, render_template, url_for
from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import undefer
from werkzeug.wrappers import Response as AnyResponse
from wtforms.validators import DataRequired, Length

from . import throttle
from .forms import LineField, ReaderForm, TextField, csrf, email_address
from .models import ContactMessage, Page, db

LIMIT, WINDOW_S = 5, 3600  # a client may send LIMIT messages in WINDOW_S seconds

bp = Blueprint("contact", __name__, url_prefix="/contact")
csrf.exempt(bp)  # ContactForm checks the token and, if it is not valid, shows the reader's text again


class ContactForm(ReaderForm):
    email = LineField(
        "Email", [DataRequired("Enter the address for the answer."), Length(max=254), email_address]
    )
    body = TextField("Message", [DataRequired("Write a message."), Length(max=10_000)])


@bp.route("", methods=["GET", "POST"])
def contact() -> AnyResponse | tuple[str, int] | tuple[str, int, dict[str, str]]:
    """Show the form, below the page `contact` if it exists. A POST request stores the message."""
    form = ContactForm()
    if not form.validate_on_submit():
        return _form(form), 422 if form.is_submitted() else 200
    key = f"contact {throttle.client()}"
    if not throttle.allow(key, LIMIT, WINDOW_S):
        problem = "Too many messages. Try again in an hour."
        return _form(form, problem), 429, {"Retry-After": str(throttle.retry_after(key))}
    name, email, body = form.name.data, form.email.data, form.body.data
    db.session.add(ContactMessage(name=name, email=email, body=body, is_spam=form.is_trapped))
    db.session.commit()
    return redirect(url_for(".thanks"), 303)


@bp.get("/thanks")
def thanks() -> str:
    """Confirm that the message has arrived, and announce an answer by email."""
    message = "Your message has arrived. The answer will come by email."
    return render_template(
        "thanks.html", message=message, target=url_for("pages.home"), target_name="Read the newest posts"
    )


@bp.after_request
def _private(response: Response) -> Response:
    response.headers["Cache-Control"] = "private, no-store"
    return response


def _form(form: ContactForm, problem: str | None = None) -> str:
    page = db.session.scalar(select(Page).where(Page.slug == "contact").options(undefer(Page.body_html)))
    body = Markup(page.body_html) if page else ""  # noqa: S704 (sanitised when it was written)
    title = page.title if page else "Contact"
    return render_template("contact.html", form=form, title=title, body=body, problem=problem)
