# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(certificate_problems): reasons not to serve this certificate with this key."""

from __future__ import annotations


def certificate_problems(certificate, key, names):
    """Return the problems of a certificate and its key. The preflight calls this before a host gets them.

    Args:
        certificate: the result or the failure of C(community.crypto.x509_certificate_info).
        key: the result or the failure of C(community.crypto.openssl_privatekey_info).
        names: the DNS names that the certificate must cover.

    Returns:
        One sentence for each problem, which names the variable to correct; an empty list if there is none.
    """
    if "public_key" not in certificate:
        return [f"tls_certificate_file is not a PEM certificate: {certificate['msg']}"]
    if "public_key" not in key:
        return [
            "tls_key_file is not a PEM private key, or a passphrase protects it: "
            "give a PEM key without a passphrase"
        ]
    problems = []
    if key["public_key"] != certificate["public_key"]:
        problems.append("the key in tls_key_file does not match the certificate in tls_certificate_file")
    if certificate["expired"]:
        problems.append(f"the certificate in tls_certificate_file expired at {certificate['not_after']}")
    covered = [entry.removeprefix("DNS:").lower() for entry in certificate["subject_alt_name"] or []]
    # A wildcard stands for one label (RFC 6125, 6.4.3).
    missing = [
        name for name in names if not {name.lower(), f"*.{name.lower().partition('.')[2]}"} & {*covered}
    ]
    if missing:
        known = ", ".join(covered) or "no names"
        problems.append(
            f"the certificate in tls_certificate_file is for {known}, but not for {', '.join(missing)}"
        )
    return problems


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"certificate_problems": certificate_problems}
