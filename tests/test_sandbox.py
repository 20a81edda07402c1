"""The role sandbox checks the ports of a host before it builds the image, which takes minutes."""

import json
import socket

import pytest
from project import ROOT

PORTS = ("sandbox_ssh_port", "sandbox_http_port", "sandbox_https_port")


@pytest.fixture
def create(ansible, tmp_path):
    """A function that returns the output of sandbox.yml for a new host, whose image cannot be built."""

    def create(**ports):
        variables = {
            "sandbox_name": "not-created",
            "sandbox_image": "not/a:valid:name",
            "sandbox_directory": str(tmp_path),
            **ports,
        }
        extra = ("--inventory", ROOT / "inventory/sandbox", "--extra-vars", json.dumps(variables))
        return " ".join(ansible("playbook", *extra, ROOT / "playbooks/sandbox.yml").stdout.split())

    return create


@pytest.fixture
def listener():
    """A socket that listens on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def free_ports():
    """Return a free port for each port of a sandbox host."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for name in PORTS]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return dict(zip(PORTS, ports, strict=True))


@pytest.mark.parametrize("name", PORTS)
def test_port_that_another_program_uses_is_refused_before_the_build(create, listener, name):
    port = listener.getsockname()[1]
    output = create(**free_ports() | {name: port})
    assert "TASK [slipway.blog.sandbox : Image" not in output
    assert f"because other programs on this machine use its ports: {port}." in output
    assert "ss --listening --tcp --processes" in output


def test_free_ports_are_accepted(create):
    assert "TASK [slipway.blog.sandbox : Image" in create(**free_ports())
