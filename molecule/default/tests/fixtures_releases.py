"""Fixtures for releases: images to release, the ledger, and the release in service."""

import json
import time

import pytest


@pytest.fixture(scope="session")
def slot(host):
    """Return the slot to which nginx sends readers, according to its flag file."""
    return lambda: "green" if host.file("/var/lib/slipway/slot/green").exists else "blue"


@pytest.fixture(scope="module")
def variant(host, docker, inspect):
    """Extend the blog's image by some Dockerfile lines, and return the new image's id."""
    [serving] = [c["Image"] for service, c in inspect().items() if "flask_blog" in service]
    docker("tag %s slipway.test/blog:source", serving)
    made = []

    def variant(lines=""):
        # The label makes the id differ each time: an image that an earlier test rolled back is blocked.
        dockerfile = f'FROM slipway.test/blog:source\nLABEL slipway.test="{time.time()}"\n{lines}'
        made.append(host.check_output("echo %s | docker build --quiet -", dockerfile))
        return made[-1]

    yield variant
    # Retention may have removed some of them.
    there = {*docker("image ls --all --quiet --no-trunc").split()}
    docker(f"rmi --force slipway.test/blog:source {' '.join(there.intersection(made))}")


@pytest.fixture(scope="session")
def ledger(host):
    """Return the ledger's entries, oldest first."""
    return lambda: json.loads(host.check_output("cat /var/lib/slipway/releases.json"))


@pytest.fixture(scope="session")
def status(host):
    """Return the output of `slipway status --json`."""
    return lambda: json.loads(host.check_output("slipway status --json"))


@pytest.fixture
def assert_consistent(slot, healthy, status, sql):
    """Assert that only the given slot runs, gets the readers and has a database login, without drift."""

    def assert_consistent(serving):
        assert slot() == serving
        assert set(healthy()) == {"nginx", "db", f"flask_blog_{serving}"}
        logins = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'blog_app_%' AND rolcanlogin"
        assert sql(logins) == [(f"blog_app_{serving}",)]
        now = status()
        assert now["drift"] == []
        assert now["active"] == serving
        assert now["image"] == now["release"]["image"]

    return assert_consistent


@pytest.fixture
def in_service(ledger):
    """The ledger's entry of the release in service."""
    return [entry for entry in ledger() if entry["outcome"] == "in service"][-1]
