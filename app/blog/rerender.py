"""Render stored texts again, because a new release may render the same text to different HTML."""

from dataclasses import dataclass, field

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from . import markdown
from .models import Base, Page, Post

_BATCH = 20  # the number of texts in memory at a time, with their HTML


@dataclass
class Result:
    """What a run has done.

    changed: the number of texts that have new HTML, another word count or another summary.
    total: the number of all texts.
    refused: a line for each text that keeps its HTML, because this release cannot render the text.
    """

    changed: int = 0
    total: int = 0
    refused: list[str] = field(default_factory=list)


def rerender(session: Session) -> Result:
    """Render every post and page.

    A post also gets the number of its words and, if it has none, a summary. `updated_at` and `version` do not
    change, because the text is the same. A text that somebody saves at the same time is skipped. The caller
    commits.
    """
    result = Result()
    for model in (Post, Page):
        more = (Post.word_count, Post.summary) if model is Post else ()
        query = select(model.id, model.version, model.slug, model.body, model.body_html, *more)
        for row in session.execute(query.order_by(model.id), execution_options={"yield_per": _BATCH}):
            result.total += 1
            try:
                rendered = markdown.render(row.body)
            except markdown.RenderError as error:
                result.refused.append(f"The {model.__tablename__} {row.slug!r} keeps its HTML. {error}")
                continue
            values: dict[str, object] = {"body_html": rendered.html}
            if model is Post:
                values["word_count"] = rendered.word_count
                if row.summary in markdown.MISSING_SUMMARIES:
                    values["summary"] = rendered.summary
            if all(getattr(row, name) == value for name, value in values.items()):
                continue
            unmoved = (model.id == row.id, model.version == row.version)
            change = update(Base.metadata.tables[model.__tablename__]).where(*unmoved).values(values)
            result.changed += session.connection().execute(change).rowcount
    return result
