"""The list and the editor of pages such as "About". Only administrators change pages."""

from datetime import UTC, datetime

from flask import abort, flash, redirect, render_template, request, url_for
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import undefer
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.wrappers import Response as AnyResponse
from wtforms import IntegerField
from wtforms.validators import InputRequired, NumberRange

from .. import markdown
from ..accounts import admin_required
from ..models import Page, db
from ..names import is_free_page_name, slug_stem
from .desk import MAX_ID, bp
from .editor import CONFLICT, TextForm


class PageForm(TextForm):
    """The form for a page."""

    position = IntegerField(
        "Position", [InputRequired("Enter a number, for example 0."), NumberRange(-1000, 1000)], default=0
    )


@bp.get("/pages")
@admin_required
def pages() -> str:
    """List the pages."""
    found = db.session.scalars(select(Page).order_by(Page.position, Page.title, Page.id)).all()
    return render_template("author/pages.html", pages=found)


@bp.route("/pages/new", methods=["GET", "POST"])
@admin_required
def new_page() -> str | tuple[str, int] | AnyResponse:
    """Show the editor for a new page. A POST request creates the page."""
    form = PageForm()
    if request.method != "POST":
        return page_editor(form)
    return _save_page(form, Page())


@bp.route(f"/pages/<int(max={MAX_ID}):number>", methods=["GET", "POST"])
@admin_required
def edit_page(number: int) -> str | tuple[str, int] | AnyResponse:
    """Show the editor for a page. A POST request saves the page."""
    found = _find_page(number)
    if request.method != "POST":
        return page_editor(PageForm.of(_page_values(found or abort(404))), found)
    return _save_page(PageForm(), found) if found else _page_is_gone(PageForm())


@bp.route(f"/pages/<int(max={MAX_ID}):number>/delete", methods=["GET", "POST"])
@admin_required
def delete_page(number: int) -> str | AnyResponse:
    """Ask whether to delete a page. A POST request deletes it."""
    found = db.session.get(Page, number) or abort(404)
    if request.method != "POST":
        return render_template("author/delete.html", kind="page", text=found, comments=0)
    db.session.delete(found)
    db.session.commit()
    flash(f"\u201c{found.title}\u201d is deleted.")
    return redirect(url_for(".pages"), 303)


def _page_values(page: Page) -> dict[str, object]:
    names = ("title", "slug", "body", "position")
    return {name: getattr(page, name) for name in names} | {"version": str(page.version)}


def page_editor(form: PageForm, page: Page | None = None, problem: str | None = None, **more: object) -> str:
    return render_template("author/page.html", form=form, page=page, problem=problem, **more)


def _find_page(number: int) -> Page | None:
    return db.session.get(Page, number, options=[undefer(Page.body)])


def _page_is_gone(form: PageForm) -> tuple[str, int]:
    problem = "Somebody deleted this page while you were writing. Save your text to create a new page."
    return page_editor(form, problem=problem, action=url_for(".new_page")), 409


def _page_conflict(form: PageForm, page: Page) -> tuple[str, int] | AnyResponse:
    merged, differences = form.merge(PageForm.of(_page_values(page)))
    if not differences:  # the form was sent twice
        return _is_saved(page)
    return page_editor(merged, page, CONFLICT, differences=differences), 409


def _save_page(form: PageForm, page: Page) -> tuple[str, int] | AnyResponse:
    known, number = (page, page.id) if page.id else (None, 0)
    if not form.validate():
        return page_editor(form, known), 422
    if known and form.version.data != str(page.version):
        return _page_conflict(form, page)
    slug = form.slug.data or (known.slug if known else slug_stem(form.title.data))
    if not slug or not is_free_page_name(slug):
        form.slug.errors = ["A page cannot have this address. Choose another address."]
        return page_editor(form, known), 409
    try:
        if page.body != form.body.data:
            page.body = form.body.data
        page.slug, page.title, page.position = slug, form.title.data, form.position.data
        db.session.add(page)
        if db.session.is_modified(page):
            page.updated_at = datetime.now(UTC)
        db.session.commit()
    except markdown.RenderError as error:
        db.session.rollback()
        form.body.errors = [str(error)]
        return page_editor(form, known), 422
    except StaleDataError:
        db.session.rollback()
        found = _find_page(number)
        return _page_conflict(form, found) if found else _page_is_gone(form)
    except IntegrityError:
        db.session.rollback()
        if not known and (sent := _find_copy(form, slug)):
            return _is_saved(sent)
        form.slug.errors = ["Another page has this address. Choose another address."]
        return page_editor(form, known), 409
    return _is_saved(page)


def _find_copy(form: PageForm, slug: str) -> Page | None:
    """Return the page that this form made when it was sent before, as by a double click."""
    values = {"title": form.title.data, "body": form.body.data, "position": form.position.data}
    return db.session.scalar(select(Page).filter_by(slug=slug, **values).options(undefer(Page.body)))


def _is_saved(page: Page) -> AnyResponse:
    flash("The page is saved. Readers can see it.")
    return redirect(url_for(".edit_page", number=page.id), 303)
