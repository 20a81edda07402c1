"""Import the pictures of an export."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import select

from .. import media
from ..exporter import FORMAT, MARKER, MEDIA_FIELDS
from ..models import Media
from .entries import entries, moment, read_json, refuse_control_characters
from .step import Import


def read_media(step: Import) -> list[tuple[Path, Media]]:
    marker = step.source / MARKER
    site = read_json(marker, step)
    if not isinstance(site, dict) or site.get("format") != FORMAT:
        step.problems.append(f"{marker}:1: does not have the format {FORMAT}; export again with this release")
        return []
    pictures = []
    for picture in entries(marker, site.get("media"), _picture, step):
        path = step.source / "media" / picture.name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            step.problems.append(f"{path}:1: cannot be read ({error.strerror}); restore the file")
        else:
            if not digest.startswith(picture.name.partition("-")[0]):
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
    names = [picture.name for _path, picture in pictures]
    known = set(step.session.scalars(select(Media.name).where(Media.name.in_(names))))
    media_dir.mkdir(parents=True, exist_ok=True)
    for path, picture in pictures:
        target = media_dir / picture.name
        if not target.exists():
            partial = target.with_name(f".{picture.name}")
            shutil.copyfile(path, partial)
            partial.chmod(0o644)  # the web server runs as another user and must read the file
            partial.rename(target)
        if picture.name not in known:
            step.session.add(picture)
            step.counts["media"] += 1
