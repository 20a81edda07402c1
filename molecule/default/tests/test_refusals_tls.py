"""Settings with which browsers would reject the blog's certificate are refused before anything changes."""

import pytest
from certificates import make_certificate
from refusals import Case, each

CASES = [
    Case(
        "address over HTTPS",
        [
            "tls_mode is selfsigned, but 192.0.2.1 in tls_names is an IP address",
            "Set stack_domain to a host name",
        ],
        {"tls_mode": "selfsigned", "tls_names": ["192.0.2.1"]},
    ),
    Case(
        "DNS records of another host",
        [
            "the A record of localhost is 127.0.0.1, which is not an address of the host",
            "nosuch.test has neither an A nor an AAAA record",
            "{address}",
            "tls_check_dns: false",
        ],
        {"tls_mode": "acme", "tls_names": ["localhost", "nosuch.test"]},
    ),
    Case(
        "missing CA of an authority",
        [
            'tls_acme_ca_file is "/nowhere/ca.pem", but the control node has no such file',
            "Set it to a PEM file",
        ],
        {"tls_mode": "acme", "tls_acme_ca_file": "/nowhere/ca.pem"},
    ),
    Case(
        "missing key",
        [
            'tls_key_file is "", but the control node has no such file',
            "With tls_mode: provided, set it to a PEM file",
        ],
        {"tls_mode": "provided", "tls_certificate_file": "{tmp}/good/certificate.pem"},
    ),
    *(
        Case(
            f"certificate {name}",
            [message, "Set tls_certificate_file and tls_key_file to other files"],
            {
                "tls_mode": "provided",
                "tls_names": ["blog.test"],
                "tls_certificate_file": f"{{tmp}}/{certificate}",
                "tls_key_file": f"{{tmp}}/{key}",
            },
            hides="PRIVATE KEY",
        )
        for name, certificate, key, message in (
            (
                "of another key",
                "good/certificate.pem",
                "another/key.pem",
                "the key in tls_key_file does not match the certificate",
            ),
            (
                "for another name",
                "another/certificate.pem",
                "another/key.pem",
                "is for other.test, but not for blog.test",
            ),
            ("that expired", "over/certificate.pem", "over/key.pem", "tls_certificate_file expired at 20"),
            (
                "file with a key",
                "good/key.pem",
                "good/key.pem",
                "tls_certificate_file is not a PEM certificate",
            ),
        )
    ),
]


@pytest.fixture(scope="module")
def preparations(context):
    """Write certificates on the control node: one valid, one for another name, and one that expired."""
    make_certificate(context.tmp / "good", ["blog.test"])
    make_certificate(context.tmp / "another", ["other.test"])
    make_certificate(context.tmp / "over", ["blog.test"], days=-1)


@each(CASES)
def test_unusable_certificate_is_refused(case, assert_refused):
    assert_refused(case)
