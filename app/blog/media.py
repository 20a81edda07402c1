"""Pictures: taken by what they are, not by what they are called; written anew, small, without metadata."""

import fcntl
import hashlib
import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from flask_wtf.file import FileField, FileRequired
from PIL import (
    Image,
    ImageCms,
    ImageOps,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401 (the only format here that Pillow does not load by itself)
)
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from werkzeug.wrappers import Response as AnyResponse
from wtforms.validators import Length

from .accounts import current_user, login_required
from .assets import YEAR_S
from .author import newest
from .forms import FlaskForm, LineField
from .models import Media, Post, db

LONGEST_EDGE = 2560
MAX_PIXELS = 12_500_000  # 50 MB each of the two times that they are in memory
MAX_PIXELS_OF_A_PHOTO = 4 * MAX_PIXELS  # a JPEG that is not progressive can be read at half its size
NAME = r"[0-9a-f]{24}-\d{1,5}x\d{1,5}\.(?:jpg|png|webp)"  # a hash of the content, and its size for the page

Image.MAX_IMAGE_PIXELS = None  # the limits here are lower

_WRITTEN_AS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "GIF": "PNG"}
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_OPTIONS = {
    "JPEG": {"quality": 85, "progressive": True, "optimize": True},
    "PNG": {},
    "WEBP": {"quality": 85},
}

bp = Blueprint("media", __name__)


class PictureError(Exception):
    """The file is no picture that can be taken. The message tells the author why."""


class UploadForm(FlaskForm):
    """A picture and what it shows."""

    file = FileField("Picture", [FileRequired("Choose a picture.")])
    alt = LineField("What it shows", [Length(max=500)])


class AltForm(FlaskForm):
    """What a picture shows, for those who cannot see it."""

    alt = LineField("What it shows", [Length(max=500)])


@bp.get("/media/<name>")
def serve(name: str) -> Response:
    """Serve a picture, where no web server in front does."""
    if not re.fullmatch(NAME, name):
        abort(404)
    response = send_from_directory(current_app.config["MEDIA_DIR"], name, max_age=YEAR_S)
    response.cache_control.public = True
    response.cache_control.immutable = True
    return response


@bp.before_app_request
def _body_limit() -> None:
    """Let those who are signed in send a picture: more than any other request may hold."""
    if request.endpoint == "media.upload" and current_user() is not None:
        request.max_content_length = current_app.config["MAX_UPLOAD_BYTES"] + 64 * 1024


@bp.get("/author/may-upload")
def may_upload() -> tuple[str, int]:
    """Tell the web server in front whether somebody is signed in, before it reads a picture of theirs."""
    return ("", 204) if current_user() else ("", 401)


@bp.get("/author/media")
@login_required
def library() -> str:
    """Show the pictures, the newest first."""
    return _library(UploadForm(formdata=None))


@bp.post("/author/media")
@login_required
def upload() -> tuple[str, int] | AnyResponse:
    """Take a picture. The editor's script gets JSON: `url` and `markdown`, or `error`."""
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
        current_app.logger.error("MEDIA_DIR cannot be written: %s", error)
        abort(503)
    db.session.commit()
    if wants_json:
        return jsonify(url=url_of(picture), markdown=markdown_of(picture)), 201
    flash("The picture is here. Copy its line into a post.")
    return redirect(url_for(".library"), 303)


@bp.post("/author/media/<int(max=2147483647):number>")
@login_required
def describe(number: int) -> tuple[str, int] | AnyResponse:
    """Change what the picture is said to show, in lines that are copied from now on."""
    picture, form = _find(number), AltForm()
    if not form.validate_on_submit():
        flash(" ".join(form.alt.errors) or "That could not be read. Try again.", "error")
        return redirect(url_for(".library"), 303)
    picture.alt = form.alt.data
    db.session.commit()
    flash("The description is changed. Posts that show the picture keep theirs.")
    return redirect(url_for(".library"), 303)


@bp.route("/author/media/<int(max=2147483647):number>/delete", methods=["GET", "POST"])
@login_required
def delete(number: int) -> str | AnyResponse:
    """Ask, and then remove a picture. Administrators only: other people's posts may show it."""
    if not current_user().is_admin:
        abort(403)
    picture = _find(number)
    if request.method == "GET":
        shows_it = Post.body.contains(picture.name, autoescape=True)
        posts = db.session.scalars(select(Post).where(shows_it).order_by(Post.id).limit(20)).all()
        return render_template("author/delete_picture.html", picture=picture, posts=posts)
    db.session.delete(picture)
    db.session.commit()
    (current_app.config["MEDIA_DIR"] / picture.name).unlink(missing_ok=True)
    flash("The picture is deleted.")
    return redirect(url_for(".library"), 303)


def store(stream: IO[bytes], original_name: str, alt: str = "") -> Media:
    """Write the picture in `stream` anew into MEDIA_DIR, and return its row; the caller commits.

    A picture that is there already is found again, whatever it is called.
    Raises PictureError when it is no picture, or too large a one, and OSError when it cannot be written.
    """
    folder: Path = current_app.config["MEDIA_DIR"]
    with _one_at_a_time(folder):
        data, image_format, (width, height) = rewrite(stream)
    name = f"{hashlib.sha256(data).hexdigest()[:24]}-{width}x{height}{_SUFFIXES[image_format]}"
    _write(folder, name, data)
    row = {
        "name": name,
        "mime": Image.MIME[image_format],
        "width": width,
        "height": height,
        "size_bytes": len(data),
        "original_name": _plain_name(original_name),
        "alt": alt,
    }
    db.session.execute(insert(Media).values(row).on_conflict_do_nothing(index_elements=[Media.name]))
    return db.session.scalars(select(Media).where(Media.name == name)).one()


def rewrite(stream: IO[bytes]) -> tuple[bytes, str, tuple[int, int]]:
    """Read a picture, and return it encoded anew with its format (JPEG, PNG or WEBP) and size in pixels.

    Upright, in sRGB, at most LONGEST_EDGE pixels long, and without metadata. Raises PictureError.
    """
    try:
        with Image.open(stream, formats=("JPEG", "PNG", "WEBP", "GIF")) as image:
            _refuse_unsuitable(image)
            written_as = _WRITTEN_AS[image.format]
            if image.width * image.height > MAX_PIXELS:
                image.draft("RGB", (image.width // 2, image.height // 2))
            picture = _to_srgb(_upright_and_small(image), written_as)
    except UnidentifiedImageError as error:
        raise PictureError("This is no picture for a page. Take a JPEG, PNG, WebP or GIF.") from error
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever broken data leads them to
        raise PictureError("This picture is damaged and cannot be read.") from error
    picture.info.clear()
    output = io.BytesIO()
    picture.save(output, written_as, **_OPTIONS[written_as])
    return output.getvalue(), written_as, picture.size


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


def _refuse_unsuitable(image: Image.Image) -> None:
    """Judge by the header alone, before any pixel takes memory."""
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise PictureError("Animated pictures cannot be taken. Choose a still one.")
    is_photo = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    limit = MAX_PIXELS_OF_A_PHOTO if is_photo else MAX_PIXELS
    if image.width * image.height > limit:
        raise PictureError(
            f"This picture has {image.width} x {image.height} pixels. "
            f"Make it smaller: {limit / 1_000_000:g} million are the most."
        )


def _upright_and_small(image: Image.Image) -> Image.Image:
    if image.mode not in ("L", "RGB", "RGBA", "CMYK"):  # a palette cannot be made smaller smoothly
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.LANCZOS)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_srgb(image: Image.Image, written_as: str) -> Image.Image:
    """Return the picture in a colour mode that browsers know."""
    profile = image.info.get("icc_profile")
    transparent = written_as != "JPEG" and image.has_transparency_data
    mode = "RGBA" if transparent else "RGB"
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        with suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            output_mode = "RGBA" if image.mode == "RGBA" else "RGB"
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode=output_mode
            )
            return converted.convert(mode)
    return image if image.mode == mode else image.convert(mode)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep all workers but one waiting: several pictures at once would fill the memory."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(folder: Path, name: str, data: bytes) -> None:
    """Write a file that appears complete or not at all."""
    if (folder / name).exists():
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        file.write(data)
    partial = Path(file.name)
    partial.chmod(0o644)  # for the web server, which is another user
    partial.rename(folder / name)


def _plain_name(name: str) -> str:
    """Return a file's name as one line that can be stored and shown."""
    return "".join(character for character in name if character.isprintable())[:200]
