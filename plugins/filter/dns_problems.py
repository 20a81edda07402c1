# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(dns_problems): names that do not resolve to a host."""

from __future__ import annotations

import ipaddress
import socket

RECORDS = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}


def dns_problems(names, host):
    """Resolve names on the control node, and compare the results with a host's addresses.

    A certificate authority may connect to the address of any A or AAAA record, so a record with another
    address is as bad as no record.

    Args:
        names: DNS names.
        host: addresses and names of the host; loopback addresses do not count.

    Returns:
        One sentence for each name without a record, and for each record with another address.
    """
    found = {address for one in host for record in RECORDS for address in _addresses(one, record)}
    host_addresses = {address for address in found if not address.is_loopback}
    problems = []
    for name in names:
        records = {record: _addresses(name, record) for record in RECORDS}
        if not any(records.values()):
            problems.append(f"{name} has neither an A nor an AAAA record")
        for record, addresses in records.items():
            elsewhere = sorted(map(str, addresses - host_addresses))
            if elsewhere:
                problems.append(
                    f"the {record} record of {name} is {', '.join(elsewhere)}, "
                    "which is not an address of the host"
                )
    return problems


def _addresses(name, record):
    try:
        found = socket.getaddrinfo(name, None, RECORDS[record], socket.SOCK_STREAM)
    except socket.gaierror:
        return set()
    return {ipaddress.ip_address(address[0].partition("%")[0]) for *_rest, address in found}


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"dns_problems": dns_problems}
