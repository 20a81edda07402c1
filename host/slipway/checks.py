"""Checks of a release: the host, nginx, the new slot, and a page for readers."""

import time
from collections.abc import Callable
from pathlib import Path

from slipway.containers import out_of_memory_hint
from slipway.ledger import Release
from slipway.settings import SPARE_DISK
from slipway.shell import CommandFailure, Failure, last_lines
from slipway.stack import Stack


def check_host(stack: Stack, image: str) -> None:
    """Raise Failure if the image is missing, disk space is low or nginx's configuration is invalid."""
    stack.host.run("docker", "image", "inspect", image)
    engine = Path(stack.host.run("docker", "info", "--format={{.DockerRootDir}}").strip())
    for directory in (stack.state, engine):
        free = stack.host.free(directory)
        if free < SPARE_DISK:
            raise Failure(
                f"{directory} has {free // 2**20} MB of free space, but a release needs "
                f"{SPARE_DISK // 2**20} MB: free some space."
            )
    check_nginx(stack)


def check_nginx(stack: Stack, attempts: int = 3) -> None:
    """Raise Failure unless nginx accepts its current configuration; try again if the engine fails."""
    try:
        stack.compose("exec", "-T", "nginx", "nginx", "-t", "-q")
    except CommandFailure as failure:
        if failure.status == 1:
            raise Failure(
                "nginx rejects its current configuration. "
                f"Correct it with `ansible-playbook site.yml`.\n{last_lines(failure.output)}"
            ) from None
        # `docker exec` itself failed: on a busy host, the engine can briefly fail to start a process.
        if attempts == 1:
            raise
        stack.host.sleep(1)
        check_nginx(stack, attempts - 1)


def wait_until_ready(stack: Stack, slot: str, if_not_ready: Callable[[], object] | None = None) -> None:
    """Return once the slot's /readyz answers 200; raise Failure at the deadline or if its container stops.

    /readyz checks the database and its schema (app/blog/health.py); the deadline is release_ready_timeout.

    Args:
        slot: the slot.
        if_not_ready: called once, if /readyz answers a status other than 200; then the deadline starts again.
    """
    config = stack.config
    deadline = time.monotonic() + config["ready_timeout"]
    address = f"{config['slots'][slot]}:8000"
    while True:
        status, body = stack.host.get(address, "/readyz", config["host"], timeout=2)
        if status == 200:
            return
        if status and if_not_ready:
            if_not_ready()
            if_not_ready, deadline = None, time.monotonic() + config["ready_timeout"]
        container = stack.container(slot)
        if container is None or container["State"]["Status"] != "running" or container["RestartCount"]:
            raise Failure(
                "The new release's container stopped instead of becoming ready."
                f"{out_of_memory_hint(stack.host, container)}"
            )
        if time.monotonic() > deadline:
            answer = f"/readyz answered {status}" if status else f"/readyz did not answer ({body})"
            raise Failure(
                f"The new release was not ready within {config['ready_timeout']} s: {answer}. "
                "A slow start may need a larger release_ready_timeout."
            )
        stack.host.sleep(0.2)


def expect_page(stack: Stack, address: str, path: str, where: str, tls: bool = False) -> None:
    """Raise Failure unless a request for path at address gets status 200 and a body."""
    host, cookie = stack.config["host"], f"{stack.config['session_cookie']}=slipway"
    # A session cookie bypasses nginx's cache, which would hide a failing release behind an older page.
    status, body = stack.host.get(address, path, host, timeout=10, tls=tls, cookie=cookie)
    if status != 200 or not body:
        answer = f"{where[0].upper()}{where[1:]} answered {status or body} to {path} (Host {host})"
        raise Failure(f"{answer} instead of a page with status 200.")


def check_public(stack: Stack, entry: Release) -> None:
    """Raise Failure unless the release runs in its slot and readers get a page from nginx."""
    image = stack.running(entry.slot)
    if image != entry.image:
        raise Failure(f"The {entry.slot} slot runs {image or 'nothing'} instead of {entry.image}.")
    if stack.maintenance_flag.exists():
        return
    public, [first, *_rest] = stack.config["public"], stack.config["smoke_paths"]
    expect_page(stack, public, first, "the public port", stack.config["tls"])
