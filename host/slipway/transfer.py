"""Import and export of the blog as files.

If the blog has a post already, `slipway import` refuses it by default (`--existing` in cli.py), but
playbooks/import.yml skips it (`import_existing`).
"""

import contextlib
import json
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from slipway.files import change_owner, special_files
from slipway.release import image_in_service
from slipway.shell import CommandFailure, Failure
from slipway.stack import Stack

# The parts of an export, its marker file first, and the subdirectory where the blog writes them.
EXPORT = ("export.json", "posts", "pages", "comments", "media")
EXPORT_PLACE = ".slipway-export"


def command_import(stack: Stack, options: Namespace) -> int:
    image = image_in_service(stack)
    try:
        with tempfile.TemporaryDirectory(prefix="slipway-", dir="/var/tmp") as place:
            # Keep the whole path: a folder above it may mark its posts as drafts.
            inside = copy_for_blog(stack, options.directory.resolve(), Path(place))
            mount = ("--volume", f"{place}:/import:ro")
            result = stack.flask(image, "import", inside, "--existing", options.existing, options=mount)
    except OSError as error:
        raise Failure(f"{options.directory} cannot be read: {error}.") from None
    except CommandFailure as failure:
        # Show every problem, with file names relative to the directory.
        problems = failure.output.strip().replace(f"{inside}/", "").replace(inside, str(options.directory))
        raise Failure(f"the import failed:\n{problems}") from None
    print(json.dumps(result))
    return 0


def copy_for_blog(stack: Stack, source: Path, place: Path) -> str:
    """Copy a file or directory into place, under its whole path, readable by the blog's user.

    Returns:
        The path of the copy when place is mounted as /import.

    Hidden files are not copied: if the directory is a home, the blog must not get its keys.
    """
    copy = place.joinpath(*source.parts[1:])
    copy.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns(".*"))
    else:
        shutil.copyfile(source, copy)
    change_owner(place, stack.host.settings.blog_uid, stack.host.settings.blog_uid)
    return f"/import{source}"


def command_export(stack: Stack, options: Namespace) -> int:
    image = image_in_service(stack)
    directory = options.directory.resolve()
    try:
        with export_place(stack, directory) as place:
            mount = ("--volume", f"{place}:/export")
            result = stack.flask(image, "export", "/export", options=mount)
    except OSError as error:
        raise Failure(f"{directory} cannot be written: {error}.") from None
    print(json.dumps(result))
    return 0


@contextlib.contextmanager
def export_place(stack: Stack, directory: Path) -> Iterator[Path]:
    """Yield a subdirectory in which the blog writes the export; then move its content to directory.

    If the directory has an earlier export, the subdirectory contains it, so that the blog updates it.

    An existing directory keeps its owner, who also gets the export, because it may be the home of a user: if
    its owner changed, sshd would refuse that user's login. A new directory belongs to the caller of sudo.

    Raises:
        Failure: the directory contains other files, or the export has something other than plain files.
    """
    place, marker = directory / EXPORT_PLACE, directory / EXPORT[0]
    if not directory.exists():
        asked = [int(os.environ.get(name, 0)) for name in ("SUDO_UID", "SUDO_GID")]
        for made in [path for path in (*reversed(directory.parents), directory) if not path.exists()]:
            made.mkdir(mode=0o700)
            os.chown(made, *asked)
    elif any(directory.iterdir()) and not marker.is_file() and not place.is_dir():
        raise Failure(
            f"{directory} contains other files: use a new directory, or one with an earlier export."
        )
    if links := [name for name in EXPORT if (directory / name).is_symlink()]:
        raise Failure(
            f"{directory} contains links instead of an export: {', '.join(links)}. Use a new directory."
        )
    owner = directory.stat()
    # A killed run may have left this directory.
    place.mkdir(mode=0o700, exist_ok=True)
    try:
        for name in EXPORT:
            if (directory / name).exists():
                (directory / name).rename(place / name)
        change_owner(place, stack.host.settings.blog_uid, stack.host.settings.blog_uid)
        yield place
    finally:
        # A compromised blog may have written links that lead out of the directory.
        special = special_files(place)
        for name in special:
            (place / name).unlink()
        change_owner(place, owner.st_uid, owner.st_gid)
        for name in EXPORT:
            if (place / name).exists():
                (place / name).rename(directory / name)
        shutil.rmtree(place)
    if special:
        raise Failure(
            f"The export contained links or special files, which were removed: {', '.join(special)}."
        )
