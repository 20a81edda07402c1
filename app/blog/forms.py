"""Shared parts of forms: CSRF protection, and fields that refuse control characters, which break feeds."""

import re
from typing import Any

from flask_wtf import FlaskForm
from flask_wtf.csrf import CSRFProtect
from wtforms import Field, StringField, TextAreaField
from wtforms.fields.core import UnboundField
from wtforms.validators import DataRequired, Length, ValidationError

from .models import CONTROL_CHARACTER
from .names import SLUG_CHARACTERS, is_slug

csrf = CSRFProtect()

__all__ = ["Form", "LineField", "ReaderForm", "TextField", "csrf", "email_address", "valid_slug"]


class Form(FlaskForm):
    """The base class of all forms, with a CSRF token.

    The id of a field begins with `blog_`. No id in a text does (PAGE_ID in renderer/html.py), so a page never
    has the same id twice.
    """

    class Meta(FlaskForm.Meta):
        def bind_field(self, form: "Form", unbound_field: UnboundField, options: dict[str, Any]) -> Field:
            """Create a field of a form."""
            return super().bind_field(form, unbound_field, options | {"id": f"blog_{options['name']}"})


class LineField(StringField):
    """One line of text. White space at the ends is removed. Other white space becomes a single space."""

    def process_formdata(self, valuelist: list[str]) -> None:
        self.data = " ".join(valuelist[0].split()) if valuelist else ""

    def pre_validate(self, _form: Form) -> None:
        _refuse_control_characters(self)


class TextField(TextAreaField):
    """Text of several lines, with LF as the line ending."""

    def process_formdata(self, valuelist: list[str]) -> None:
        text = valuelist[0] if valuelist else ""
        self.data = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")

    def pre_validate(self, _form: Form) -> None:
        _refuse_control_characters(self)


def email_address(_form: Form, field: Field) -> None:
    """Refuse a value that cannot be an email address (a WTForms validator)."""
    if field.data and not re.fullmatch(r"[^@\s]{1,64}@[^@\s]{1,189}", field.data):
        raise ValidationError("Enter an email address like name@example.com.")


def valid_slug(_form: Form, field: Field) -> None:
    """Refuse a value that cannot be a slug (a WTForms validator)."""
    if not is_slug(field.data):
        raise ValidationError(f"Use 1 to 200 {SLUG_CHARACTERS}.")


def _refuse_control_characters(field: Field) -> None:
    if found := CONTROL_CHARACTER.search(field.data or ""):
        raise ValidationError(f"Remove the control character U+{ord(found[0]):04X}.")


class ReaderForm(Form):
    """A form for people without an account. The hidden field `subject` detects bots, which fill it in.

    Password managers and browsers do not know this name, so they do not fill in the field for a reader.
    """

    name = LineField("Name", [DataRequired("Enter your name."), Length(max=80)])
    email = LineField("Email", [Length(max=254), email_address])
    subject = StringField("Leave this empty")

    @property
    def is_trapped(self) -> bool:
        """Tell whether the hidden field `subject` was filled in."""
        return bool(self.subject.data)
