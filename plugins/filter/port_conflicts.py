# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(port_conflicts): programs that already listen at a port that nginx publishes."""

from __future__ import annotations


def port_conflicts(ports, facts, host):
    """Find the ports that other programs or containers use.

    Args:
        ports: the port by the variable that sets it.
        facts: the host's facts, with C(host_ports) and C(host_engine).
        host: the host's name, for the message.

    Returns:
        One message for each port that is in use, with its users and the solution.
    """
    containers = (facts["host_engine"] or {}).get("containers", [])
    # Ignore the engine's listeners: it listens for containers, which have their own entries.
    own = {"docker-proxy", "dockerd"} | {f"container {one['name']}" for one in containers if one["managed"]}
    return [
        f"Port {port} ({variable}) on {host} is in use by {', '.join(users)}. "
        f"Stop it, or set {variable} to another port."
        for variable, port in ports.items()
        if (users := [user for user in facts["host_ports"].get(str(port), []) if user not in own])
    ]


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"port_conflicts": port_conflicts}
