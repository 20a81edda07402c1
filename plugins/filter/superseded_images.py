# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(superseded_images): images of former configurations.

The blog's own images are not among them: host/slipway/retention.py decides which releases keep their image.
"""

from __future__ import annotations


def repository(name):
    """Return an image's name without its tag and its digest."""
    path, _slash, last = name.partition("@")[0].rpartition("/")
    return f"{path}/{last.partition(':')[0]}".lstrip("/")


def listed(reference):
    """Return the name by which the engine lists an image: with a digest, the engine drops the tag."""
    _name, at, digest = reference.partition("@")
    return f"{repository(reference)}@{digest}" if at else reference


def superseded_images(found, wanted):
    """Return the names of Slipway's images, and of their bases, that newer images have replaced.

    Args:
        found: the engine's images, as the module host_facts returns them.
        wanted: the names of the images that the configuration needs.

    Returns:
        The names on the host whose repository is that of a wanted image, and the digests of these images in
        registries, sorted.
    """
    current = with_built({listed(name) for name in wanted})
    repositories = {repository(name) for name in wanted}
    ours = [image for image in found.values() if image["label"].startswith("slipway/")]
    names = with_built({image["label"] for image in ours} | {listed(image["base"]) for image in ours})
    old = {name for name in (names & found.keys()) - current if repository(name) in repositories}
    ids = {found[name]["id"] for name in old}
    digests = {name for name in found if "@" in name and found[name]["id"] in ids}
    return sorted(old | digests - current)


def with_built(names):
    """Return names, and the tags of these images without security updates: see host/slipway/updates.py."""
    return names | {f"{name}-built" for name in names}


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"superseded_images": superseded_images}
