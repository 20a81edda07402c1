"""Render stored texts again, because a new release may render the same text to different HTML."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from . import markdown
from .models import Base, Page, Post

_BATCH = 20  # the number of texts in memory at a time, with their HTML


def rerender(session: Session) -> tuple[int, int]:
    """Render every post and page. Return the number of texts whose HTML changed, and the number of all texts.

    `updated_at` and `version` do not change, because the text is the same. A text that somebody saves at the
    same time is skipped. The caller commits.
    """
    changed = total = 0
    for model in (Post, Page):
        query = select(model.id, model.version, model.body, model.body_html).order_by(model.id)
        for row in session.execute(query, execution_options={"yield_per": _BATCH}):
            rendered = markdown.render(row.body)
            total += 1
            if rendered.html == row.body_html:
                continue
            values: dict[str, object] = {"body_html": rendered.html}
            if model is Post:
                values["word_count"] = rendered.word_count
            unmoved = (model.id == row.id, model.version == row.version)
            change = update(Base.metadata.tables[model.__tablename__]).where(*unmoved).values(values)
            changed += session.connection().execute(change).rowcount
    return changed, total
