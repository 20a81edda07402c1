# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(free_mb): the free space of the file system that holds a path."""

from __future__ import annotations


def free_mb(mounts, path):
    """Return the free space of the file system that holds a path, or will hold it.

    Args:
        mounts: the fact C(mounts).
        path: an absolute path, which need not exist.

    Returns:
        Megabytes (1,000,000 bytes); 0 if no mount is known to hold the path.
    """
    holding = [mount for mount in mounts if f"{path}/".startswith(mount["mount"].rstrip("/") + "/")]
    nearest = max(holding, key=lambda mount: len(mount["mount"]), default={})
    return nearest.get("size_available", 0) // 1_000_000


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"free_mb": free_mb}
