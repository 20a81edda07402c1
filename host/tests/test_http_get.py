"""Page requests to a real server."""

import http.server
import socket
import threading

import pytest

from slipway.http_get import get


class Server(http.server.HTTPServer):
    """A server that returns the Host and the Cookie of the request."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()
            self.wfile.write(f"{self.headers['Host']} {self.headers['Cookie']}".encode())

        def log_message(self, *arguments):
            pass

    def __init__(self, family, address):
        self.address_family = family
        super().__init__((address, 0), self.Page)


@pytest.mark.parametrize(
    ("family", "address", "at"),
    [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "[::1]")],
    ids=["ipv4", "ipv6"],
)
def test_request_returns_the_status_and_the_body(family, address, at):
    try:
        server = Server(family, address)
    except OSError:
        pytest.skip("this machine has no such address")
    with server:
        for path, status in (("/", 200), ("/gone", 404)):
            threading.Thread(target=server.handle_request).start()
            told = get(f"{at}:{server.server_port}", path, "blog.example.org", cookie="session=slipway")
            assert told == (status, "blog.example.org session=slipway")


def test_request_without_an_answer_returns_the_reason():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        status, reason = get(f"127.0.0.1:{closed.getsockname()[1]}", "/", "blog.example.org", timeout=1)
    assert status is None
    assert "refused" in reason


def test_request_to_a_server_without_tls_returns_the_reason():
    with Server(socket.AF_INET, "127.0.0.1") as server:
        threading.Thread(target=server.handle_request).start()
        status, reason = get(f"127.0.0.1:{server.server_port}", "/", "blog.example.org", timeout=1, tls=True)
    assert status is None
    assert reason
