# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(volume_users): the containers of others that use volumes of Slipway."""

from __future__ import annotations


def volume_users(containers, volumes):
    """Return the names of the containers that use one of the volumes and are not Slipway's own.

    Args:
        containers: the containers of the fact C(host_engine).
        volumes: names of volumes.
    """
    return [each["name"] for each in containers if not each["managed"] and {*each["volumes"]} & {*volumes}]


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"volume_users": volume_users}
