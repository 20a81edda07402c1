"""What host_files wrote on a host, and whether that is still as it was written.

The record has one item for each entry: a digest of the entry that the control node asked for, and one of what
was there once it was written. Where both are still true, host_files has nothing to do, and needs no visit.
"""

import hashlib
import json
import stat
from pathlib import Path

RECORD = "/var/lib/slipway/files.json"


def observe(path, kind):
    """Return what is at path.

    Args:
        path: where to look.
        kind: what it is to be: a directory may be elsewhere, where an operator led it by a link.

    Returns:
        A dict with the `kind`: file, directory, link or nothing. A link has where it leads `to`; the others
        have an `owner` and a `mode`, and a file its `content` in bytes.
    """
    try:
        status = path.stat(follow_symlinks=kind == "directory")
    except FileNotFoundError:
        return {"kind": "nothing"}
    if stat.S_ISLNK(status.st_mode):
        return {"kind": "link", "to": str(path.readlink())}
    found = {
        "kind": "directory" if stat.S_ISDIR(status.st_mode) else "file",
        "owner": f"{status.st_uid}:{status.st_gid}",
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
    }
    return found | ({"content": path.read_bytes()} if found["kind"] == "file" else {})


def digest(path, kind):
    """Return a digest of what is at path; of a tree, with all below it."""
    paths = [path, *sorted(path.rglob("*"))] if kind == "tree" else [path]
    found = hashlib.sha256()
    for each in paths:
        state = observe(each, kind)
        content = state.pop("content", b"")
        found.update(f"{each}\0{json.dumps(state, sort_keys=True)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def read(record):
    """Return the items of a record by path; none where there is none that can be read."""
    try:
        items = json.loads(Path(record).read_text())
    except (OSError, ValueError):
        return {}
    return items if isinstance(items, dict) else {}


def unchanged(record):
    """Return the digest of each entry of a record that is still as it was written, by its path."""
    return {path: item["entry"] for path, item in read(record).items() if is_unchanged(Path(path), item)}


def is_unchanged(path, item):
    """Tell whether what is at path is what an item of a record says; what cannot be read is not."""
    try:
        return digest(path, item["kind"]) == item["found"]
    except OSError:
        return False
