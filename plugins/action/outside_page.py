# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Request a page of the blog from the control node, as a reader does.

The module ansible.builtin.uri cannot connect to one address and ask for the certificate of another name.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from urllib.parse import urlsplit, urlunsplit

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

# Seconds for one connection, and between two attempts.
PATIENCE, PAUSE = 5, 1


class ActionModule(ActionBase):
    """Request the page on the control node; no connection to the host is made."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Fail with what is wrong if the page does not have its status within the timeout."""
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        url, verify = arguments["url"], boolean(arguments.get("verify", True))
        wanted, deadline = (
            int(arguments.get("status", 200)),
            time.monotonic() + int(arguments.get("timeout", 15)),
        )
        address = arguments.get("address") or urlsplit(url).hostname
        while (problem := page_problem(url, address, wanted, verify)) and time.monotonic() < deadline:
            time.sleep(PAUSE)
        if not problem:
            return result | {"msg": f"{url} answers", "problem": ""}
        problem += comparison(url, address, arguments.get("host_address") or address, wanted)
        return result | {"failed": True, "msg": problem, "problem": problem}


def page_problem(url, address, wanted, verify):
    """Return what is wrong with a page, or None.

    Args:
        url: its URL.
        address: name or address to connect to, with a port if it is not the URL's.
        wanted: the HTTP status that the page must have.
        verify: whether the certificate must be valid.
    """
    parts, at = urlsplit(url), urlsplit(f"//{bracketed(address)}")
    port = at.port or parts.port or {"https": 443}.get(parts.scheme, 80)
    try:
        found = sorted(
            {info[4][0] for info in socket.getaddrinfo(at.hostname, port, type=socket.SOCK_STREAM)}
        )
    except socket.gaierror as error:
        return f"{url} cannot be reached: {at.hostname} has no address ({error.strerror})."
    where = f"{at.hostname} ({', '.join(found)})" if found != [at.hostname] else at.hostname
    try:
        response = request(parts, at.hostname, port, verify)
    except (OSError, http.client.HTTPException) as error:
        return f"{url} cannot be reached at {where}, port {port}: {error}."
    if response.status == wanted:
        return None
    target = f" to {response.headers['Location']}" if response.headers["Location"] else ""
    answer = f"the status {response.status}{target} instead of {wanted}"
    return f"{url} answers at {where}, port {port}, with {answer}."


def comparison(url, address, own, wanted):
    """Return a sentence about whether the host itself serves a page that did not arrive from `address`.

    Return an empty string if `address` was already that of the host.
    """
    if own == address:
        return ""
    if problem := page_problem(url, own, wanted, verify=False):
        return f" The host itself does not serve the page either: {problem}"
    return (
        f" The host itself serves the page at {own}, so the cause is between readers and the host: "
        "DNS, a load balancer, or a firewall of the provider."
    )


def request(parts, name, port, verify):
    """Return the response to a GET request for a URL, sent to another name or address."""
    connection = http.client.HTTPConnection(name, port, timeout=PATIENCE)
    try:
        connection.connect()
        if parts.scheme == "https":
            context = ssl.create_default_context()
            if not verify:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection.sock = context.wrap_socket(connection.sock, server_hostname=parts.hostname)
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("GET", target, headers={"Host": parts.netloc, "User-Agent": "slipway"})
        return connection.getresponse()
    finally:
        connection.close()


def bracketed(address):
    """Return an address as in a URL: an IPv6 address needs brackets."""
    return f"[{address}]" if address.count(":") > 1 and "[" not in address else address
