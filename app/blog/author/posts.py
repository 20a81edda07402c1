"""The list, the editor and the form of posts. editor.py has the fields that pages have too."""

import re
from datetime import UTC, datetime
from uuid import uuid4

from flask import abort, current_app, flash, redirect, render_template, request, url_for
from markupsafe import Markup
from sqlalchemy import delete, func, select, true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload, undefer
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.wrappers import Response as AnyResponse
from wtforms import DateTimeLocalField, Field, HiddenField, RadioField, SelectChoice
from wtforms.validators import Length, Optional, ValidationError

from renderer import words

from .. import markdown, search, tags
from ..accounts import login_required, signed_in_user
from ..forms import LineField, TextField
from ..languages import is_language
from ..models import GUID, Comment, Post, PostAlias, Site, db
from ..names import free_slug
from .desk import MAX_ID, bp, editable, may_edit, newest
from .editor import CONFLICT, TextForm

MAX_TAGS = 20


class PostForm(TextForm):
    """The form for a post.

    guid: the id of a new post. With it, a form that is sent twice, as by a double click, creates only one
        post.
    """

    guid = HiddenField(default=lambda: uuid4().urn)
    summary = TextField("Summary", [Length(max=1000)])
    tags = LineField("Tags", [Length(max=1000)])
    language = LineField("Language", [Optional()])
    status = RadioField(
        "Status",
        choices=[SelectChoice("draft", "Draft"), SelectChoice("published", "Published")],
        default="draft",
    )
    published_at = DateTimeLocalField(
        "Publication time (UTC)",
        [Optional()],
        format=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"],
    )

    def validate_tags(self, field: Field) -> None:
        """Refuse tags that readers cannot see, tags that are too long, and too many tags."""
        names = tag_names(field.data)
        if bad := [
            name for name in names if not tags.is_visible_name(name) or len(name) > tags.MAX_CHARACTERS
        ]:
            raise ValidationError(f"The tag {bad[0]!r} is not valid. {tags.VALID_NAME}")
        if len(names) > MAX_TAGS:
            raise ValidationError(f"The post has {len(names)} tags. Use at most {MAX_TAGS} tags.")

    def validate_language(self, field: Field) -> None:
        """Refuse a text that cannot be a language tag."""
        if not is_language(field.data):
            raise ValidationError("Enter a language tag, such as en, ar or pt-BR.")

    def validate_published_at(self, field: Field) -> None:
        """Refuse years that are probably typing errors."""
        if field.data and not 1970 <= field.data.year <= 2199:
            raise ValidationError("Choose a year from 1970 to 2199.")

    def moment(self, before: datetime | None) -> datetime | None:
        """Return the time in the form, or None.

        before: the stored time, or None.
        The form has no seconds. If the author did not change the time, return the stored time.
        """
        if self.published_at.data is None:
            return None
        said = self.published_at.data.replace(tzinfo=UTC)
        return before if before and before.replace(second=0, microsecond=0) == said else said


def tag_names(text: str | None) -> list[str]:
    """Split a line at its commas into the names of tags."""
    parts = re.split(f"[{tags.COMMAS}]", text or "")
    return tags.unique(filter(None, (" ".join(part.split()) for part in parts)))


@bp.get("/")
@login_required
def posts() -> str:
    """List the posts that the author may change, newest first. A draft's date is its last change."""
    show, words = request.args.get("show", ""), request.args.get("q", "").replace("\0", "").strip()[:200]
    states = {
        "drafts": Post.published_at.is_(None),
        "scheduled": Post.published_at > func.now(),
        "published": Post.published_at <= func.now(),
    }
    query = select(Post).where(editable(), states.get(show, true()))
    if words:
        query = query.where(search.matches(words))
    found, older = newest(query, func.coalesce(Post.published_at, Post.updated_at), Post.id)
    return render_template(
        "author/posts.html", posts=found, older=older, show=show, words=words, now=datetime.now(UTC)
    )


@bp.route("/posts/new", methods=["GET", "POST"])
@login_required
def new_post() -> str | tuple[str, int] | AnyResponse:
    """Show the editor for a new post. A POST request creates the post."""
    form = PostForm()
    if request.method != "POST":
        return post_editor(form)
    if found := _sent_before(form):
        return _save_post(form, found)
    if not re.fullmatch(GUID, form.guid.data):
        abort(400)
    author = signed_in_user().name or current_app.config["SITE_AUTHOR"]
    return _save_post(form, Post(guid=form.guid.data, author=author))


@bp.route(f"/posts/<int(max={MAX_ID}):number>", methods=["GET", "POST"])
@login_required
def edit_post(number: int) -> str | tuple[str, int] | AnyResponse:
    """Show the editor for a post. A POST request saves the post."""
    found = _find_post(number)
    if request.method != "POST":
        return post_editor(PostForm.of(_post_values(found or abort(404))), found)
    return _save_post(PostForm(), found) if found else _post_is_gone(PostForm())


@bp.get(f"/posts/<int(max={MAX_ID}):number>/view")
@login_required
def view_post(number: int) -> str | AnyResponse:
    """Show a saved draft or scheduled post as readers will see it. If the post is public, redirect to it."""
    found = _find_post(number) or abort(404)
    if found.published_at and found.published_at <= datetime.now(UTC):
        return redirect(url_for("pages.post", slug=found.slug))
    return render_template(
        "author/preview.html",
        post=found,
        title=found.title,
        body=Markup(found.body_html),  # noqa: S704 (sanitised when it was written)
        minutes=words.minutes(found.word_count),
    )


@bp.route(f"/posts/<int(max={MAX_ID}):number>/delete", methods=["GET", "POST"])
@login_required
def delete_post(number: int) -> str | AnyResponse:
    """Ask whether to delete a post. A POST request deletes the post and its comments."""
    found = _find_post(number) or abort(404)
    if request.method != "POST":
        comments = db.session.scalar(select(func.count()).where(Comment.post_id == found.id))
        return render_template("author/delete.html", kind="post", text=found, comments=comments)
    db.session.delete(found)
    db.session.commit()
    flash(f"\u201c{found.title}\u201d is deleted.")
    return redirect(url_for(".posts"), 303)


def _find_post(number: int) -> Post | None:
    """Return the post, or None if it does not exist. Abort with 403 if the user may not change it."""
    query = select(Post).where(Post.id == number).options(undefer(Post.body), selectinload(Post.tags))
    found = db.session.scalar(query)
    if found is not None and not may_edit(found):
        abort(403)
    return found


def _sent_before(form: PostForm) -> Post | None:
    """Return the post that this form has already created, or None.

    If there is one, set the form's version, so that a save updates that post instead of reporting a conflict.
    """
    mine = (Post.guid == form.guid.data, Post.author_id == signed_in_user().id)
    number = db.session.scalar(select(Post.id).where(*mine))
    if number is None:
        return None
    form.version.data = "1"
    return _find_post(number)


def _post_values(post: Post) -> dict[str, object]:
    generated = {markdown.summary(post.body), *markdown.MISSING_SUMMARIES}
    return {
        "title": post.title,
        "slug": post.slug,
        "summary": "" if post.summary in generated else post.summary,
        "body": post.body,
        "language": post.language,
        "tags": ", ".join(tag.name for tag in post.tags),
        "status": "published" if post.published_at else "draft",
        "published_at": post.date and post.date.astimezone(UTC),
        "version": str(post.version),
        "guid": post.feed_id(Site.guid_of(db.session)),
    }


def post_editor(form: PostForm, post: Post | None = None, problem: str | None = None, **more: object) -> str:
    return render_template("author/post.html", form=form, post=post, problem=problem, **more)


def _save_post(form: PostForm, post: Post) -> tuple[str, int] | AnyResponse:
    known, number = (post, post.id) if post.id else (None, 0)
    if not form.validate():
        return post_editor(form, known), 422
    if known and form.version.data != str(post.version):
        return _post_conflict(form, post)
    slug = form.slug.data or (
        known.slug
        if known
        else free_slug(form.title.data, "post", lambda slug: not _slug_is_taken(slug, None))
    )
    if _slug_is_taken(slug, known):
        form.slug.errors = ["Another post has or had this address. Choose another address."]
        return post_editor(form, known), 409
    try:
        _fill_post(post, form, slug)
        db.session.commit()
    except StaleDataError:  # another request changed the post after this one read it
        db.session.rollback()
        found = _find_post(number)
        return _post_conflict(form, found) if found else _post_is_gone(form)
    except markdown.RenderError as error:
        db.session.rollback()
        form.body.errors = [str(error)]
        return post_editor(form, known), 422
    except IntegrityError:
        db.session.rollback()
        if not known and (found := _sent_before(form)):
            return _save_post(form, found)
        problem = "Somebody else has just saved the same address or the same new tag. Save again."
        return post_editor(form, known, problem=problem), 409
    return _is_saved(post)


def _post_is_gone(form: PostForm) -> tuple[str, int]:
    problem = "Somebody deleted this post while you were writing. Save your text to create a new post."
    return post_editor(form, problem=problem, action=url_for(".new_post")), 409


def _post_conflict(form: PostForm, post: Post) -> tuple[str, int] | AnyResponse:
    """Show the form merged with the newer version. If the author saves the form, it replaces that version."""
    merged, differences = form.merge(PostForm.of(_post_values(post)))
    if not differences:  # the form was sent twice
        return _is_saved(post)
    action = url_for(".edit_post", number=post.id)
    return post_editor(merged, post, CONFLICT, differences=differences, action=action), 409


def _fill_post(post: Post, form: PostForm, slug: str) -> None:
    now = datetime.now(UTC)
    with db.session.no_autoflush:
        was_public = post.published_at is not None and post.published_at <= now
        if was_public and slug != post.slug:
            db.session.add(PostAlias(slug=post.slug, post_id=post.id))
        if post.id:
            reused_alias = (PostAlias.slug == slug) & (PostAlias.post_id == post.id)
            db.session.execute(delete(PostAlias).where(reused_alias))
            if slug != post.slug:
                post.guid = post.feed_id(Site.guid_of(db.session))  # the id must not change with the address
        else:
            post.author_id = signed_in_user().id
        post.slug, post.title, post.language = slug, form.title.data, form.language.data or ""
        if post.body != form.body.data:
            post.body = form.body.data
        post.summary = " ".join(form.summary.data.split()) or markdown.render(post.body).summary
        book = tags.TagBook(db.session)
        post.tags = [book.get(name) for name in tag_names(form.tags.data)]
        said = form.moment(post.date)
        if form.status.data == "draft":
            post.published_at, post.planned_at = None, said
        else:
            post.published_at, post.planned_at = said or min(post.published_at or now, now), None
        db.session.add(post)
        if db.session.is_modified(post):
            post.updated_at = max(now, post.published_at or now)


def _slug_is_taken(slug: str, post: Post | None) -> bool:
    number = post.id if post else 0
    posts = select(Post.id).where(Post.slug == slug, Post.id != number)
    aliases = select(PostAlias.post_id).where(PostAlias.slug == slug, PostAlias.post_id != number)
    return db.session.scalar(posts.union_all(aliases).limit(1)) is not None


def _is_saved(post: Post) -> AnyResponse:
    if post.published_at is None:
        flash("The draft is saved.")
    elif post.published_at > datetime.now(UTC):
        flash("Saved. The post will appear at the scheduled time.")
    else:
        flash("Saved. Readers can see it.")
    return redirect(url_for(".edit_post", number=post.id), 303)
