"""The pages where authors rename, merge and remove tags.

An author may change a tag if all its posts are the author's own. An administrator may change all tags.
"""

from flask import abort, flash, redirect, render_template, request, url_for
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import IntegrityError
from werkzeug.wrappers import Response as AnyResponse
from wtforms import Field
from wtforms.validators import InputRequired, Length, Optional, ValidationError

from .. import tags as book
from ..accounts import login_required
from ..forms import Form, LineField, valid_slug
from ..models import Post, Tag, db
from .desk import MAX_ID, bp, editable, is_id


class TagForm(Form):
    """The form that renames a tag."""

    name = LineField("Name", [InputRequired("Enter a name."), Length(max=book.MAX_CHARACTERS)])
    slug = LineField("Address", [Optional(), valid_slug])

    def validate_name(self, field: Field) -> None:
        """Refuse a name that readers cannot see, and a comma, because commas separate the tags of a post."""
        if any(comma in field.data for comma in book.COMMAS):
            raise ValidationError("Leave out the comma: commas separate tags.")
        if not book.is_visible_name(field.data):
            raise ValidationError(book.VALID_NAME)


@bp.get("/tags")
@login_required
def tags() -> str:
    """List the tags with the numbers of their posts, and of the posts that the author may not change."""
    query = select(Tag, func.count(Post.id), _posts_of_others()).outerjoin(Tag.posts)
    found = db.session.execute(query.group_by(Tag.id).order_by(func.lower(Tag.name), Tag.id)).all()
    return render_template("author/tags.html", tags=found)


@bp.route(f"/tags/<int(max={MAX_ID}):number>", methods=["GET", "POST"])
@login_required
def edit_tag(number: int) -> str | tuple[str, int] | AnyResponse:
    """Show the forms that rename and merge a tag. A POST request renames it."""
    tag = _find_tag(number)
    form = TagForm(obj=tag)
    if request.method != "POST":
        return _tag_editor(form, tag)
    if not form.validate():
        return _tag_editor(form, tag), 422
    all_tags = book.TagBook(db.session)
    name, slug = form.name.data, form.slug.data or all_tags.free_slug(form.name.data, tag)
    if all_tags.find(name) not in (None, tag):
        form.name.errors = ["Another tag has this name. To join the two tags, merge them below."]
        return _tag_editor(form, tag), 409
    if not all_tags.is_free(slug, tag):
        form.slug.errors = ["Another tag has or had this address. Choose another address."]
        return _tag_editor(form, tag), 409
    book.rename(db.session, tag, name, slug)
    try:
        db.session.commit()
    except IntegrityError:
        db.session.rollback()
        form.slug.errors = ["Another tag has just taken this address. Save again."]
        return _tag_editor(form, _find_tag(number)), 409
    flash("The tag is saved.")
    return redirect(url_for(".edit_tag", number=number), 303)


@bp.route(f"/tags/<int(max={MAX_ID}):number>/merge", methods=["GET", "POST"])
@login_required
def merge_tag(number: int) -> str | AnyResponse:
    """Ask whether to merge a tag into the tag whose id is in the field `into`. A POST request merges them."""
    tag, into = _find_tag(number), request.values.get("into", "")
    target = db.session.get(Tag, int(into)) if is_id(into) and int(into) != number else None
    if target is None:
        flash("Choose another tag that still exists.", "error")
        return redirect(url_for(".edit_tag", number=number), 303)
    if request.method != "POST":
        return render_template("author/tag_merge.html", tag=tag, target=target, posts=_count_posts(tag))
    book.merge(db.session, tag, target)
    db.session.commit()
    flash(f"\u201c{tag.name}\u201d is merged into \u201c{target.name}\u201d.")
    return redirect(url_for(".tags"), 303)


@bp.route(f"/tags/<int(max={MAX_ID}):number>/remove", methods=["GET", "POST"])
@login_required
def remove_tag(number: int) -> str | AnyResponse:
    """Ask whether to remove a tag. A POST request removes it; its posts stay."""
    tag = _find_tag(number)
    if request.method != "POST":
        return render_template("author/tag_remove.html", tag=tag, posts=_count_posts(tag))
    book.remove(db.session, tag)
    db.session.commit()
    flash(f"\u201c{tag.name}\u201d is removed. Its posts stay.")
    return redirect(url_for(".tags"), 303)


def _find_tag(number: int) -> Tag:
    """Return the tag. Abort with 404 if there is none, or 403 if it has a post that the user may not edit."""
    tag = db.session.get(Tag, number) or abort(404)
    if db.session.scalar(select(_posts_of_others()).join(Post.tags).where(Tag.id == number)):
        abort(403)
    return tag


def _posts_of_others() -> ColumnElement[int]:
    """Return the number of the posts that the author may not change."""
    return func.count(Post.id) - func.count(Post.id).filter(editable())


def _count_posts(tag: Tag) -> int:
    return db.session.scalar(select(func.count(Post.id)).join(Post.tags).where(Tag.id == tag.id)) or 0


def _tag_editor(form: TagForm, tag: Tag) -> str:
    others = db.session.scalars(
        select(Tag).where(Tag.id != tag.id).order_by(func.lower(Tag.name), Tag.id)
    ).all()
    return render_template("author/tag.html", form=form, tag=tag, others=others, posts=_count_posts(tag))
