"""Fixtures: Docker and the containers on the host."""

import json
import runpy
import time

import pytest
import yaml
from outside import ROOT, wait_until


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


@pytest.fixture(scope="session")
def limits(host, variables):
    """Return the limits of the containers as the role `stack` computes them, for this host or a larger one.

    Memory is in MiB.
    """
    container_limits = runpy.run_path(str(ROOT / "plugins/filter/container_limits.py"))["container_limits"]
    files = yaml.safe_load((ROOT / "roles/stack/vars/main.yml").read_text())["__stack_memory"].values()
    names = ("nginx", "flask_blog", "db", "host")
    set_by_user = {name: variables[f"stack_{name}_memory_mb"] for name in names}
    host_mb = int(host.check_output("awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo"))
    host_cpus = min(int(host.check_output("nproc")), 2)
    files_mb = sum(one["mb"] for one in files)

    def limits(cpus=host_cpus, memory=host_mb, **memory_mb):
        return container_limits(set_by_user | memory_mb, cpus, memory, files_mb, {})

    return limits


@pytest.fixture
def containers(inspect):
    """The result of `inspect`. The key for the slot in service is flask_blog."""
    return {service.replace("_blue", "").replace("_green", ""): c for service, c in inspect().items()}


@pytest.fixture
def name_of(slot):
    """Return the name of a service in compose.yml; for flask_blog, the name of the slot in service."""
    return lambda service: f"flask_blog_{slot()}" if service == "flask_blog" else service


@pytest.fixture
def freeze(host, inspect, name_of):
    """Stop all processes of a service's container, and return when that was."""

    def freeze(service):
        container = inspect()[name_of(service)]
        assert container["State"]["Health"]["Status"] == "healthy"
        began = time.monotonic()
        # Stop the main process first, so that it starts no others meanwhile.
        main = str(container["State"]["Pid"])
        stop = "kill -STOP %s && docker top %s -o pid | tail --lines=+2 | xargs kill -STOP"
        host.check_output(stop, main, container["Id"])
        assert host.check_output("ps -o stat= -p %s", main).startswith("T")
        return began

    return freeze
