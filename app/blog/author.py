"""Where authors work: posts, pages, comments and messages. Nobody gets in who is not signed in."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import unified_diff
from hashlib import sha256
from typing import Any, Self, TypeVar, cast

from flask import Blueprint, abort, current_app, flash, redirect, render_template, request, url_for
from flask_wtf.csrf import CSRFError
from markupsafe import Markup
from sqlalchemy import ColumnElement, CursorResult, Delete, Select, Update, func, select, true
from sqlalchemy import delete as delete_from
from sqlalchemy import update as update_rows
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, contains_eager, selectinload, undefer
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.exceptions import Conflict, HTTPException
from werkzeug.wrappers import Response as AnyResponse
from wtforms import DateTimeLocalField, Field, HiddenField, IntegerField, RadioField, SelectChoice
from wtforms.validators import InputRequired, Length, NumberRange, Optional, Regexp, ValidationError

from . import markdown
from .accounts import SignedOutError, admin_required, current_user, login_required, signed_in_user
from .articles import MAX_BYTES, SLUG
from .forms import Form, LineField, TextField
from .models import COMMENT_STATES, Comment, ContactMessage, Media, Page, Post, PostAlias, Tag, db

PER_PAGE = 30
MAX_ID = 2**31 - 1
MAX_TAGS = 20
CONFLICT = (
    "Somebody saved another version while you were writing. Nothing is lost: the form has what you changed, "
    "and of the rest what is saved now. See the differences, take over what you want to keep, and save again."
)
SESSION_ENDED = (
    "Your session had ended, so nothing was saved. Your text is still here: sign in, in another tab, "
    "and save again."
)

bp = Blueprint("author", __name__, url_prefix="/author")

_Row = TypeVar("_Row", Comment, ContactMessage, Media, Post)


@dataclass(frozen=True)
class Difference:
    """How the text of one field of the form (lines with +) differs from the other version's (with -)."""

    label: str
    fate: str
    lines: list[str]


class _TextForm(Form):
    """What posts and pages share.

    version, base: what the author began with: the version, and a digest of what each field said then.
    """

    title = LineField("Title", [InputRequired("Give it a title."), Length(max=200)])
    slug = LineField(
        "Address",
        [
            Optional(),
            Regexp(f"(?:{SLUG})$", message="Use ASCII letters, digits and -._~ only."),
        ],
    )
    body = TextField("Text", [InputRequired("Write some text.")])
    version = HiddenField(default="0")
    base = HiddenField(default="")

    @classmethod
    def of(cls, values: dict[str, object]) -> Self:
        """Return a form that an author begins with."""
        form = cls(formdata=None, data=values)
        form.base.data = " ".join(map(_digest, form._texts().values()))
        return form

    def merge(self, saved: Self) -> tuple[Self, list[Difference]]:
        """Return a form that rests on `saved`, and how both versions differ, field by field.

        What its author did not touch it takes over from `saved`.
        """
        mine, theirs = self._texts(), saved._texts()
        began = dict(zip(mine, self.base.data.split(), strict=False))
        merged: dict[str, object] = {}
        differences = []
        for name in mine:
            touched = _digest(mine[name]) != began.get(name)
            merged[name] = (self if touched else saved)[name].data
            if not touched:
                fate, other, own = "saved meanwhile, and taken over", mine[name], theirs[name]
            elif _digest(theirs[name]) == began.get(name):
                fate, other, own = "changed by you", theirs[name], mine[name]
            else:
                fate, other, own = "changed by both; this is yours", theirs[name], mine[name]
            if own != other:
                differences.append(Difference(self[name].label.text, fate, _changed_lines(other, own)))
        merged |= {"version": saved.version.data, "base": saved.base.data}
        return type(self)(formdata=None, data=merged), differences

    def _texts(self) -> dict[str, str]:
        """Return what each field for people says, by its name."""
        return {field.name: _text(field) for field in self if not isinstance(field, HiddenField)}

    def validate_body(self, field: Field) -> None:
        """Refuse more text than an import would take."""
        if len((field.data or "").encode()) > MAX_BYTES:
            raise ValidationError("This is more than 1 MiB of text: split it.")


class PostForm(_TextForm):
    """A post as its author edits it."""

    summary = TextField("Summary", [Length(max=1000)])
    tags = LineField("Tags", [Length(max=1000)])
    status = RadioField(
        "Who can read it",
        choices=[SelectChoice("draft", "Draft"), SelectChoice("published", "Published")],
        default="draft",
    )
    published_at = DateTimeLocalField(
        "From (UTC)", [Optional()], format=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"]
    )

    def validate_tags(self, field: Field) -> None:
        """Refuse tags without an address, and too many of them."""
        names = tag_names(field.data)
        if bad := [name for slug, name in names.items() if not slug or len(name) > 60]:
            raise ValidationError(f"The tag {bad[0]!r} needs ASCII letters or digits, and at most 60 in all.")
        if len(names) > MAX_TAGS:
            raise ValidationError(f"These are {len(names)} tags; {MAX_TAGS} are the most.")

    def validate_published_at(self, field: Field) -> None:
        """Refuse years that are slips."""
        if field.data and not 1970 <= field.data.year <= 2199:
            raise ValidationError("Choose a year from 1970 to 2199.")

    def moment(self, before: datetime | None) -> datetime | None:
        """Return when the post is published: None for a draft; now, unless a date is said or was before."""
        if self.status.data == "draft":
            return None
        if self.published_at.data is None:
            now = datetime.now(UTC)
            return min(before or now, now)
        said = self.published_at.data.replace(tzinfo=UTC)
        # The form knows minutes: a moment that was not touched keeps its seconds.
        return before if before and before.replace(second=0, microsecond=0) == said else said


class PageForm(_TextForm):
    """A page as an administrator edits it."""

    position = IntegerField(
        "Position", [InputRequired("Write a number; 0 will do."), NumberRange(-1000, 1000)], default=0
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
    return list(unified_diff(old, new, lineterm="", n=1))[3:]  # without the head


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def tag_names(text: str | None) -> dict[str, str]:
    """Return the tags of a line with commas: names by slug."""
    names = filter(None, (" ".join(part.split()) for part in (text or "").split(",")))
    tags: dict[str, str] = {}
    for name in names:
        tags.setdefault(markdown.slugify(name), name)
    return tags


# Posts


@bp.get("/")
@login_required
def posts() -> str:
    """List the posts that the author may change, the newest first."""
    show, words = request.args.get("show", ""), request.args.get("q", "").replace("\0", "").strip()[:200]
    states = {
        "drafts": Post.published_at.is_(None),
        "scheduled": Post.published_at > func.now(),
        "published": Post.published_at <= func.now(),
    }
    query = select(Post).where(_editable(), states.get(show, true()))
    if words:
        query = query.where(Post.search.op("@@")(func.websearch_to_tsquery("english", words)))
    found, older = newest(query, Post.id)
    return render_template(
        "author/posts.html", posts=found, older=older, show=show, words=words, now=datetime.now(UTC)
    )


@bp.route("/posts/new", methods=["GET", "POST"])
@login_required
def new_post() -> str | tuple[str, int] | AnyResponse:
    """Write a post."""
    form = PostForm()
    if request.method != "POST":
        return _post_editor(form)
    return _save_post(form, Post(author=signed_in_user().name or current_app.config["SITE_AUTHOR"]))


@bp.route(f"/posts/<int(max={MAX_ID}):number>", methods=["GET", "POST"])
@login_required
def edit_post(number: int) -> str | tuple[str, int] | AnyResponse:
    """Change a post."""
    found = _find_post(number)
    if request.method != "POST":
        return _post_editor(PostForm.of(_post_values(found or abort(404))), found)
    return _save_post(PostForm(), found) if found else _post_is_gone(PostForm())


@bp.route(f"/posts/<int(max={MAX_ID}):number>/delete", methods=["GET", "POST"])
@login_required
def delete_post(number: int) -> str | AnyResponse:
    """Ask, and then delete a post with its comments."""
    found = _find_post(number) or abort(404)
    if request.method != "POST":
        comments = db.session.scalar(select(func.count()).where(Comment.post_id == found.id))
        return render_template("author/delete.html", kind="post", text=found, comments=comments)
    db.session.delete(found)
    db.session.commit()
    flash(f"“{found.title}” is deleted.")
    return redirect(url_for(".posts"), 303)


@bp.post("/preview")
@login_required
def preview() -> str | tuple[str, int]:
    """Show the text of the form as readers will see it; `?part=body` returns no more than that."""
    text = request.form.get("body", "")
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        abort(413)
    rendered = markdown.render(text)
    minutes = max(1, round(rendered.word_count / 220))
    part = "author/preview_body.html" if request.args.get("part") == "body" else "author/preview.html"
    return render_template(
        part,
        title=request.form.get("title", ""),
        body=Markup(rendered.html),  # noqa: S704 (sanitised)
        word_count=rendered.word_count,
        minutes=minutes,
    )


def _editable() -> ColumnElement[bool]:
    """Return the condition for posts that the user may change: an author's own, an administrator's all."""
    person = signed_in_user()
    return true() if person.is_admin else Post.author_id == person.id


@bp.app_template_global()
def may_edit(post: Post) -> bool:
    """Tell whether somebody is signed in who may change the post."""
    person = current_user()
    return person is not None and (person.is_admin or post.author_id == person.id)


def _find_post(number: int) -> Post | None:
    """Return a post, or None when there is no such post; end with 403 when the user may not change it."""
    query = select(Post).where(Post.id == number).options(undefer(Post.body), selectinload(Post.tags))
    found = db.session.scalar(query)
    if found is not None and not may_edit(found):
        abort(403)
    return found


def _post_values(post: Post) -> dict[str, object]:
    return {
        "title": post.title,
        "slug": post.slug,
        "summary": "" if post.summary == markdown.render(post.body).summary else post.summary,
        "body": post.body,
        "tags": ", ".join(tag.name for tag in post.tags),
        "status": "published" if post.published_at else "draft",
        "published_at": post.published_at and post.published_at.astimezone(UTC),
        "version": str(post.version),
    }


def _post_editor(form: PostForm, post: Post | None = None, problem: str | None = None, **more: object) -> str:
    return render_template("author/post.html", form=form, post=post, problem=problem, **more)


def _save_post(form: PostForm, post: Post) -> tuple[str, int] | AnyResponse:
    known, number = (post, post.id) if post.id else (None, 0)
    if not form.validate():
        return _post_editor(form, known), 422
    if known and form.version.data != str(post.version):
        return _post_conflict(form, post)
    slug = form.slug.data or (known.slug if known else _free_slug(form.title.data))
    if _slug_is_taken(slug, known):
        form.slug.errors = ["Another post has this address, or had it before. Choose another one."]
        return _post_editor(form, known), 409
    try:
        _fill_post(post, form, slug)
        db.session.commit()
    except StaleDataError:  # somebody saved it since it was read, a moment ago
        db.session.rollback()
        found = _find_post(number)
        return _post_conflict(form, found) if found else _post_is_gone(form)
    except IntegrityError:
        db.session.rollback()
        problem = "Somebody saved the same address at the same moment. Save again."
        return _post_editor(form, known, problem=problem), 409
    flash(_saved(post))
    return redirect(url_for(".edit_post", number=post.id), 303)


def _post_is_gone(form: PostForm) -> tuple[str, int]:
    problem = "Somebody deleted this post meanwhile. Your text is here: saving it makes a new post."
    return _post_editor(form, problem=problem, action=url_for(".new_post")), 409


def _post_conflict(form: PostForm, post: Post) -> tuple[str, int]:
    """Tell what somebody else saved meanwhile, and let the author decide: saving again replaces it."""
    merged, differences = form.merge(PostForm.of(_post_values(post)))
    return _post_editor(merged, post, CONFLICT, differences=differences), 409


def _fill_post(post: Post, form: PostForm, slug: str) -> None:
    now = datetime.now(UTC)
    with db.session.no_autoflush:
        was_public = post.published_at is not None and post.published_at <= now
        if was_public and slug != post.slug:
            db.session.add(PostAlias(slug=post.slug, post_id=post.id))
        if post.id:
            mine_again = (PostAlias.slug == slug) & (PostAlias.post_id == post.id)
            db.session.execute(delete_from(PostAlias).where(mine_again))
        else:
            post.author_id = signed_in_user().id
        post.slug, post.title = slug, form.title.data
        if post.body != form.body.data:
            post.body = form.body.data
        post.summary = " ".join(form.summary.data.split()) or markdown.render(post.body).summary
        post.tags = _tags(tag_names(form.tags.data))
        post.published_at = form.moment(post.published_at)
        post.updated_at = max(now, post.published_at or now)
        db.session.add(post)


def _tags(names: dict[str, str]) -> list[Tag]:
    """Return the tags by these names, made where the blog lacks them."""
    if names:
        rows = [{"slug": slug, "name": name} for slug, name in sorted(names.items())]
        db.session.execute(insert(Tag).values(rows).on_conflict_do_nothing(index_elements=[Tag.slug]))
    return list(db.session.scalars(select(Tag).where(Tag.slug.in_(names))))


def _slug_is_taken(slug: str, post: Post | None) -> bool:
    number = post.id if post else 0
    posts = select(Post.id).where(Post.slug == slug, Post.id != number)
    aliases = select(PostAlias.post_id).where(PostAlias.slug == slug, PostAlias.post_id != number)
    return db.session.scalar(posts.union_all(aliases).limit(1)) is not None


def _free_slug(title: str) -> str:
    """Return an address made of the title, with a number if others have it."""
    stem = markdown.slugify(title)[:90].strip("-") or "post"
    slug, number = stem, 1
    while _slug_is_taken(slug, None):
        number += 1
        slug = f"{stem}-{number}"
    return slug


def _saved(post: Post) -> str:
    if post.published_at is None:
        return "The draft is saved."
    if post.published_at > datetime.now(UTC):
        return "Saved. The post appears when its time comes."
    return "Saved. Readers can see it."


# Pages


@bp.get("/pages")
@admin_required
def pages() -> str:
    """List the pages."""
    found = db.session.scalars(select(Page).order_by(Page.position, Page.title, Page.id)).all()
    return render_template("author/pages.html", pages=found)


@bp.route("/pages/new", methods=["GET", "POST"])
@admin_required
def new_page() -> str | tuple[str, int] | AnyResponse:
    """Write a page."""
    form = PageForm()
    if request.method != "POST":
        return _page_editor(form)
    return _save_page(form, Page())


@bp.route(f"/pages/<int(max={MAX_ID}):number>", methods=["GET", "POST"])
@admin_required
def edit_page(number: int) -> str | tuple[str, int] | AnyResponse:
    """Change a page."""
    found = _find_page(number)
    if request.method != "POST":
        return _page_editor(PageForm.of(_page_values(found or abort(404))), found)
    return _save_page(PageForm(), found) if found else _page_is_gone(PageForm())


@bp.route(f"/pages/<int(max={MAX_ID}):number>/delete", methods=["GET", "POST"])
@admin_required
def delete_page(number: int) -> str | AnyResponse:
    """Ask, and then delete a page."""
    found = db.session.get(Page, number) or abort(404)
    if request.method != "POST":
        return render_template("author/delete.html", kind="page", text=found, comments=0)
    db.session.delete(found)
    db.session.commit()
    flash(f"“{found.title}” is deleted.")
    return redirect(url_for(".pages"), 303)


def _page_values(page: Page) -> dict[str, object]:
    names = ("title", "slug", "body", "position")
    return {name: getattr(page, name) for name in names} | {"version": str(page.version)}


def _page_editor(form: PageForm, page: Page | None = None, problem: str | None = None, **more: object) -> str:
    return render_template("author/page.html", form=form, page=page, problem=problem, **more)


def _find_page(number: int) -> Page | None:
    return db.session.get(Page, number, options=[undefer(Page.body)])


def _page_is_gone(form: PageForm) -> tuple[str, int]:
    problem = "Somebody deleted this page meanwhile. Your text is here: saving it makes a new page."
    return _page_editor(form, problem=problem, action=url_for(".new_page")), 409


def _page_conflict(form: PageForm, page: Page) -> tuple[str, int]:
    merged, differences = form.merge(PageForm.of(_page_values(page)))
    return _page_editor(merged, page, CONFLICT, differences=differences), 409


def _save_page(form: PageForm, page: Page) -> tuple[str, int] | AnyResponse:
    known, number = (page, page.id) if page.id else (None, 0)
    if not form.validate():
        return _page_editor(form, known), 422
    if known and form.version.data != str(page.version):
        return _page_conflict(form, page)
    slug = form.slug.data or (known.slug if known else markdown.slugify(form.title.data)[:90].strip("-"))
    if not slug or _is_route(slug):
        form.slug.errors = ["Choose another address: this one cannot be a page's."]
        return _page_editor(form, known), 409
    page.slug, page.title, page.position = slug, form.title.data, form.position.data
    page.body, page.updated_at = form.body.data, datetime.now(UTC)
    db.session.add(page)
    try:
        db.session.commit()
    except StaleDataError:
        db.session.rollback()
        found = _find_page(number)
        return _page_conflict(form, found) if found else _page_is_gone(form)
    except IntegrityError:
        db.session.rollback()
        form.slug.errors = ["Another page has this address. Choose another one."]
        return _page_editor(form, known), 409
    flash("The page is saved. Readers can see it.")
    return redirect(url_for(".edit_page", number=page.id), 303)


def _is_route(slug: str) -> bool:
    """Tell whether an address belongs to another part of the site."""
    adapter = current_app.url_map.bind("")
    try:
        endpoint, _ = adapter.match(f"/{slug}")
    except HTTPException:  # a redirect to the address with a slash
        return True
    return endpoint not in ("pages.page", "contact.contact")  # the contact form shows the page above it


# Comments and messages


@bp.route("/comments", methods=["GET", "POST"])
@login_required
def comments() -> str | tuple[str, int] | AnyResponse:
    """List the comments on the author's posts by state; a POST decides on some of them.

    The form sends `decision` (approve, spam or delete) with the comments' numbers in `ids`, or one number
    under the name of the decision: the buttons for all that are ticked, and those of one comment.
    """
    state = request.args.get("state", "pending")
    if state not in COMMENT_STATES:
        abort(404)
    mine = select(Post.id).where(_editable())
    if request.method == "POST":
        return _decide(state, Comment.post_id.in_(mine))
    query = select(Comment).join(Comment.post).options(contains_eager(Comment.post))
    found, older = newest(query.where(Comment.state == state, Comment.post_id.in_(mine)), Comment.id)
    counts = dict(
        db.session.execute(
            select(Comment.state, func.count()).where(Comment.post_id.in_(mine)).group_by(Comment.state)
        ).all()
    )
    return render_template(
        "author/comments.html", comments=found, older=older, state=state, states=COMMENT_STATES, counts=counts
    )


def _decide(state: str, may_edit: ColumnElement[bool]) -> AnyResponse:
    done = {"approve": "approved", "spam": "marked as spam", "delete": "deleted"}
    decision = next((name for name in done if name in request.form), request.form.get("decision"))
    if decision not in done:
        abort(400)
    numbers = request.form.getlist(decision if decision in request.form else "ids")
    ids = [int(number) for number in numbers if _is_id(number)]
    condition = Comment.id.in_(ids) & may_edit
    change: Delete | Update
    if decision == "delete":
        change = delete_from(Comment).where(condition)
    else:
        new_state = "approved" if decision == "approve" else "spam"
        change = update_rows(Comment).where(condition).values(state=new_state)
    count = cast("CursorResult[Any]", db.session.execute(change)).rowcount
    db.session.commit()
    if count:
        flash(f"{count} comment{'s' if count > 1 else ''} {done[decision]}.")
    else:
        flash("Nothing was chosen. Tick some comments first.", "error")
    return redirect(url_for(".comments", state=state), 303)


@bp.get("/messages")
@admin_required
def messages() -> str:
    """List what came in through the contact form."""
    found, older = newest(select(ContactMessage), ContactMessage.id)
    return render_template("author/messages.html", messages=found, older=older)


@bp.post(f"/messages/<int(max={MAX_ID}):number>")
@admin_required
def handle_message(number: int) -> AnyResponse:
    """Mark a message as read or unread, or delete it: what the button's `decision` says."""
    message = db.session.get(ContactMessage, number) or abort(404)
    decision = request.form.get("decision")
    if decision not in ("read", "unread", "delete"):
        abort(400)
    if decision == "delete":
        db.session.delete(message)
        flash(f"The message of {message.name} is deleted.")
    else:
        message.is_read = decision == "read"
    db.session.commit()
    return redirect(url_for(".messages"), 303)


# What they share


@bp.app_template_global()
def desk_counts() -> dict[str, int]:
    """Return how many comments and messages wait for the user."""
    mine = select(Post.id).where(_editable())
    pending = select(func.count()).where(Comment.state == "pending", Comment.post_id.in_(mine))
    unread = select(func.count()).where(ContactMessage.is_read.is_(False))
    row = db.session.execute(select(pending.scalar_subquery(), unread.scalar_subquery())).one()
    return {"comments": row[0], "messages": row[1]}


@bp.errorhandler(SignedOutError)
@bp.errorhandler(CSRFError)
def _session_ended(error: HTTPException) -> tuple[str, int]:
    """Give a text back that was sent after its session had ended: it must not be lost."""
    if request.endpoint in ("author.new_post", "author.edit_post"):
        page = _post_editor(PostForm(), problem=SESSION_ENDED)
    elif request.endpoint in ("author.new_page", "author.edit_page"):
        page = _page_editor(PageForm(), problem=SESSION_ENDED)
    else:
        page = render_template("error.html", error=error)
    return page, error.code or 403


@bp.errorhandler(StaleDataError)
def _changed_meanwhile(_error: StaleDataError) -> tuple[str, int]:
    db.session.rollback()
    return render_template("error.html", error=Conflict()), 409


def newest(query: Select[_Row], key: InstrumentedAttribute[int]) -> tuple[list[_Row], int | None]:
    """Return the rows with the largest keys below `?before`, and the `before` of the next page or None."""
    before = request.args.get("before", "")
    if _is_id(before):
        query = query.where(key < int(before))
    rows = list(db.session.scalars(query.order_by(key.desc()).limit(PER_PAGE + 1)))
    return rows[:PER_PAGE], rows[PER_PAGE - 1].id if len(rows) > PER_PAGE else None


def _is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,10}", text) is not None and int(text) <= MAX_ID
