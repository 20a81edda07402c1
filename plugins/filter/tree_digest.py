# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(tree_digest): a digest of the content of a build context."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ansible.errors import AnsibleFilterError


def tree_digest(path, *inputs, exclude=()):
    """Return a digest of a build's inputs, for an image's tag: it changes only if an input changes.

    Args:
        path: the directory whose files are inputs: their relative names, modes (executable or not) and bytes.
        inputs: strings that are inputs too, such as the reference of the base image.
        exclude: names of files and directories, at any depth, that are not inputs.

    Returns:
        The first twelve hexadecimal digits of a SHA-256.

    Raises:
        AnsibleFilterError: path is not a directory.
    """
    root = Path(path)
    if not root.is_dir():
        raise AnsibleFilterError(f"tree_digest: {path} is not a directory")
    digest = hashlib.sha256()
    for item in inputs:
        digest.update(f"input {item}\0".encode())
    for file in sorted(_files(root, exclude)):
        relative = file.relative_to(root)
        digest.update(f"file {relative} {os.access(file, os.X_OK)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _files(root, exclude):
    """Return the files below a directory; do not descend into excluded directories like node_modules."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in exclude]
        found += [Path(folder, name) for name in names if name not in exclude]
    return [file for file in found if file.is_file()]


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"tree_digest": tree_digest}
