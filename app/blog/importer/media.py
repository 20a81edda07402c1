"""Import the pictures of an export."""

import re
from pathlib import Path
from typing import Any

from sqlalchemy import select

from .. import media, media_content
from ..exporter import MARKER, MEDIA_FIELDS
from ..models import Media
from .entries import entries, moment, refuse_control_characters
from .step import Import


def read_media(site: dict[str, Any], step: Import) -> list[tuple[Path, Media]]:
    """Read the pictures that `site`, the content of export.json, describes."""
    pictures = []
    for picture in entries(step.source / MARKER, site["media"], _picture, step):
        path = step.source / "media" / picture.name
        try:
            with path.open("rb") as file:
                intact = media_content.is_intact(file, picture.name, picture.size_bytes)
        except OSError as error:
            step.problems.append(f"{path}:1: cannot be read ({error.strerror}); restore the file")
        else:
            if not intact:
                step.problems.append(
                    f"{path}:1: is damaged: the content does not match the name; replace the file"
                )
            pictures.append((path, picture))
    return pictures


def _picture(row: dict[str, Any]) -> Media:
    """Return the picture in `row`. Raises KeyError, TypeError or ValueError if it is not valid."""
    picture = Media(**{name: row[name] for name in MEDIA_FIELDS}, created_at=moment(row))
    if not re.fullmatch(media.NAME, picture.name):
        raise ValueError
    for number in (picture.width, picture.height, picture.size_bytes):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**31:
            raise ValueError
    refuse_control_characters(picture.mime, picture.original_name, picture.alt)
    return picture


def write_media(pictures: list[tuple[Path, Media]], media_dir: Path, step: Import) -> None:
    """Store the pictures that the blog lacks, or whose content or file it lacks."""
    session = step.session
    for path, picture in pictures:
        number = session.scalar(select(Media.id).where(Media.name == picture.name))
        if number is None:
            session.add(picture)
            session.flush()
            number = picture.id
        if media_content.lacks_content(session, number):
            with path.open("rb") as file:
                media_content.add(session, number, file, picture.size_bytes)
            step.counts["media"] += 1
        if media_content.cached_bytes(media_dir, picture.name) != picture.size_bytes:
            media_content.cache(media_dir, picture.name, media_content.parts_of_file(path))
