# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(image_ids): ids of images by their names."""

from __future__ import annotations


def image_ids(names, found):
    """Return the id of each image: a name can later refer to another image, but an id cannot.

    Args:
        names: the name of each service's image, by service.
        found: the engine's images, as the module host_facts returns them.

    Returns:
        The ids by service; an image that does not exist yet, as in a dry run, keeps its name.
    """
    return {service: found.get(name, {}).get("id", name) for service, name in names.items()}


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"image_ids": image_ids}
