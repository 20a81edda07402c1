# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(backup_repository): the parts of the URL of a repository of backups."""

from __future__ import annotations

import ipaddress
import re

PORTS = {"sftp": 22, "s3": 443}
# The secrets that each kind of repository needs, by the names of their files.
SECRETS = {
    "": [],
    "local": ["backup_passphrase"],
    "sftp": ["backup_passphrase", "backup_sftp_key"],
    "s3": ["backup_passphrase", "backup_s3_secret"],
}
# A host's name needs a dot: in a container, Docker's resolver does not ask other name servers about a name
# without one.
LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
HOST = rf"(?P<host>{LABEL}(\.{LABEL})+|\[[0-9A-Fa-f:]+\])(:(?P<port>[1-9][0-9]{{0,4}}))?"
NAME = r"[A-Za-z0-9._-]+"
FORMS = (
    re.compile(r"(?P<kind>local)"),
    re.compile(rf"(?P<kind>sftp)://((?P<user>{NAME})@)?{HOST}(?P<directory>(/{NAME})+)"),
    re.compile(rf"(?P<kind>s3)://{HOST}/(?P<bucket>{NAME})(?P<directory>(/{NAME})+)"),
)
# Names that mean another directory than they say.
RELATIVE = re.compile(r"/\.{1,2}(/|$)")


def backup_repository(url):
    """Return the parts of the URL of a repository of backups.

    Args:
        url: `local`, sftp://USER@HOST[:PORT]/DIRECTORY, or s3://HOST[:PORT]/BUCKET/DIRECTORY.

    Returns:
        A dictionary with `kind` (local, sftp or s3; empty if the URL is invalid), `secrets` (the names of the
        secrets that it needs), `host` (a name, or an address without brackets; empty for local), `is_address`
        (whether it is an IPv4 or IPv6 address) and `port`. For sftp and s3 also `directory`; for sftp `user`
        (by default slipway); for s3 `bucket`.
    """
    found = next((match for form in FORMS if (match := form.fullmatch(str(url)))), None)
    nowhere = {"host": "", "is_address": False, "port": 0}
    invalid = {"kind": "", "secrets": SECRETS[""], **nowhere}
    if not found or RELATIVE.search(str(url)):
        return invalid
    parts = found.groupdict() | {"secrets": SECRETS[found["kind"]]}
    if parts["kind"] == "local":
        return parts | nowhere
    host, port = parts["host"].strip("[]"), int(parts["port"] or PORTS[parts["kind"]])
    is_address = ":" in host or bool(re.fullmatch(r"[0-9.]+", host))
    if port > 65535 or (is_address and not is_valid(host)):
        return invalid
    parts |= {"host": host, "is_address": is_address, "port": port}
    if parts["kind"] == "sftp":
        parts["user"] = parts["user"] or "slipway"
    return parts


def is_valid(address):
    """Tell whether a text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"backup_repository": backup_repository}
