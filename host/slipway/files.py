"""Files that a crash leaves whole, and that follow no link."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have a file's content, or the names in a directory, outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, text: str, mode: int = 0o644, uid: int | None = None) -> None:
    """Replace the file at path in one step, so that a crash leaves the old content or the new.

    No moment shows half of it, another mode or another owner.

    Args:
        path: the file.
        text: its content.
        mode: its permissions, less the umask.
        uid: its owner, and the group of that number; by default whoever runs this.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        if uid is not None:
            os.fchown(file.fileno(), uid, uid)
        file.flush()
        os.fsync(file.fileno())
    replace(temporary, path)


def write_secret(path: Path, value: str, uid: int) -> None:
    """Replace the file at path in one step, for its reader alone."""
    write(path, value, mode=0o400, uid=uid)


def replace(new: Path, path: Path) -> None:
    """Have a file that is on the disk take the place of the one at path."""
    new.replace(path)
    sync(path.parent)


def not_plain(directory: Path) -> list[str]:
    """Return the names below directory of what is neither a file nor a directory, such as links."""
    return [
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_symlink() or not (path.is_file() or path.is_dir())
    ]


def hand_over(directory: Path, uid: int, gid: int) -> None:
    """Give a directory and all that is below it to an owner, and follow no link out of it."""
    for _, folders, files, descriptor in os.fwalk(directory):
        os.chown(descriptor, uid, gid)
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
