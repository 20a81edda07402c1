"""The action plugin outside_page: a page as a reader sees it, or what is wrong."""

import contextlib
import json
import re
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from project import ROOT, load_program

# .invalid is reserved, so no resolver knows this name.
NAME = "blog.invalid"


class Page(BaseHTTPRequestHandler):
    """Answer each path that is a number with this status, and remember the Host header."""

    def do_GET(self):
        self.server.hosts.append(self.headers["Host"])
        self.send_response(int(self.path.strip("/")))
        self.send_header("Location", "/login")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(address, context=None):
    """Serve pages at a free port of an address; yield the server, with its `hosts` and TLS `names` so far."""

    class Server(HTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        hosts, names = [], []

        def handle_error(self, *arguments):
            pass

    with Server((address, 0), Page) as server:
        if context:
            context.sni_callback = lambda connection, name, _context: server.names.append(name)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def plugin():
    """The module of the plugin."""
    return load_program(ROOT / "plugins/action/outside_page.py")


@pytest.fixture
def server():
    """A server at 127.0.0.1."""
    with serve("127.0.0.1") as server:
        yield server


def test_page_is_requested_by_its_public_name_at_another_address(plugin, server):
    url = f"http://{NAME}:{server.server_port}/200"
    assert plugin.page_problem(url, "127.0.0.1", 200, True) is None
    assert server.hosts == [f"{NAME}:{server.server_port}"]


def test_address_may_have_another_port(plugin, server):
    assert plugin.page_problem(f"http://{NAME}/200", f"127.0.0.1:{server.server_port}", 200, True) is None


def test_address_may_be_of_ipv6(plugin):
    with serve("::1") as server:
        assert plugin.page_problem(f"http://{NAME}:{server.server_port}/200", "::1", 200, True) is None


def test_other_status_is_a_problem_and_a_redirect_has_its_target(plugin, server):
    url = f"http://{NAME}:{server.server_port}/302"
    assert plugin.page_problem(url, "127.0.0.1", 200, True) == (
        f"{url} answers at 127.0.0.1, port {server.server_port}, with "
        "the status 302 to /login instead of 200."
    )


def test_maintenance_page_can_be_the_expected_one(plugin, server):
    assert plugin.page_problem(f"http://{NAME}:{server.server_port}/503", "127.0.0.1", 503, True) is None


def test_name_without_an_address_is_a_problem(plugin):
    problem = plugin.page_problem(f"http://{NAME}/", NAME, 200, True)
    assert problem.startswith(f"http://{NAME}/ cannot be reached: {NAME} has no address (")


def test_closed_port_is_a_problem_and_the_message_says_what_the_name_resolves_to(plugin):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        problem = plugin.page_problem(f"http://localhost:{port}/", "localhost", 200, True)
    addresses = (
        re.escape(f"http://localhost:{port}/ cannot be reached at localhost (") + r"[^)]*127\.0\.0\.1[^)]*\)"
    )
    assert re.match(addresses + rf", port {port}: .*Connection refused", problem)


@pytest.fixture
def own_certificate(tmp_path):
    """A server's TLS context with a certificate that nobody trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def test_tls_uses_the_public_name_whatever_the_address(plugin, own_certificate):
    with serve("127.0.0.1", own_certificate) as server:
        url = f"https://{NAME}:{server.server_port}/200"
        assert plugin.page_problem(url, "127.0.0.1", 200, False) is None
        assert server.names == [NAME]


def test_certificate_that_nobody_trusts_is_a_problem_if_it_is_verified(plugin, own_certificate):
    with serve("127.0.0.1", own_certificate) as server:
        url = f"https://{NAME}:{server.server_port}/200"
        assert "certificate verify failed" in plugin.page_problem(url, "127.0.0.1", 200, True)


@pytest.fixture
def run_task(ansible, tmp_path):
    """A function that runs the task, and returns its result."""

    def run_task(**arguments):
        tasks = [
            {
                "slipway.blog.outside_page": {"timeout": 0} | arguments,
                "register": "page",
                "ignore_errors": True,
            },
            {
                "ansible.builtin.copy": {
                    "content": "{{ page | to_json }}",
                    "dest": str(tmp_path / "page.json"),
                }
            },
        ]
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        play["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        (tmp_path / "play.yml").write_text(json.dumps([play]))
        done = ansible("playbook", "--inventory", "localhost,", tmp_path / "play.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((tmp_path / "page.json").read_text())

    return run_task


def test_task_succeeds_if_the_page_arrives(run_task, server):
    url = f"http://{NAME}:{server.server_port}/200"
    page = run_task(url=url, address="127.0.0.1")
    assert (page["failed"], page["changed"], page["problem"]) == (False, False, "")


def test_failed_task_says_that_the_host_itself_serves_the_page(run_task, server):
    page = run_task(url=f"http://{NAME}:{server.server_port}/200", host_address="127.0.0.1")
    assert page["failed"]
    assert f"{NAME} has no address" in page["msg"]
    assert (
        "The host itself serves the page at 127.0.0.1, so the cause is between readers and the host"
        in page["msg"]
    )


def test_failed_task_says_that_the_host_itself_does_not_serve_the_page_either(run_task, server):
    page = run_task(url=f"http://{NAME}:{server.server_port}/502", host_address="127.0.0.1")
    assert "The host itself does not serve the page either:" in page["msg"]
    assert "with the status 502 to /login instead of 200" in page["msg"]


def test_task_retries_until_the_page_arrives(run_task, plugin, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    def later():
        with HTTPServer(("127.0.0.1", port), Page) as server:
            server.hosts = []
            server.handle_request()

    timer = threading.Timer(3, later)
    timer.start()
    page = run_task(url=f"http://127.0.0.1:{port}/200", timeout=60)
    timer.join()
    assert page["failed"] is False
