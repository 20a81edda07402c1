"""Sets of files for the module host_files, and what they must look like on the host."""

import json
from pathlib import Path

from project import ROOT, load_program

manifest = load_program(ROOT / "plugins/module_utils/managed_files.py").manifest


def digest_of(entry):
    """Return a fake of the control node's digest, which differs for each entry."""
    return json.dumps(entry, sort_keys=True)


def modes(place):
    """Return the mode of each path below a directory; for a link, return its target instead."""
    return {
        str(path.relative_to(place)): str(path.readlink())
        if path.is_symlink()
        else oct(path.stat().st_mode)[-4:]
        for path in place.rglob("*")
    }


SET = [
    {"directory": "etc/deep"},
    {"file": "etc/deep/words", "content": "ünïcødé\n"},
    {"file": "program", "content": "#!/bin/sh\n", "mode": "0755"},
    {"link": "link", "to": "etc/deep"},
]
MADE = {"etc": "0755", "etc/deep": "0755", "etc/deep/words": "0644", "program": "0755", "link": "etc/deep"}


def unchanged_paths(host_files):
    """Return the paths of the entries that are unchanged according to the record."""
    unchanged = [item["path"] for item in manifest(host_files.record) if item["unchanged"]]
    return sorted(str(Path(path).relative_to(host_files.place)) for path in unchanged)
