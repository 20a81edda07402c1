"""Static files with a content hash in their names, so that browsers can cache them for a year."""

import hashlib
import tempfile
from pathlib import Path

from flask import Flask, Response, abort, current_app, send_from_directory, url_for

FOLDER = Path(__file__).parent / "static"
YEAR_S = 365 * 24 * 3600


def init_app(app: Flask) -> None:
    """Hash the files. Add the route that serves them, and the template global `static_url`."""
    app.extensions["assets"] = {path.name: _hashed_name(path) for path in sorted(FOLDER.iterdir())}
    app.add_url_rule("/static/<filename>", endpoint="static", view_func=_serve)
    app.add_template_global(static_url)


def static_url(name: str) -> str:
    """Return the URL of a file in the static folder: `/static/style.0123456789.css` for `style.css`.

    Raises KeyError if there is no such file.
    """
    hashed = current_app.extensions["assets"][name]
    return url_for("static", filename=name if current_app.debug else hashed)


def export(directory: Path) -> list[str]:
    """Copy the files under their hashed names into `directory`. Return the names of new files.

    Other files stay, because several releases share the directory. Each file is written atomically.
    Raises OSError if the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, hashed in current_app.extensions["assets"].items():
        target = directory / hashed
        if target.exists():
            continue
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".", delete=False) as file:
            file.write((FOLDER / name).read_bytes())
        partial = Path(file.name)
        partial.chmod(0o644)
        partial.rename(target)
        written.append(hashed)
    return written


def _hashed_name(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    return f"{path.stem}.{digest}{path.suffix}"


def _serve(filename: str) -> Response:
    plain_of = {hashed: name for name, hashed in current_app.extensions["assets"].items()}
    if filename in plain_of:
        response = send_from_directory(FOLDER, plain_of[filename], max_age=YEAR_S)
        response.cache_control.public = True
        response.cache_control.immutable = True
        return response
    if filename not in plain_of.values():
        abort(404)
    return send_from_directory(FOLDER, filename)
