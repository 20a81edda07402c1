"""Fixtures for the CIS Docker Benchmark: the Docker engine, the containers and their images."""

import json
import re
from types import SimpleNamespace

import pytest
from cis import CONDITIONS, LISTED, check_number


@pytest.fixture(scope="module")
def engine(host, docker):
    """Facts of the engine: `docker info`, daemon.json, command line, and whether AppArmor is available."""
    return SimpleNamespace(
        info=json.loads(docker("info --format json")),
        settings=json.loads(host.file("/etc/docker/daemon.json").content_string),
        command=host.check_output("ps -o args= -C dockerd").split(),
        apparmor=host.file("/sys/kernel/security/apparmor").is_directory,
    )


@pytest.fixture(scope="module")
def running(inspect):
    """The output of `docker inspect` by service. The key for the slot in service is flask_blog."""
    return {re.sub("_(blue|green)$", "", service): c for service, c in inspect().items()}


@pytest.fixture
def container(running, service):
    """The output of `docker inspect` for the service's container."""
    return running[service]


@pytest.fixture
def host_config(container):
    """The HostConfig of the service's container."""
    return container["HostConfig"]


@pytest.fixture
def first_process(host, container):
    """The directory in /proc of the first process of the service's container."""
    return f"/proc/{container['State']['Pid']}"


@pytest.fixture(scope="module")
def inspect_image(docker, running):
    """Return the output of `docker image inspect` for a service's image."""
    return lambda service: json.loads(docker("image inspect %s", running[service]["Image"]))[0]


@pytest.fixture
def run_in_image(docker, running):
    """Run a shell script as root in a new container of a service's image, and return what it prints."""
    options = "--rm --network none --read-only --user 0 --entrypoint sh"
    return lambda service, script: docker(f"run {options} %s -c %s", running[service]["Image"], script)


@pytest.fixture
def expected_failures(request, engine):
    """Expect a check to fail if cis.yml lists it for this service. Any other check must pass."""
    service = request.node.callspec.params.get("service") if hasattr(request.node, "callspec") else None
    for exception in LISTED["exceptions"]:
        is_it = exception["check"] == check_number(request.function.__name__)
        over = CONDITIONS.get(exception.get("unless"), lambda _: False)(engine)
        if is_it and service in exception.get("services", [None]) and not over:
            reason = exception["reason"]
            request.node.add_marker(pytest.mark.xfail(strict=True, reason=reason, raises=AssertionError))
