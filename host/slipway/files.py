"""File operations that survive a crash and follow no symbolic links."""

import ctypes
import hashlib
import json
import os
import stat
from pathlib import Path

# renameat2(2); Python has no function for it.
AT_FDCWD, RENAME_EXCHANGE = -100, 2


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


def read_secret(path: Path) -> str | None:
    """Return the content of a secret's file, or None if there is no such file or it is damaged."""
    try:
        return path.read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def replace(new: Path, path: Path) -> None:
    """Move the flushed file new to path, and flush the directory."""
    new.replace(path)
    sync(path.parent)


def exchange(one: Path, other: Path) -> None:
    """Swap two files or directories of one file system in one step; the caller flushes their directory.

    Raises:
        OSError: one of them is missing, or the file system cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


def rewrite_managed(path: Path, text: str, record: Path) -> None:
    """Replace a file that a role wrote, and note its new state in the record of such files.

    Otherwise, status.yml would report the file as changed by hand.

    Args:
        path: the file. It keeps its owner and its permissions.
        text: its new content.
        record: the record, which plugins/module_utils/managed_files.py defines.
    """
    status = path.stat()
    write(path, text, mode=stat.S_IMODE(status.st_mode), uid=status.st_uid)
    items = json.loads(record.read_text()) if record.exists() else {}
    if str(path) in items:
        # `entry` is the digest of what a playbook last sent. Without it, the next run sends its content,
        # even if it is the former one.
        items[str(path)] |= {"entry": "", "found": managed_digest(path)}
        write(record, json.dumps(items, indent=1, sort_keys=True), mode=0o600)


def managed_digest(path: Path) -> str:
    """Return the digest of a file's state, as `digest` in plugins/module_utils/managed_files.py does."""
    status, content = path.stat(), path.read_bytes()
    owner, mode = f"{status.st_uid}:{status.st_gid}", f"{stat.S_IMODE(status.st_mode):04o}"
    state = json.dumps({"kind": "file", "mode": mode, "owner": owner})
    return hashlib.sha256(f"{path}\0{state}\0{len(content)}\0".encode() + content).hexdigest()


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
