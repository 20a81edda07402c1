"""Export the whole site as files that people can read and `flask import` can import.

The files are posts/SLUG.md, pages/SLUG.md, comments/SLUG.json (the comments on the post SLUG), media/NAME
(a picture), and export.json, which has the id of the feed and describes the pictures and the tags. Users,
their passwords and the messages from the contact form are not exported.
"""

import json
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, selectinload, undefer

from . import front_matter, markdown, media_content
from .models import Comment, Media, MediaContent, Page, Post, Site, Tag

FORMAT = 1
MARKER = "export.json"
FOLDERS = ("posts", "pages", "comments", "media")
COMMENT_FIELDS = ("author", "email", "body", "state")
MEDIA_FIELDS = ("name", "mime", "width", "height", "size_bytes", "original_name", "alt")
_BATCH = 20  # the number of texts in memory at a time, each of at most 1 MiB (MAX_BYTES in models.py)

_Row = TypeVar("_Row", Post, Page)


class ExportError(Exception):
    """The directory contains files that are no part of an export. The message tells how to correct this."""


def export_site(session: Session, directory: Path, media_dir: Path) -> tuple[int, int]:
    """Write the site into `directory`, which is new, empty, or an earlier export that will be updated.

    media_dir: the directory of the files of pictures that have no content in Postgres yet.
    Returns the number of files written or changed, and the number of files removed.
    Raises ExportError, or OSError if a file cannot be read or written.
    """
    if directory.exists() and not (directory / MARKER).is_file() and any(directory.iterdir()):
        raise ExportError(f"{directory} contains other files: name a new directory, or one with an export")
    # Read one snapshot of the whole site, even if somebody changes the site meanwhile.
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept, written = set(), 0
    for name, content in _texts(session):
        kept.add(directory / name)
        written += _write(directory / name, content.encode())
    pictures = select(Media.id, Media.name, MediaContent.media_id).outerjoin(
        MediaContent, MediaContent.media_id == Media.id
    )
    for number, name, stored in session.execute(pictures):
        target = directory / "media" / name
        kept.add(target)
        if not target.exists():  # an existing file has this content: the name contains a hash of the content
            in_file = media_content.parts_of_file(media_dir / name)
            picture = media_content.parts(session, number) if stored else in_file
            media_content.write(target.parent, name, picture)
            written += 1
    removed = [path for folder in FOLDERS for path in (directory / folder).glob("*") if path not in kept]
    for path in removed:
        path.unlink()
    return written, len(removed)


def _texts(session: Session) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each file except pictures. The first file is export.json."""
    guid = Site.guid_of(session)
    lists = {"media": list(_media(session)), "tags": list(_tags(session))}
    yield MARKER, _json({"format": FORMAT, "guid": guid, **lists})
    aliases, tags = selectinload(Post.aliases), selectinload(Post.tags)
    for post in _each(session, select(Post).options(undefer(Post.body), aliases, tags).order_by(Post.id)):
        yield f"posts/{post.slug}.md", _post(post, guid)
    for page in _each(session, select(Page).options(undefer(Page.body)).order_by(Page.id)):
        fields: dict[str, front_matter.FrontMatter] = {
            "title": _line(page.title),
            "slug": page.slug,
            "position": page.position,
            "updated": page.updated_at,
        }
        yield f"pages/{page.slug}.md", front_matter.write(fields, page.body)
    query = select(Post.slug, Comment).join(Comment.post).order_by(Post.id, Comment.created_at, Comment.id)
    rows = session.execute(query, execution_options={"yield_per": _BATCH})
    for slug, group in groupby(rows, key=lambda row: row.slug):
        yield f"comments/{slug}.json", _json([_comment(row.Comment) for row in group])


def _each(session: Session, query: Select[_Row]) -> Iterator[_Row]:
    for row in session.scalars(query, execution_options={"yield_per": _BATCH}):
        yield row
        session.expunge(row)


def _post(post: Post, site: str) -> str:
    fields: dict[str, front_matter.FrontMatter] = {
        "title": _line(post.title),
        "slug": post.slug,
        **({} if post.published_at else {"status": "draft"}),
        **({"date": post.date} if post.date else {}),
        "updated": post.updated_at,
        "author": _line(post.author),
        "summary": _line(post.summary) or markdown.summary(post.body),
        **({"lang": post.language} if post.language else {}),
        "tags": sorted(_line(tag.name) for tag in post.tags),
        "aliases": sorted(alias.slug for alias in post.aliases),
        "guid": post.feed_id(site),
    }
    return front_matter.write({name: value for name, value in fields.items() if value != []}, post.body)


def _comment(comment: Comment) -> dict[str, object]:
    fields = {name: getattr(comment, name) for name in COMMENT_FIELDS}
    return fields | {"created_at": front_matter.utc(comment.created_at)}


def _media(session: Session) -> Iterator[dict[str, object]]:
    for picture in session.scalars(select(Media).order_by(Media.name)):
        fields = {name: getattr(picture, name) for name in MEDIA_FIELDS}
        yield fields | {"created_at": front_matter.utc(picture.created_at)}


def _tags(session: Session) -> Iterator[dict[str, object]]:
    for tag in session.scalars(select(Tag).options(selectinload(Tag.aliases)).order_by(Tag.slug)):
        aliases = [alias.slug for alias in tag.aliases]
        row: dict[str, object] = {"name": _line(tag.name), "slug": tag.slug, "aliases": aliases}
        yield row | ({"first_slug": tag.first_slug} if tag.first_slug else {})


def _line(text: str) -> str:
    """Return `text` as front matter contains it: on one line, with single spaces."""
    return " ".join(text.split())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _write(path: Path, content: bytes) -> bool:
    """Write a file atomically. Tell whether its content changed."""
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
    Path(file.name).rename(path)
    return True
