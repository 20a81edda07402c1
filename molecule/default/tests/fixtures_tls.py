"""Fixtures: the blog's names, and the certificate that the blog presents."""

import socket

import pytest


@pytest.fixture(scope="module")
def requires_https(base_url):
    """Skip a test if the host has no TLS."""
    if base_url.scheme != "https":
        pytest.skip("this host has tls_mode: off")


@pytest.fixture(scope="module")
def all_names(variables):
    """All names of the blog: those that it serves, and those that it redirects to its domain."""
    served = [variables["stack_domain"], *variables["stack_domain_aliases"]]
    return served + variables["stack_domain_redirects"]


@pytest.fixture(scope="module")
def shown_certificate(base_url):
    """Connect to the blog by a name, verify its certificate with a TLS context, and return it."""

    def shown_certificate(trust, name=base_url.hostname):
        with (
            socket.create_connection(("127.0.0.1", base_url.port), timeout=10) as plain,
            trust.wrap_socket(plain, server_hostname=name) as connection,
        ):
            return connection.getpeercert()

    return shown_certificate
