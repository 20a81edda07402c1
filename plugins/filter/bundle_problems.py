# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(bundle_problems): reasons not to load a bundle of images."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

SERVICES = {"nginx", "db", "flask_blog"}
FILES = {"images.tar.gz", *(f"{service}.cdx.json" for service in SERVICES)}
# The kernel's names of architectures, and those of images.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def bundle_problems(path, architecture):
    """Return the reasons not to load a bundle that `playbooks/build.yml` exported.

    Args:
        path: the bundle's directory.
        architecture: the host's architecture, by the kernel's name.

    Returns:
        Sentences without a full stop; none if the bundle is valid.
    """
    directory = Path(path)
    manifest = directory / "slipway.json"
    try:
        about = json.loads(manifest.read_text())
        images, tags, digests, made_for = (about[key] for key in ("images", "tags", "sha256", "architecture"))
        named = [set(images), set(tags), set(digests)] == [SERVICES, SERVICES, FILES]
        whole = named and all(re.fullmatch("sha256:[0-9a-f]{64}", image) for image in images.values())
    except OSError as error:
        return [f"{manifest} cannot be read ({error.strerror})"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        return [f"{manifest} is not the manifest of a Slipway bundle"]
    if made_for != ARCHITECTURES.get(architecture, architecture):
        return [f"its images are for {made_for}, but the host is {architecture}"]
    return [problem for name in sorted(FILES) if (problem := file_problem(directory / name, digests[name]))]


def file_problem(file, digest):
    """Return the problem with a file that must have this SHA-256 digest, or None."""
    try:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"
    return None if found == digest else f"{file} is truncated or was changed: its SHA-256 differs"


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"bundle_problems": bundle_problems}
