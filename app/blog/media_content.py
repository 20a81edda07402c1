"""The contents of pictures: in Postgres, and as files in MEDIA_DIR, which is a cache.

The web server in front serves the files. If it finds no file, it asks the blog, which writes the file again.
A picture of an older release has only a file, until `flask media adopt` or another upload of it stores it.

Whoever writes the content or the file of a picture holds a lock of its row in the table `media`. So two
processes never write the same content, and no file appears again after its picture was deleted.
"""

import hashlib
import io
import os
import stat
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psycopg2
from flask import current_app
from sqlalchemy import LargeBinary, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from .models import Media, MediaContent

# A picture is read and written in parts of this size, because the memory would not suffice for several
# large pictures at once.
_PART_BYTES = 256 * 1024
_COPY = "COPY media_content (media_id, content) FROM STDIN (FORMAT binary)"
_HAS_NO_CONTENT = ~select(MediaContent.media_id).where(MediaContent.media_id == Media.id).exists()


class _Row:
    """A file with one row of `media_content`, in the binary format of COPY.

    In an INSERT, the content would be text, of which psycopg2 and Postgres keep several copies in memory.
    """

    def __init__(self, number: int, content: IO[bytes], size: int) -> None:
        # The signature, no flags, no extension; two columns, each with its length; and the end.
        head = struct.pack(">11siihiii", b"PGCOPY\n\xff\r\n\0", 0, 0, 2, 4, number, size)
        self._parts = [io.BytesIO(head), content, io.BytesIO(struct.pack(">h", -1))]

    def read(self, size: int) -> bytes:
        while self._parts:
            if part := self._parts[0].read(size):
                return part
            del self._parts[0]
        return b""


@dataclass
class Adopted:
    """What `adopt` did: the number of pictures that it took over, and the names of those that it could not.

    missing: pictures without a file. damaged: pictures whose file does not match the name, or is unreadable.
    """

    adopted: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def lacks_content(session: Session, number: int) -> bool:
    """Lock a picture until the transaction ends. Tell whether it exists, and has no content in Postgres."""
    row = select(Media.id).where(Media.id == number).with_for_update(key_share=True)
    content = select(MediaContent.media_id).where(MediaContent.media_id == number)
    return session.scalar(row) is not None and session.scalar(content) is None


def count_without_content(session: Session) -> int:
    """Return the number of pictures whose content is not in Postgres."""
    return session.scalar(select(func.count()).select_from(Media).where(_HAS_NO_CONTENT)) or 0


def add(session: Session, number: int, content: IO[bytes], size: int) -> None:
    """Store the content of a picture for which `lacks_content` is true: `size` bytes. The caller commits."""
    cursor = session.connection().connection.cursor()
    try:
        cursor.copy_expert(_COPY, _Row(number, content, size), _PART_BYTES)
    except psycopg2.Error as error:
        raise DBAPIError(_COPY, None, error) from error
    finally:
        cursor.close()


def find(session: Session, name: str) -> Media | None:
    """Return the picture with this name, if Postgres has its content.

    Nobody can delete the picture until the transaction ends.
    """
    query = select(Media).join(MediaContent, MediaContent.media_id == Media.id).where(Media.name == name)
    return session.scalar(query.with_for_update(read=True, key_share=True, of=Media))


def parts(session: Session, number: int) -> Iterator[bytes]:
    """Yield the content of a picture from Postgres in parts."""
    start = 1
    while part := session.scalar(
        select(func.substring(MediaContent.content, start, _PART_BYTES, type_=LargeBinary)).where(
            MediaContent.media_id == number
        )
    ):
        yield part
        start += _PART_BYTES


def parts_of_file(path: Path) -> Iterator[bytes]:
    """Yield the content of a file in parts. Raises OSError."""
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            yield part


def is_intact(file: io.BufferedReader, name: str, size: int) -> bool:
    """Tell whether a file has this size, and the hash that is in the name of a picture."""
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest.startswith(name.partition("-")[0]) and os.fstat(file.fileno()).st_size == size


def cached_bytes(folder: Path, name: str) -> int | None:
    """Return the size of a picture's file, or None if there is no file. A link does not count as a file."""
    try:
        found = (folder / name).lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def write(folder: Path, name: str, content: Iterable[bytes]) -> None:
    """Write a file atomically. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        partial = Path(file.name)
        try:
            file.writelines(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # the web server runs as another user and must read the file
            os.fsync(file.fileno())  # else a loss of power could leave an empty file with the final name
            partial.rename(folder / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def cache(folder: Path, name: str, content: Iterable[bytes]) -> bool:
    """Write the file of a picture that Postgres has. If that is impossible, log the reason.

    Returns whether the file was written.
    """
    try:
        write(folder, name, content)
    except OSError as error:
        current_app.logger.error(
            "MEDIA_DIR cannot be written, so the blog reads pictures from the database at each request: %s. "
            "Give the blog write access to MEDIA_DIR, or free space on its disk.",
            error,
        )
        return False
    return True


def adopt(session: Session, folder: Path) -> Adopted:
    """Store the files of the pictures that Postgres lacks. Commit after each picture. Remove no file."""
    result = Adopted()
    query = select(Media.id, Media.name, Media.size_bytes).where(_HAS_NO_CONTENT).order_by(Media.id)
    for number, name, size in session.execute(query).all():
        if lacks_content(session, number):
            try:
                with (folder / name).open("rb") as file:
                    if is_intact(file, name, size):
                        file.seek(0)
                        add(session, number, file, size)
                        result.adopted += 1
                    else:
                        result.damaged.append(name)
            except FileNotFoundError:
                result.missing.append(name)
            except OSError:
                result.damaged.append(name)
        session.commit()
    return result


def fill(session: Session, folder: Path) -> int:
    """Write the file of each picture that Postgres has, if the cache lacks it or has it with another size.

    Returns the number of files.

    Raises OSError if a file cannot be written.
    """
    written = 0
    query = select(Media.name, Media.size_bytes).join(MediaContent, MediaContent.media_id == Media.id)
    for name, size in session.execute(query.order_by(Media.id)).all():
        if cached_bytes(folder, name) != size and (picture := find(session, name)):
            write(folder, name, parts(session, picture.id))
            written += 1
        session.commit()
    return written
