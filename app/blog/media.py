"""Uploaded pictures. Each picture is re-encoded, with a limited size and without metadata.

The type of a picture depends on its content, not on its file name.
"""

import fcntl
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from werkzeug.wrappers import Response as AnyResponse
from wtforms.validators import Length

from .accounts import current_user, login_required, signed_in_user
from .assets import YEAR_S
from .author.desk import newest
from .forms import Form, LineField
from .models import Media, Post, db

# The memory limit of the process that re-encodes a picture. The largest allowed picture, a WebP, needs 230
# MiB. The container has enough memory for this process and the workers.
MEMORY_BYTES = 256 * 1024 * 1024
CPU_S = 15
WAIT_S, WALL_S = 10, 20  # the limits of waiting and of re-encoding; the sum is below nginx's read timeout
NAME = r"[0-9a-f]{24}-\d{1,5}x\d{1,5}\.(?:jpg|png|webp)"  # a hash of the content, and the size in pixels

BUSY = "The server is busy with other pictures. Try again in a moment."
TOO_LARGE = "This picture needs too much memory. Save it as JPEG or make it smaller, then try again."
TOO_SLOW = "This picture takes too long to read. Save it as JPEG or make it smaller, then try again."

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
    """Serve a picture. Only used without a web server in front of the app, which would serve it itself."""
    if not re.fullmatch(NAME, name):
        abort(404)
    response = send_from_directory(current_app.config["MEDIA_DIR"], name, max_age=YEAR_S)
    response.cache_control.public = True
    response.cache_control.immutable = True
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
    """Store a picture. The editor's script gets JSON: `url` and `markdown`, or `error`."""
    form = UploadForm()
    wants_json = request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"
    if not form.validate_on_submit():
        problem = " ".join(error for errors in form.errors.values() for error in errors)
        return (jsonify(error=problem), 422) if wants_json else (_library(form), 422)
    try:
        picture = store(form.file.data.stream, form.file.data.filename or "", form.alt.data)
    except PictureError as error:
        form.file.errors = [str(error)]
        return (jsonify(error=str(error)), 422) if wants_json else (_library(form), 422)
    except OSError as error:
        current_app.logger.error("MEDIA_DIR cannot be written. Let the blog write to it: %s", error)
        abort(503)
    db.session.commit()
    if wants_json:
        return jsonify(url=url_of(picture), markdown=markdown_of(picture)), 201
    flash("The picture is uploaded. Copy its Markdown line into a post.")
    return redirect(url_for(".library"), 303)


@bp.post("/author/media/<int(max=2147483647):number>")
@login_required
def describe(number: int) -> AnyResponse:
    """Change a picture's description. Markdown lines that were copied before keep the old description."""
    picture, form = _find(number), AltForm()
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

    Only administrators may do this, because posts of any author may show the picture.
    """
    if not signed_in_user().is_admin:
        abort(403)
    picture = _find(number)
    if request.method != "POST":
        shows_it = Post.body.contains(picture.name, autoescape=True)
        posts = db.session.scalars(select(Post).where(shows_it).order_by(Post.id).limit(20)).all()
        return render_template("author/delete_picture.html", picture=picture, posts=posts)
    db.session.delete(picture)
    db.session.commit()
    (current_app.config["MEDIA_DIR"] / picture.name).unlink(missing_ok=True)
    flash("The picture is deleted.")
    return redirect(url_for(".library"), 303)


def store(stream: IO[bytes], original_name: str, alt: str = "") -> Media:
    """Re-encode the picture in `stream` into MEDIA_DIR, and return its row. The caller commits.

    If the blog has the same picture, even under another file name, return its existing row.
    Raises PictureError if the picture is refused, and OSError if the new file cannot be written.
    """
    folder: Path = current_app.config["MEDIA_DIR"]
    with _one_at_a_time(folder):
        data, image_format, (width, height) = rewrite(stream)
    suffix, mime = _KINDS[image_format]
    name = f"{hashlib.sha256(data).hexdigest()[:24]}-{width}x{height}{suffix}"
    _write(folder, name, data)
    row = {
        "name": name,
        "mime": mime,
        "width": width,
        "height": height,
        "size_bytes": len(data),
        "original_name": _plain_name(original_name),
        "alt": alt,
    }
    db.session.execute(insert(Media).values(row).on_conflict_do_nothing(index_elements=[Media.name]))
    return db.session.scalars(select(Media).where(Media.name == name)).one()


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
    alt = re.sub(r"([\\\[\]`*_<>!&])", r"\\\1", picture.alt)
    return f"![{alt}]({url_of(picture)})"


def _library(form: UploadForm) -> str:
    pictures, older = newest(select(Media), Media.id)
    return render_template("author/media.html", form=form, pictures=pictures, older=older)


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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
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


def _write(folder: Path, name: str, data: bytes) -> None:
    """Write a file atomically, unless it exists."""
    if (folder / name).exists():
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        file.write(data)
    partial = Path(file.name)
    partial.chmod(0o644)  # the web server runs as another user and must read the file
    partial.rename(folder / name)


def _plain_name(name: str) -> str:
    """Return a file name without unprintable characters, cut to 200 characters."""
    return "".join(character for character in name if character.isprintable())[:200]
