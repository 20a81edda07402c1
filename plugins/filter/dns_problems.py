# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(dns_problems): names that do not resolve to a host."""

from __future__ import annotations

import ipaddress
import socket

RECORDS = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}
# The errors of a query that was answered: there is no such name, or it has no record of this type.
NO_RECORD = {socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY}


class QueryError(Exception):
    """A name could not be looked up. The message is a sentence of the result."""


def dns_problems(names, host):
    """Resolve names on the control node, and compare the results with a host's addresses.

    A certificate authority may connect to the address of any A or AAAA record, so a record with another
    address is as bad as no record.

    Args:
        names: DNS names.
        host: addresses and names of the host; loopback addresses do not count.

    Returns:
        One sentence for each name without a record, for each type of record with another address, and for
        each name that could not be looked up.
    """
    try:
        found = {address for one in host for record in RECORDS for address in _addresses(one, record)}
    except QueryError as error:
        return [str(error)]
    host_addresses = {address for address in found if not address.is_loopback}
    problems = []
    for name in names:
        try:
            records = {record: _addresses(name, record) for record in RECORDS}
        except QueryError as error:
            problems.append(str(error))
            continue
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
    except (socket.gaierror, UnicodeError) as error:
        if getattr(error, "errno", None) in NO_RECORD:
            return set()
        raise QueryError(f"{name} could not be looked up ({error})") from None
    return {ipaddress.ip_address(address[0].partition("%")[0]) for *_rest, address in found}


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"dns_problems": dns_problems}
