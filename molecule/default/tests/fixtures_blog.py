"""Fixtures: clients of the blog, for readers and for authors."""

import contextlib
import copy
import http.client
import re
import ssl
from secrets import token_hex
from urllib.parse import urlsplit

import pytest
from outside import Answer, Author, Http2Reader, Reader, SlowSender


@pytest.fixture(scope="session")
def base_url(variables):
    """The parts of the blog's URL, as readers type it."""
    return urlsplit(variables["stack_base_url"])


@pytest.fixture(scope="session")
def site(base_url):
    """The blog's name as in the header Host: with the port, if readers have to type one."""
    return base_url.netloc


@pytest.fixture(scope="session")
def host_authority(host, base_url):
    """The certificate of the host's own CA, as PEM; None without TLS."""
    return None if base_url.scheme == "http" else host.file("/etc/slipway/ca/ca.pem").content_string


@pytest.fixture(scope="session")
def trust(host_authority):
    """A TLS context that trusts only the host's own CA; None without TLS."""
    return host_authority and ssl.create_default_context(cadata=host_authority)


@pytest.fixture(scope="session")
def reader(base_url, site, trust):
    """Make a Reader of the blog. It connects to 127.0.0.1, or to the given address of the host."""
    port = {"http": 80, "https": 443}[base_url.scheme]
    return lambda address=None: Reader(
        address or "127.0.0.1", port if address else base_url.port, site, trust
    )


@pytest.fixture(scope="session")
def http2_reader(base_url, site, host_authority):
    """Make an Http2Reader of the blog."""
    assert host_authority, "HTTP/2 needs TLS, but this host has tls_mode: off"
    return lambda: Http2Reader("127.0.0.1", base_url.port, site, host_authority)


@pytest.fixture(scope="session")
def connect(reader):
    """Open a connection to the blog and return its socket, to send bytes that an HTTP client would refuse."""

    def connect():
        connection = reader().connection
        connection.connect()
        connection.sock.settimeout(15)
        return connection.sock

    return connect


@pytest.fixture(scope="session")
def send_raw(connect):
    """Send raw bytes and return the answer. If there is no answer, raise an error of http.client."""

    def send_raw(raw):
        with connect() as connection:
            connection.sendall(raw)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return Answer.of(response)

    return send_raw


@pytest.fixture(scope="session")
def ask(reader):
    """Request a path over a new connection. STATIC in the path stands for the path of the stylesheet."""
    one = reader()
    [static] = set(re.findall(r'"(/static/style\.[^"]+\.css)"', one.request("/").text))

    def ask(path, method="GET", **options):
        try:
            return one.request(path.replace("STATIC", static), method, **options)
        finally:
            one.close()

    return ask


@pytest.fixture
def slow_sender(connect, site):
    """Make a SlowSender that first sends the given text, where {site} stands for the blog's name."""
    senders = []

    def slow_sender(begin):
        senders.append(SlowSender(connect(), begin.format(site=site)))
        return senders[-1]

    yield slow_sender
    for sender in senders:
        sender.close()


@pytest.fixture
def get(reader):
    """Request a page of the blog. All requests of one test use the same connection."""
    one = reader()
    yield one.request
    one.close()


@pytest.fixture
def try_to_sign_in(reader, variables):
    """Try to sign in to the blog. Return the Author, even if the login fails."""
    authors = []

    def try_to_sign_in(email, password):
        author = Author(reader(), variables["stack_base_url"], email, password)
        author.reader.close()  # nginx would close the idle connection before the next request
        authors.append(author)
        return author

    yield try_to_sign_in
    for author in authors:
        author.reader.close()


@pytest.fixture(scope="session")
def create_admin(host, slot):
    """Create an administrator of the blog."""
    return lambda email, password: host.check_output(
        f"cd /opt/slipway && echo %s | docker compose exec -T flask_blog_{slot()}"
        " flask user ensure-admin --email %s --password-file -",
        password,
        email,
    )


@pytest.fixture(scope="module")
def author(create_admin, reader, variables, sql):
    """Return a signed-in Author with a separate connection. All of them share one session."""
    email, password = f"fresh-{token_hex(3)}@example.org", token_hex()
    create_admin(email, password)
    with contextlib.ExitStack() as connections:

        def connect():
            return connections.enter_context(contextlib.closing(reader()))

        signed_in = Author(connect(), variables["stack_base_url"], email, password)
        assert signed_in.signed_in

        def author():
            one = copy.copy(signed_in)
            one.reader = connect()
            return one

        yield author
    sql("DELETE FROM post WHERE slug LIKE 'fresh-%'")
    sql(f"DELETE FROM user_account WHERE email = '{email}'")


@pytest.fixture(scope="module")
def fetch(reader):
    """Request a page over a new connection, as a reader who is not signed in."""

    def fetch(path, method="GET", **options):
        with contextlib.closing(reader()) as one:
            return one.request(path, method, **options)

    return fetch
