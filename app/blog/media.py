"""Uploaded pictures. Each picture is re-encoded, with a limited size and without metadata.

The type of a picture depends on its content, not on its file name. media_content.py stores the contents.
picture.py limits the pixels, before and after; MAX_UPLOAD_MB in config.py limits the bytes of an upload.
"""

import fcntl
import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    flash,
    jsonify,
    redirect,
    render_template,
    request,
    send_from_directory,
    url_for,
)
from flask.typing import ResponseReturnValue
from flask_wtf.file import FileField, FileRequired
from sqlalchemy import Row, func, literal, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as AnyResponse
from wtforms.validators import Length

from . import media_content
from .accounts import current_user, login_required, signed_in_user
from .assets import YEAR_S
from .author.desk import may_edit, newest, place
from .forms import Form, LineField
from .models import Media, Page, Post, db
from .request_session import with_transactions

# The memory limit of the process that re-encodes a picture. The largest allowed picture, a WebP, needs 230
# MiB. The container has enough memory for this process and the workers.
MEMORY_BYTES = 256 * 1024 * 1024
CPU_S = 15
WAIT_S, WALL_S = 10, 20  # the limits of waiting and of re-encoding; the sum is below nginx's read timeout
NAME = r"[0-9a-f]{24}-\d{1,5}x\d{1,5}\.(?:jpg|png|webp)"  # a hash of the content, and the size in pixels

BUSY = "The server is busy with other pictures. Try again in a moment."
TOO_LARGE = "This picture needs too much memory. Save it as JPEG or make it smaller, then try again."
FULL = (
    "There is no space left for pictures. Ask an administrator to delete pictures that no post shows, or to "
    "raise the limit MAX_MEDIA_MB."
)
TOO_SLOW = "This picture takes too long to read. Save it as JPEG or make it smaller, then try again."

UPLOADED = "The picture is uploaded. Copy its Markdown line into a post."
KNOWN = "The blog has this picture already. Copy its Markdown line into a post."
CHANGED = "The blog has this picture already. The description is changed. Existing posts keep the old one."
KEPT = (
    "The blog has this picture already. You may not change its description, because you did not upload "
    "it. Copy its Markdown line into a post, and write your description between [ and ]."
)

_READER = Path(__file__).with_name("picture.py")
_KINDS = {"JPEG": (".jpg", "image/jpeg"), "PNG": (".png", "image/png"), "WEBP": (".webp", "image/webp")}

bp = Blueprint("media", __name__)


class PictureError(Exception):
    """The picture is refused. The message tells the author why."""


class UploadForm(Form):
    """The form for a picture and its description."""

    file = FileField("Picture", [FileRequired("Choose a picture.")])
    alt = LineField("Description", [Length(max=500)])


class AltForm(Form):
    """The form for a picture's description (the alternative text for readers who cannot see the picture)."""

    alt = LineField("Description", [Length(max=500)])


@bp.get("/media/<name>")
def serve(name: str) -> Response:
    """Serve a picture. A web server in front of the app asks only for pictures that have no file."""
    folder: Path = current_app.config["MEDIA_DIR"]
    if not re.fullmatch(NAME, name):
        abort(404)
    if media_content.cached_bytes(folder, name) is None:
        response = _from_database(folder, name)
    else:
        response = send_from_directory(folder, name, max_age=YEAR_S)
    response.cache_control.public = True
    response.cache_control.max_age = YEAR_S
    response.cache_control.immutable = True
    response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    return response


@bp.before_app_request
def _body_limit() -> None:
    """Raise the body limit for an upload by a signed-in user."""
    if request.endpoint == "media.upload" and current_user() is not None:
        request.max_content_length = current_app.config["MAX_UPLOAD_BYTES"] + 64 * 1024


@bp.get("/author/may-upload")
def may_upload() -> tuple[str, int]:
    """Tell whether the user is signed in. The web server in front asks this before it reads an upload."""
    return ("", 204) if current_user() else ("", 401)


@bp.get("/author/media")
@login_required
def library() -> str:
    """List the pictures, newest first."""
    return _library(UploadForm(formdata=None))


@bp.post("/author/media")
@login_required
def upload() -> ResponseReturnValue:
    """Store a picture. The editor's script gets JSON: `url` and `markdown`, or `error`.

    If the blog has the picture already, and the user may change it, a new description replaces the old one.
    """
    form = UploadForm()
    wants_json = request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"
    if not form.validate_on_submit():
        problem = " ".join(error for errors in form.errors.values() for error in errors)
        return (jsonify(error=problem), 422) if wants_json else (_library(form), 422)
    try:
        picture, is_new = store(form.file.data.stream, form.file.data.filename or "", form.alt.data)
    except PictureError as error:
        form.file.errors = [str(error)]
        return (jsonify(error=str(error)), 422) if wants_json else (_library(form), 422)
    alt = form.alt.data or picture.alt
    if is_new:
        message = UPLOADED
    elif alt == picture.alt:
        message = KNOWN
    elif may_edit(picture):
        picture.alt, message = alt, CHANGED
    else:
        message = KEPT
    db.session.commit()
    if wants_json:
        return jsonify(url=url_of(picture), markdown=_markdown(url_of(picture), alt)), 201
    flash(message)
    before = None if is_new else place(picture.created_at, picture.id + 1)  # begin with this picture
    return redirect(url_for(".library", before=before), 303)


@bp.post("/author/media/<int(max=2147483647):number>")
@login_required
def describe(number: int) -> AnyResponse:
    """Change a picture's description. Markdown lines that were copied before keep the old description.

    Only administrators and the user who uploaded the picture may do this.
    """
    picture, form = _find(number), AltForm()
    if not may_edit(picture):
        abort(403)
    if not form.validate_on_submit():
        flash(" ".join(form.alt.errors) or "The description could not be saved. Try again.", "error")
        return redirect(url_for(".library"), 303)
    picture.alt = form.alt.data
    db.session.commit()
    flash("The description is changed. Existing posts keep the old one.")
    return redirect(url_for(".library"), 303)


@bp.route("/author/media/<int(max=2147483647):number>/delete", methods=["GET", "POST"])
@login_required
def delete(number: int) -> str | AnyResponse:
    """Ask whether to delete a picture. A POST request deletes it.

    Only administrators may do this, because the texts of any author may show the picture.
    """
    if not signed_in_user().is_admin:
        abort(403)
    picture = _find(number)
    if request.method != "POST":
        return render_template("author/delete_picture.html", picture=picture, texts=_texts_with(picture))
    db.session.delete(picture)
    db.session.commit()
    try:
        (current_app.config["MEDIA_DIR"] / picture.name).unlink(missing_ok=True)
    except OSError as error:
        current_app.logger.error("The file of a deleted picture is still served. Remove it: %s", error)
    flash("The picture is deleted.")
    return redirect(url_for(".library"), 303)


def store(stream: IO[bytes], original_name: str, alt: str) -> tuple[Media, bool]:
    """Re-encode the picture in `stream`, and store it. Return its row, and whether it is new.

    If the blog has the same picture, even under another file name, its row does not change, but it gets the
    content or the file that it lacks. The caller commits. Raises PictureError if the picture is refused.
    """
    folder: Path = current_app.config["MEDIA_DIR"]
    with _one_at_a_time(folder):
        data, image_format, (width, height) = rewrite(stream)
    suffix, mime = _KINDS[image_format]
    name = f"{hashlib.sha256(data).hexdigest()[:24]}-{width}x{height}{suffix}"
    same = select(Media).where(Media.name == name)
    room = current_app.config["MAX_MEDIA_BYTES"] - _stored_bytes()
    if len(data) > room and db.session.scalar(same) is None:
        raise PictureError(FULL)
    row = {
        "name": name,
        "mime": mime,
        "width": width,
        "height": height,
        "size_bytes": len(data),
        "original_name": _plain_name(original_name),
        "alt": alt,
        "author_id": signed_in_user().id,
    }
    add = insert(Media).values(row).on_conflict_do_nothing(index_elements=[Media.name])
    added = db.session.scalar(add.returning(Media.id))
    picture = db.session.scalars(same).one()
    if media_content.lacks_content(db.session, picture.id):
        media_content.add(db.session, picture.id, io.BytesIO(data), len(data))
    if media_content.cached_bytes(folder, name) != len(data):
        media_content.cache(folder, name, [data])
    return picture, added is not None


def rewrite(stream: IO[bytes]) -> tuple[bytes, str, tuple[int, int]]:
    """Re-encode a picture in a separate process that has limits of memory and time.

    Returns the new picture, its format (JPEG, PNG or WEBP) and its size in pixels. Raises PictureError.
    """
    command = [sys.executable, "-I", str(_READER), str(MEMORY_BYTES), str(CPU_S)]
    with _as_file(stream) as source:
        try:
            process = subprocess.run(  # noqa: S603 (no user input in the command)
                command, stdin=source, capture_output=True, timeout=WALL_S, check=False, env={}
            )
        except subprocess.TimeoutExpired:
            raise PictureError(TOO_SLOW) from None
    if process.returncode != 0:
        last = process.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        current_app.logger.warning(
            "the program that reads a picture ended with status %s: %s", process.returncode, last
        )
        raise PictureError(TOO_SLOW if process.returncode == -signal.SIGXCPU else TOO_LARGE)
    line, _newline, data = process.stdout.partition(b"\n")
    answer = json.loads(line)
    if "problem" in answer:
        raise PictureError(answer["problem"])
    return data, answer["format"], tuple(answer["size"])


@bp.app_template_global()
def url_of(picture: Media) -> str:
    """Return the path of a picture."""
    return url_for("media.serve", name=picture.name)


@bp.app_template_global()
def markdown_of(picture: Media) -> str:
    """Return the line of Markdown that shows a picture."""
    return _markdown(url_of(picture), picture.alt)


def _from_database(folder: Path, name: str) -> Response:
    """Write and serve the file of a picture that has none; if that fails, stream it from Postgres."""
    # In this transaction, nobody can delete the picture. Otherwise its file could be written after that.
    with Session(with_transactions(db.engine)) as session:
        picture = media_content.find(session, name)
        if picture is None:
            abort(404)
        number, mime, size = picture.id, picture.mime, picture.size_bytes
        is_written = media_content.cache(folder, name, media_content.parts(session, number))
    if is_written:
        return send_from_directory(folder, name, max_age=YEAR_S)
    # A reader may be slow. The engine begins no transaction, which a migration would have to wait for.
    engine = db.engine

    def send() -> Iterator[bytes]:
        with Session(engine) as session:
            yield from media_content.parts(session, number)

    response = Response(send(), mimetype=mime)
    response.content_length = size
    return response


def _markdown(url: str, alt: str) -> str:
    escaped = re.sub(r"([\\\[\]`*_<>!&])", r"\\\1", alt)
    return f"![{escaped}]({url})"


def _library(form: UploadForm) -> str:
    pictures, older = newest(select(Media), Media.created_at, Media.id)
    return render_template("author/media.html", form=form, pictures=pictures, older=older)


def _texts_with(picture: Media) -> Sequence[Row[str, int, str]]:
    """Return the kind (post or page), id and title of each text with the picture, drafts included."""
    texts = [
        select(literal(kind).label("kind"), id_, title).where(html.contains(picture.name, autoescape=True))
        for kind, id_, title, html in (
            ("page", Page.id, Page.title, Page.body_html),
            ("post", Post.id, Post.title, Post.body_html),
        )
    ]
    return db.session.execute(union_all(*texts).order_by("kind", "id")).all()


def _find(number: int) -> Media:
    picture = db.session.get(Media, number)
    if picture is None:
        abort(404)
    return picture


@contextmanager
def _as_file(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the stream as a file that another process can read. A small upload exists only in memory."""
    try:
        stream.fileno()
    except OSError:
        with tempfile.TemporaryFile() as file:
            stream.seek(0)
            shutil.copyfileobj(stream, file)
            file.flush()
            yield file
    else:
        stream.flush()
        yield stream


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let only one worker at a time process a picture. Several pictures at once would fill the memory.

    Raises PictureError after WAIT_S seconds, because a waiting request occupies a thread that readers need.
    """
    with _lock_file(folder) as lock:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise PictureError(BUSY) from None
                time.sleep(0.05)
        yield


def _lock_file(folder: Path) -> IO[bytes]:
    """Open the file that the workers lock: `.lock` in `folder`, or picture.py if `folder` is read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("ab")
    except OSError:
        return _READER.open("rb")


def _stored_bytes() -> int:
    """Return the size of all pictures in bytes."""
    return db.session.scalar(select(func.coalesce(func.sum(Media.size_bytes), 0))) or 0


def _plain_name(name: str) -> str:
    """Return a file name without unprintable characters, cut to 200 characters."""
    return "".join(character for character in name if character.isprintable())[:200]
