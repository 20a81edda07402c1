"""Fixtures: Docker and the containers on the host."""

import json

import pytest
from outside import wait_until


@pytest.fixture(scope="session")
def docker(host):
    """Run docker on the host, and return what it prints."""
    return lambda command, *arguments: host.check_output(f"docker {command}", *arguments)


@pytest.fixture(scope="session")
def inspect(docker):
    """Return the output of `docker inspect` for each container on the host, by service."""

    def inspect():
        found = json.loads(docker("ps --all --quiet | xargs --no-run-if-empty docker inspect") or "[]")
        return {c["Config"]["Labels"].get("com.docker.compose.service", c["Name"]): c for c in found}

    return inspect


@pytest.fixture(scope="session")
def healthy(inspect):
    """Wait until exactly three containers exist and all are healthy. Return the result of `inspect`."""

    def healthy(seconds=60):
        def found():
            containers = inspect()
            states = [c["State"].get("Health", {}).get("Status") for c in containers.values()]
            return containers if states == ["healthy"] * 3 else None

        return wait_until(found, seconds, "three healthy containers")

    return healthy


@pytest.fixture
def containers(inspect):
    """The result of `inspect`. The key for the slot in service is flask_blog."""
    return {service.replace("_blue", "").replace("_green", ""): c for service, c in inspect().items()}
