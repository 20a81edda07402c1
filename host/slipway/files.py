"""File operations that survive a crash and follow no symbolic links."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Flush a file's content, or a directory's entries, to disk so that they survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, text: str, mode: int = 0o644, uid: int | None = None) -> None:
    """Replace the file at path atomically, so that a crash leaves the old content or the new.

    The file never appears with partial content, another mode or another owner.

    Args:
        path: the file.
        text: its content.
        mode: its permissions, less the umask.
        uid: its owner and the group with the same number; by default those of the process.
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
    """Replace the file at path atomically, readable by its owner only."""
    write(path, value, mode=0o400, uid=uid)


def replace(new: Path, path: Path) -> None:
    """Move the flushed file new to path, and flush the directory."""
    new.replace(path)
    sync(path.parent)


def special_files(directory: Path) -> list[str]:
    """Return the relative paths below directory of links and other special files."""
    return [
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_symlink() or not (path.is_file() or path.is_dir())
    ]


def change_owner(directory: Path, uid: int, gid: int) -> None:
    """Change the owner of a directory and everything below it, without following links."""
    for _path, folders, files, descriptor in os.fwalk(directory):
        os.chown(descriptor, uid, gid)
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
