"""The record of what host_files wrote on a host, and the check whether that is unchanged.

The record has one item for each entry: a digest of the entry that the control node requested, and a digest of
the path after it was written. If both still match, host_files has nothing to do and does not connect.
"""

import hashlib
import json
import stat
from pathlib import Path

RECORD = "/var/lib/slipway/files.json"


def observe(path, kind):
    """Return the state of path.

    Args:
        path: the path.
        kind: the wanted kind; for a directory, follow a link, because an operator may have moved it.

    Returns:
        A dict with the `kind`: file, directory, link or nothing. A link has its target as `to`; files and
        directories have an `owner` and a `mode`, and a file its `content` in bytes.
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
    """Return a digest of the state of path; for a tree, of everything below it too."""
    paths = [path, *sorted(path.rglob("*"))] if kind == "tree" else [path]
    found = hashlib.sha256()
    for each in paths:
        state = observe(each, kind)
        content = state.pop("content", b"")
        found.update(f"{each}\0{json.dumps(state, sort_keys=True)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def read(record):
    """Return the items of a record by path; none if the record cannot be read."""
    try:
        items = json.loads(Path(record).read_text())
    except (OSError, ValueError):
        return {}
    return items if isinstance(items, dict) else {}


def unchanged(record):
    """Return the digest of each entry of a record that is unchanged since it was written, by its path."""
    return {path: item["entry"] for path, item in read(record).items() if is_unchanged(Path(path), item)}


def is_unchanged(path, item):
    """Tell whether the state of path matches an item of a record; False if path cannot be read."""
    try:
        return digest(path, item["kind"]) == item["found"]
    except (OSError, KeyError, TypeError):
        return False
