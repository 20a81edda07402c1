"""The health check of the blog, as compose.yml has it, against servers that are well and that are not."""

import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml


@pytest.fixture
def probe(rendered_files):
    """A function that runs the blog's health check against a port, and returns the exit status."""
    services = yaml.safe_load((rendered_files / "compose.yml").read_text())["services"]
    name, program, *arguments = services["flask_blog_blue"]["healthcheck"]["test"]
    assert (name, program) == ("CMD", "python3")

    def run(port):
        command = [word.replace("8000", str(port)) for word in arguments]
        assert command != arguments
        return subprocess.run([sys.executable, *command], timeout=10, capture_output=True).returncode

    return run


@pytest.fixture
def server():
    """A function that answers one request with these bytes, and returns the port and the list of requests."""
    listener, requests = socket.create_server(("127.0.0.1", 0)), []

    def serve(answer):
        def once():
            connection, _address = listener.accept()
            with connection:
                requests.append(connection.recv(4096))
                connection.sendall(answer)

        threading.Thread(target=once, daemon=True).start()
        return listener.getsockname()[1], requests

    with listener:
        yield serve


@pytest.mark.parametrize(("answer", "status"), [("200 OK", 0), ("503 Down", 1), ("404 Not Found", 1)])
def test_blog_is_healthy_if_it_answers_200(probe, server, variables, answer, status):
    port, requests = server(f"HTTP/1.1 {answer}\r\n\r\nok".encode())
    assert probe(port) == status
    assert requests == [f"GET /healthz HTTP/1.0\r\nHost: {variables['stack_domain']}\r\n\r\n".encode()]


def test_blog_that_refuses_connections_or_answers_nothing_is_unhealthy(probe, server):
    port, _requests = server(b"")
    assert probe(port) == 1
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert probe(port) == 1


def test_blog_that_hangs_is_unhealthy_before_the_time_out(probe):
    """The kernel accepts connections for a process that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        began = time.monotonic()
        assert probe(hung.getsockname()[1]) == 1
    # The time-out of the check is 3 s (x-patience in compose.yml.j2).
    assert 2 <= time.monotonic() - began < 3
