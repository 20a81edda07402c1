# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(source_revision): the version of a directory of sources."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


def source_revision(path):
    """Return the git revision of a directory, or the version of the collection that it belongs to.

    An installed collection may lie in its user's git repository. The revision of that repository says nothing
    about the collection, so the collection's version is returned.

    Args:
        path: a directory.

    Returns:
        The version, or the output of `git describe --always --dirty`; empty if there is neither.
    """
    directory = Path(path).resolve()
    for parent in (directory, *directory.parents):
        if (parent / "MANIFEST.json").is_file():
            return json.loads((parent / "MANIFEST.json").read_text())["collection_info"]["version"]
        if (parent / ".git").exists():
            break
    command = ["git", "-C", str(directory), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"source_revision": source_revision}
