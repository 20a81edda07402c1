"""Sign-in, sign-out, registration and the account page.

Only pages with a form create a session cookie. A request without the cookie is anonymous, and its response
may be cached, unless the page has a form. A response to a request with the cookie is private,
except for health checks, static files and pictures.

Other modules decide who may change what: author/desk.py for posts, comments and descriptions of pictures,
media.py for the deletion of pictures, author/tags.py for tags. Only administrators change pages, and read
messages: `admin_required` below.
"""

import re
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    flash,
    g,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from itsdangerous import Signer
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response as AnyResponse
from wtforms import PasswordField
from wtforms.validators import EqualTo, InputRequired, Length, ValidationError

from . import sessions, sign_in_limits, throttle
from .forms import Form, LineField, email_address
from .models import User, db

MIN_PASSWORD_CHARACTERS = 12
MAX_PASSWORD_CHARACTERS = 1000
PASSWORD_TRIES, PASSWORD_WINDOW_S = 20, 600
REGISTRATIONS, REGISTRATION_WINDOW_S = 5, 3600

bp = Blueprint("accounts", __name__)

_Params = ParamSpec("_Params")
_Answer = TypeVar("_Answer")


def current_user() -> User | None:
    """Return the signed-in user, or None.

    If the request has no session cookie, do not read the session: Flask would add `Vary: Cookie`.
    """
    if "user" not in g:
        g.user = _user_of_session() if _has_session_cookie() else None
    person: User | None = g.user
    return person


class SignedOutError(Forbidden):
    """A request that needs a signed-in user came without a valid session."""


def signed_in_user() -> User:
    """Return the signed-in user. Raise SignedOutError if there is none; `login_required` prevents that."""
    person = current_user()
    if person is None:
        raise SignedOutError
    return person


def login_required(view: Callable[_Params, _Answer]) -> Callable[_Params, _Answer | AnyResponse]:
    """Require a signed-in user: redirect GET and HEAD to the login page, answer other methods with 403."""

    @wraps(view)
    def guarded(*args: _Params.args, **kwargs: _Params.kwargs) -> _Answer | AnyResponse:
        if current_user() is None:
            if request.method in ("GET", "HEAD"):
                return redirect(url_for("accounts.login", next=request.full_path.rstrip("?")))
            raise SignedOutError
        return view(*args, **kwargs)

    return guarded


def admin_required(view: Callable[_Params, _Answer]) -> Callable[_Params, _Answer | AnyResponse]:
    """Require an administrator: other signed-in users get 403."""

    @wraps(view)
    def guarded(*args: _Params.args, **kwargs: _Params.kwargs) -> _Answer:
        if not signed_in_user().is_admin:
            abort(403)
        return view(*args, **kwargs)

    return login_required(guarded)


def _new_password() -> list[object]:
    return [
        InputRequired("Choose a password."),
        Length(
            MIN_PASSWORD_CHARACTERS,
            MAX_PASSWORD_CHARACTERS,
            f"Use at least {MIN_PASSWORD_CHARACTERS} characters, and at most {MAX_PASSWORD_CHARACTERS}. "
            "A few words are easy to remember.",
        ),
    ]


class LoginForm(Form):
    """The sign-in form: email address and password."""

    email = LineField("Email address", [InputRequired("Enter your email address."), Length(max=254)])
    password = PasswordField(
        "Password", [InputRequired("Enter your password."), Length(max=MAX_PASSWORD_CHARACTERS)]
    )


class RegistrationForm(Form):
    """The form for a new account."""

    name = LineField("Name", [InputRequired("Enter the name that readers will see."), Length(max=100)])
    email = LineField(
        "Email address", [InputRequired("Enter your email address."), Length(max=254), email_address]
    )
    password = PasswordField("Password", _new_password())


class NameForm(Form):
    """The form for the author name of new posts."""

    name = LineField("Name", [Length(max=100)])


class PasswordForm(Form):
    """The form for a new password, which also asks for the current one."""

    old = PasswordField(
        "Current password",
        [InputRequired("Enter your current password."), Length(max=MAX_PASSWORD_CHARACTERS)],
    )
    new = PasswordField("New password", _new_password())
    again = PasswordField(
        "Repeat the new password",
        [EqualTo("new", "The two new passwords differ. Enter the same password twice.")],
    )

    def validate_old(self, field: PasswordField) -> None:
        """Refuse a wrong current password."""
        if not signed_in_user().check_password(field.data or ""):
            raise ValidationError("This is not your current password. Enter it again.")


@bp.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Sign a user in. Neither the response nor its time reveals whether the address has an account."""
    if current_user() is not None:
        return redirect(_next_page())
    form = LoginForm()
    if not form.validate_on_submit():
        return render_template("accounts/login.html", form=form), 422 if form.is_submitted() else 200
    email = form.email.data.lower()
    person = db.session.scalar(select(User).where(User.email == email))
    account = person or _nobody()
    if key := sign_in_limits.refuse(email, account):
        return _too_often(key, "accounts/login.html", form)
    if not account.check_password(form.password.data) or person is None:
        current_app.logger.warning("login refused for a client at %s", throttle.client())
        problem = "The email address and the password do not match. Check both and try again."
        return render_template("accounts/login.html", form=form, problem=problem), 422
    sign_in(person)
    return redirect(_next_page(), 303)


@bp.post("/logout")
def logout() -> AnyResponse:
    """End this session on the server, so that copies of its cookie are invalid too."""
    if person := current_user():
        sessions.end(person, g.session_id)
    session.clear()
    return redirect(url_for("pages.home"), 303)


@bp.route("/register", methods=["GET", "POST"])
def register() -> ResponseReturnValue:
    """Create an author's account, if the setting REGISTRATION allows it."""
    if not current_app.config["REGISTRATION"]:
        abort(404)
    if current_user() is not None:
        return redirect(url_for("author.posts"))
    form = RegistrationForm()
    if not form.validate_on_submit():
        return render_template("accounts/register.html", form=form), 422 if form.is_submitted() else 200
    key = f"register {throttle.client()}"
    if not throttle.allow(key, REGISTRATIONS, REGISTRATION_WINDOW_S):
        return _too_often(key, "accounts/register.html", form)
    person = User(name=form.name.data, email=form.email.data, is_admin=False)
    person.set_password(form.password.data)
    db.session.add(person)
    try:
        db.session.commit()
    except IntegrityError:
        db.session.rollback()
        form.email.errors = ["An account with this address exists. Sign in instead."]
        return render_template("accounts/register.html", form=form), 409
    sign_in(person)
    return redirect(url_for("author.posts"), 303)


@bp.get("/account")
@login_required
def account() -> str:
    """Show the forms for name and password, and the user's sessions."""
    return _account()


@bp.post("/account/name")
@login_required
def change_name() -> tuple[str, int] | AnyResponse:
    """Change the author name of new posts."""
    form = NameForm()
    if not form.validate_on_submit():
        return _account(name_form=form), 422
    signed_in_user().name = form.name.data
    db.session.commit()
    flash("Your name is changed. Existing posts keep the old name.")
    return redirect(url_for(".account"), 303)


@bp.post("/account/password")
@login_required
def change_password() -> ResponseReturnValue:
    """Change the password, which ends every other session of this user."""
    person = signed_in_user()
    key = f"password {person.id}"
    if not throttle.allow(key, PASSWORD_TRIES, PASSWORD_WINDOW_S):
        return _too_often(key, "accounts/account.html", PasswordForm(formdata=None))
    form = PasswordForm()
    if not form.validate_on_submit():
        return _account(password_form=form), 422
    person.set_password(form.new.data)
    db.session.commit()
    throttle.forget(key)
    sessions.end_all(person)
    sign_in_limits.forget_places(person)
    sign_in(person)
    flash("Your password is changed, and your other sessions have ended.")
    return redirect(url_for(".account"), 303)


@bp.post("/account/sessions/<int(max=2147483647):number>/end")
@login_required
def end_session(number: int) -> AnyResponse:
    """Sign out another browser."""
    if sessions.end(signed_in_user(), number):
        flash("That session has ended.")
    return redirect(url_for(".account"), 303)


@bp.post("/account/sessions/end")
@login_required
def end_other_sessions() -> AnyResponse:
    """Sign out every browser but this one."""
    sessions.end_all(signed_in_user(), but=g.session_id)
    flash("Your other sessions have ended.")
    return redirect(url_for(".account"), 303)


def sign_in(person: User) -> None:
    """Begin a new session for the authenticated user `person`."""
    session.clear()
    session.permanent = True
    # The token is the same in each session of a user, so a form that was opened in an earlier session stays
    # valid, and a lost session loses no text.
    session["csrf_token"] = (
        Signer(current_app.config["SECRET_KEY"], salt="forms").get_signature(str(person.id)).decode()
    )
    # After a rollback, an older release that does not know the table user_session reads `user` and `epoch`
    # from the cookie.
    session["user"] = person.id
    session["epoch"] = person.session_epoch
    _enter(person)


@bp.app_context_processor
def _template_globals() -> dict[str, object]:
    return {"current_user": current_user}


@bp.after_app_request
def _private(response: Response) -> Response:
    """Mark responses that depend on the user as private, so that no cache stores them."""
    public = request.blueprint == "health" or request.endpoint in ("static", "media.serve")
    if not public and (request.blueprint in ("accounts", "author", "media") or _has_session_cookie()):
        response.headers["Cache-Control"] = "private, no-store"
        response.headers.pop("X-Accel-Expires", None)
    return response


def _has_session_cookie() -> bool:
    return current_app.config["SESSION_COOKIE_NAME"] in request.cookies


def _user_of_session() -> User | None:
    if "user" not in session:
        return None
    if "token" not in session:
        return _take_over_session()
    if found := sessions.find(session["token"]):
        person, g.session_id = found
        return person
    # The session has ended. Remove its keys from the cookie, so that the next request needs no query. Do so
    # only in answers to GET: the editor's script sends POST requests in the background, and such an answer
    # could replace the cookie of a sign-in in another tab.
    if request.method == "GET":
        for name in ("user", "epoch", "token"):
            session.pop(name, None)
    return None


def _take_over_session() -> User | None:
    """Store the session of a cookie from an older release, which had no table user_session.

    Such a cookie identifies only the user and the epoch, not a session. So all such cookies of a user share
    one row, and a sign-out ends them all. Only one request may make this row, so that an ended session does
    not come back.
    """
    person = db.session.get(User, session["user"])
    if person is None or person.session_epoch != session.get("epoch"):
        return None
    token = throttle.digest(f"former {person.id} {person.session_epoch}")
    lifetime_s = int(current_app.permanent_session_lifetime.total_seconds())
    if throttle.allow(f"former session {token}", 1, lifetime_s):
        _enter(person, token)
        return person
    if found := sessions.find(token):
        session["token"] = token
        person, g.session_id = found
        return person
    return None


def _enter(person: User, token: str | None = None) -> None:
    session["token"], g.session_id = sessions.begin(person, token)
    sign_in_limits.remember(person)
    g.user = person


@cache
def _nobody() -> User:
    """Return a dummy user for unknown addresses. A check of its password takes as long as for a real user."""
    person = User(email="nobody", name="")
    person.set_password("")
    return person


def _next_page() -> str:
    """Return the path in `?next` if it is on this site, or else the path of the author's list of posts."""
    target = request.args.get("next", "")
    return target if re.fullmatch(r"/(?![/\\])[!-~]*", target) else url_for("author.posts")


def _too_often(key: str, template: str, form: Form) -> tuple[str, int, dict[str, str]]:
    wait_s = throttle.retry_after(key)
    minutes = -(-wait_s // 60)
    problem = f"Too many attempts. Wait {minutes} minute{'s' if minutes != 1 else ''} and try again."
    if template == "accounts/account.html":
        return _account(password_form=form, problem=problem), 429, {"Retry-After": str(wait_s)}
    return render_template(template, form=form, problem=problem), 429, {"Retry-After": str(wait_s)}


def _account(
    name_form: NameForm | None = None, password_form: PasswordForm | None = None, problem: str | None = None
) -> str:
    person = signed_in_user()
    return render_template(
        "accounts/account.html",
        name_form=name_form or NameForm(formdata=None, data={"name": person.name}),
        password_form=password_form or PasswordForm(formdata=None),
        sessions=sessions.of(person),
        problem=problem,
    )
