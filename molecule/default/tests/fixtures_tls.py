"""The names of the blog, and the certificate that it shows for them."""

import socket

import pytest


@pytest.fixture(scope="module")
def requires_https(base_url):
    """Skip these tests on hosts without TLS."""
    if base_url.scheme != "https":
        pytest.skip("this host has tls_mode: off")


@pytest.fixture(scope="module")
def all_names(variables):
    """All names of the blog: those that it serves, and those that it redirects."""
    served = [variables["stack_domain"], *variables["stack_domain_aliases"]]
    return served + variables["stack_domain_redirects"]


@pytest.fixture(scope="module")
def shown_certificate(base_url):
    """Return the certificate that the blog shows for a name, verified with a TLS context."""

    def shown_certificate(trust, name=base_url.hostname):
        with (
            socket.create_connection(("127.0.0.1", base_url.port), timeout=10) as plain,
            trust.wrap_socket(plain, server_hostname=name) as connection,
        ):
            return connection.getpeercert()

    return shown_certificate
