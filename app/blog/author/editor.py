"""Parts that the editors of posts and pages share: the form, the preview, the merge of conflicting edits."""

from dataclasses import dataclass
from datetime import datetime
from difflib import unified_diff
from hashlib import sha256
from typing import Self

from flask import abort, render_template, request
from markupsafe import Markup
from wtforms import Field, HiddenField, RadioField
from wtforms.validators import InputRequired, Length, Optional, ValidationError

from renderer import words

from .. import markdown
from ..accounts import login_required
from ..forms import Form, LineField, TextField, valid_slug
from ..models import MAX_BYTES
from .desk import bp

CONFLICT = (
    "Somebody saved another version while you were writing. The form contains your changes; every field that "
    "you did not change shows the saved version. Check the differences, edit the form and save again."
)
MAX_COMPARED_LINES = 4000  # of both versions together: the time of difflib can be cubic
SESSION_ENDED = (
    "Your session has ended, so nothing was saved. Your text is still here. Use another tab to sign in, "
    "then save again."
)
FORM_OF_ANOTHER_SESSION = (
    "You have signed in again, perhaps as another user, since you opened this form. So nothing was saved. "
    "Your text is still here: save again."
)
NOT_ALLOWED = (
    "You are signed in as a user who may not change this, so nothing was saved. Your text is still here. Use "
    "another tab to sign in as the right user, then save again."
)


@dataclass(frozen=True)
class Difference:
    """A difference between two versions in one field.

    changed_by: a text that tells who changed the field.
    lines: a diff. Lines with + are in the form, and lines with - are in the other version.
    """

    label: str
    changed_by: str
    lines: list[str]


class TextForm(Form):
    """The fields that posts and pages share.

    version: the version that the author began to edit.
    base: a digest of each field of that version, to find out later which fields the author changed.
    """

    title = LineField("Title", [InputRequired("Enter a title."), Length(max=200)])
    slug = LineField("Address", [Optional(), valid_slug])
    body = TextField("Text", [InputRequired("Write some text.")])
    version = HiddenField(default="0")
    base = HiddenField(default="")

    @classmethod
    def of(cls, values: dict[str, object]) -> Self:
        """Return a form with these values, and their digests in `base`."""
        form = cls(formdata=None, data=values)
        form.base.data = " ".join(map(_digest, form._texts().values()))
        return form

    def merge(self, saved: Self) -> tuple[Self, list[Difference]]:
        """Merge this form with the saved version. Return the merged form and the differences by field.

        Fields that the author did not change take the saved value.
        """
        mine, theirs = self._texts(), saved._texts()
        digests_at_start = dict(zip(mine, self.base.data.split(), strict=False))
        merged: dict[str, object] = {}
        differences = []
        for name in mine:
            touched = _digest(mine[name]) != digests_at_start.get(name)
            merged[name] = (self if touched else saved)[name].data
            if not touched:
                changed_by, other, own = "changed by somebody else", mine[name], theirs[name]
            elif _digest(theirs[name]) == digests_at_start.get(name):
                changed_by, other, own = "changed by you", theirs[name], mine[name]
            else:
                changed_by, other, own = "changed by both; yours is shown", theirs[name], mine[name]
            if own != other:
                differences.append(Difference(self[name].label.text, changed_by, _changed_lines(other, own)))
        merged |= {"version": saved.version.data, "base": saved.base.data}
        return type(self)(formdata=None, data=merged), differences

    def _texts(self) -> dict[str, str]:
        """Return the text of each visible field, by name."""
        return {field.name: _text(field) for field in self if not isinstance(field, HiddenField)}

    def validate_body(self, field: Field) -> None:
        """Refuse a text over MAX_BYTES, which is also the importer's limit."""
        if len((field.data or "").encode()) > MAX_BYTES:
            raise ValidationError("The text is longer than 1 MiB. Split it.")


@bp.post("/preview")
@login_required
def preview() -> str | tuple[str, int]:
    """Show the text of the form as readers will see it. `?part=body` omits the page around the text."""
    text = request.form.get("body", "")
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        abort(413)
    part = "author/preview_body.html" if request.args.get("part") == "body" else "author/preview.html"
    title = request.form.get("title", "")
    try:
        rendered = markdown.render(text)
    except markdown.RenderError as error:
        return render_template(part, title=title, problem=str(error)), 422
    return render_template(
        part,
        title=title,
        body=Markup(rendered.html),  # noqa: S704 (sanitised)
        word_count=rendered.word_count,
        minutes=words.minutes(rendered.word_count),
    )


def _text(field: Field) -> str:
    value = field.data
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ", "minutes")
    if isinstance(field, RadioField):
        labels: dict[str, str] = {choice.value: choice.label for choice in field.choices}
        return labels.get(value, "")
    return "" if value is None else str(value)


def _changed_lines(before: str, after: str) -> list[str]:
    old, new = (text.split("\n") if text else [] for text in (before, after))
    if len(old) + len(new) > MAX_COMPARED_LINES:
        return ["The text has too many lines to compare."]
    return list(unified_diff(old, new, lineterm="", n=1))[3:]  # skip the header lines of the diff


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
