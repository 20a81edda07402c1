# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of the paths that host_files wrote on a host, and the check whether they are unchanged.

The record has one item for each entry: its role, the unit that reads it, a digest of the entry that the
control node requested, and a digest of the path after it was written. If both digests still match, and the
unit has read the path since, host_files does not connect to the host.
The playbooks status and teardown use the record as the list of the paths that Slipway wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

RECORD = "/var/lib/slipway/files.json"
UNITS = "/etc/systemd/system"


def observe(path, kind):
    """Return the state of path.

    Args:
        path: the path.
        kind: the wanted kind. For a directory, follow a link: an operator may have moved the directory.

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


def sync(directory):
    """Write the names in a directory to the disk, so that they survive a power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    """Return the items of a record by path, without those that are damaged."""
    try:
        items = json.loads(Path(record).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(items, dict):
        return {}
    keys = {"entry", "kind", "found"}
    return {path: item for path, item in items.items() if isinstance(item, dict) and keys <= item.keys()}


def manifest(record, units=None):
    """Return the items of a record as a list.

    Args:
        record: path of the record.
        units: the active systemd units by name; each has `since`, the time of its last start or reload in
            seconds since the epoch, and `outdated`, whether systemd must read the unit's files again.

    Returns:
        Items with the `path`, its `kind`, the `role` that wrote it, the unit that reads it as `reader`, the
        digest of its `entry`, whether the path is `unchanged` since it was written, and whether it is
        `in_force`.
    """
    return [
        {
            "path": path,
            "kind": item["kind"],
            "role": item.get("role"),
            "reader": item.get("reader"),
            "entry": item["entry"],
            "unchanged": is_unchanged(Path(path), item),
            "in_force": is_in_force(Path(path), (units or {}).get(item.get("reader"))),
        }
        for path, item in read(record).items()
    ]


def is_unchanged(path, item):
    """Tell whether the state of path matches an item of a record; False if path cannot be read."""
    try:
        return digest(path, item["kind"]) == item["found"]
    except OSError:
        return False


def is_in_force(path, unit):
    """Tell whether a unit has read path since path changed. True if unit is None: no active unit reads it."""
    if unit is None:
        return True
    if path.is_relative_to(UNITS):
        return not unit["outdated"]
    # The removal of a file changes its directory.
    place = next(each for each in (path, *path.parents) if each.exists())
    return place.stat().st_mtime <= unit["since"]
