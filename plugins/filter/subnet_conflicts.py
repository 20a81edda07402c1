# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(subnet_conflicts): reasons not to give these subnets to Docker."""

from __future__ import annotations

import ipaddress


def subnet_conflicts(subnets, facts, own=()):
    """Compare container subnets with the networks of a host and with each other.

    Args:
        subnets: networks in CIDR notation by the variable that holds them.
        facts: C(ansible_facts) of the host, with the subset C(network).
        own: interfaces that Docker made for these subnets; their networks are not conflicts.

    Returns:
        One sentence for each conflict or malformed subnet, which names the variable to correct; an empty list
        if there is none.
    """
    problems, networks = [], {}
    for variable, value in subnets.items():
        try:
            networks[variable] = ipaddress.ip_network(value)
        except ValueError as error:
            problems.append(f"{variable} is {value!r}, which is not a network: {error}")

    taken = [
        (f"network {network} of interface {name} on the host", network)
        for name, network in _host_networks(facts)
        if name not in own
    ]
    for variable, network in networks.items():
        for owner, other in taken:
            if network.overlaps(other):
                problems.append(f"{variable} {network} overlaps {owner}")
        taken.append((f"{variable} {network}", network))
    return problems


def _host_networks(facts):
    for name in facts["interfaces"]:
        interface = facts.get(name.replace("-", "_"), {})
        ipv4 = [interface["ipv4"], *interface.get("ipv4_secondaries", [])] if "ipv4" in interface else []
        for address in ipv4:
            yield name, ipaddress.ip_network(f"{address['network']}/{address['netmask']}")
        for address in interface.get("ipv6", []):
            network = ipaddress.ip_network(f"{address['address']}/{address['prefix']}", strict=False)
            if not network.is_link_local:
                yield name, network


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"subnet_conflicts": subnet_conflicts}
