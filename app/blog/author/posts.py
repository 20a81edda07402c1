"""The list and the editor of posts."""

from datetime import UTC, datetime

from flask import abort, current_app, flash, redirect, render_template, request, url_for
from sqlalchemy import delete, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload, undefer
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.wrappers import Response as AnyResponse
from wtforms import DateTimeLocalField, Field, RadioField, SelectChoice
from wtforms.validators import Length, Optional, ValidationError

from .. import markdown
from ..accounts import login_required, signed_in_user
from ..forms import LineField, TextField
from ..models import Comment, Post, PostAlias, Tag, db
from .desk import MAX_ID, bp, editable, may_edit, newest
from .editor import CONFLICT, TextForm

MAX_TAGS = 20


class PostForm(TextForm):
    """The form for a post."""

    summary = TextField("Summary", [Length(max=1000)])
    tags = LineField("Tags", [Length(max=1000)])
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
        """Refuse tags that give no slug, tags that are too long, and too many tags."""
        names = tag_names(field.data)
        if bad := [name for slug, name in names.items() if not slug or len(name) > 60]:
            raise ValidationError(
                f"The tag {bad[0]!r} is not valid. Use at most 60 characters, with an ASCII letter or digit."
            )
        if len(names) > MAX_TAGS:
            raise ValidationError(f"The post has {len(names)} tags. Use at most {MAX_TAGS} tags.")

    def validate_published_at(self, field: Field) -> None:
        """Refuse years that are probably typing errors."""
        if field.data and not 1970 <= field.data.year <= 2199:
            raise ValidationError("Choose a year from 1970 to 2199.")

    def moment(self, before: datetime | None) -> datetime | None:
        """Return the publication time, or None for a draft.

        before: the stored publication time, or None.
        If the form has no time, a public post keeps the stored time, and any other post is published now.
        """
        if self.status.data == "draft":
            return None
        if self.published_at.data is None:
            now = datetime.now(UTC)
            return min(before or now, now)
        said = self.published_at.data.replace(tzinfo=UTC)
        # The form has no seconds. If the author did not change the time, keep the stored seconds.
        return before if before and before.replace(second=0, microsecond=0) == said else said


def tag_names(text: str | None) -> dict[str, str]:
    """Split a line at its commas into tags. Return the names of the tags by slug."""
    names = filter(None, (" ".join(part.split()) for part in (text or "").split(",")))
    tags: dict[str, str] = {}
    for name in names:
        tags.setdefault(markdown.slugify(name), name)
    return tags


@bp.get("/")
@login_required
def posts() -> str:
    """List the posts that the author may change, newest first."""
    show, words = request.args.get("show", ""), request.args.get("q", "").replace("\0", "").strip()[:200]
    states = {
        "drafts": Post.published_at.is_(None),
        "scheduled": Post.published_at > func.now(),
        "published": Post.published_at <= func.now(),
    }
    query = select(Post).where(editable(), states.get(show, true()))
    if words:
        query = query.where(Post.search.op("@@")(func.websearch_to_tsquery("english", words)))
    found, older = newest(query, Post.id)
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
    return _save_post(form, Post(author=signed_in_user().name or current_app.config["SITE_AUTHOR"]))


@bp.route(f"/posts/<int(max={MAX_ID}):number>", methods=["GET", "POST"])
@login_required
def edit_post(number: int) -> str | tuple[str, int] | AnyResponse:
    """Show the editor for a post. A POST request saves the post."""
    found = _find_post(number)
    if request.method != "POST":
        return post_editor(PostForm.of(_post_values(found or abort(404))), found)
    return _save_post(PostForm(), found) if found else _post_is_gone(PostForm())


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


def post_editor(form: PostForm, post: Post | None = None, problem: str | None = None, **more: object) -> str:
    return render_template("author/post.html", form=form, post=post, problem=problem, **more)


def _save_post(form: PostForm, post: Post) -> tuple[str, int] | AnyResponse:
    known, number = (post, post.id) if post.id else (None, 0)
    if not form.validate():
        return post_editor(form, known), 422
    if known and form.version.data != str(post.version):
        return _post_conflict(form, post)
    slug = form.slug.data or (known.slug if known else _free_slug(form.title.data))
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
    except IntegrityError:
        db.session.rollback()
        problem = "Somebody saved another post with this address at the same moment. Save again."
        return post_editor(form, known, problem=problem), 409
    flash(_saved(post))
    return redirect(url_for(".edit_post", number=post.id), 303)


def _post_is_gone(form: PostForm) -> tuple[str, int]:
    problem = "Somebody deleted this post while you were writing. Save your text to create a new post."
    return post_editor(form, problem=problem, action=url_for(".new_post")), 409


def _post_conflict(form: PostForm, post: Post) -> tuple[str, int]:
    """Show the form merged with the newer version. If the author saves the form, it replaces that version."""
    merged, differences = form.merge(PostForm.of(_post_values(post)))
    return post_editor(merged, post, CONFLICT, differences=differences), 409


def _fill_post(post: Post, form: PostForm, slug: str) -> None:
    now = datetime.now(UTC)
    with db.session.no_autoflush:
        was_public = post.published_at is not None and post.published_at <= now
        if was_public and slug != post.slug:
            db.session.add(PostAlias(slug=post.slug, post_id=post.id))
        if post.id:
            mine_again = (PostAlias.slug == slug) & (PostAlias.post_id == post.id)
            db.session.execute(delete(PostAlias).where(mine_again))
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
    """Return the tags with these names, and create those that do not exist."""
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
    """Return a slug made from the title, with a number if the slug is taken."""
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
        return "Saved. The post will appear at the scheduled time."
    return "Saved. Readers can see it."
