"""What the engine tells of a container."""

import json
import time
from typing import Any

from slipway.host import Host
from slipway.settings import LOG_LINES
from slipway.shell import last_lines

# What `docker inspect` prints of one container.
Inspected = dict[str, Any]

# Of the project's containers, for `docker ps`: unlike compose, it needs no .env to tell.
PROJECT = "--filter=label=com.docker.compose.project=slipway"


def of_service(host: Host, service: str, which: str = "--all") -> list[str]:
    """Return the ids of a service's containers; which may be a filter of `docker ps` instead of all."""
    service = f"--filter=label=com.docker.compose.service={service}"
    return host.run("docker", "ps", "--quiet", "--no-trunc", which, PROJECT, service).split()


def inspect(host: Host, *ids: str) -> list[Inspected]:
    """Return what the engine knows of containers."""
    found: list[Inspected] = json.loads(host.run("docker", "inspect", *ids)) if ids else []
    return found


def config_hash(container: Inspected) -> str:
    """Return compose's hash of the definition that the container was made from."""
    return str(container["Config"]["Labels"]["com.docker.compose.config-hash"])


def events(host: Host, container: Inspected, kind: str) -> list[dict[str, str]]:
    """Return the attributes of events of one kind of a container, of late, oldest first."""
    # The engine reads whole seconds, and waits for one that is yet to come.
    period = ("--since", container["Created"], "--until", str(int(time.time()) + 1))
    filters = ("--filter", f"container={container['Id']}", "--filter", f"event={kind}")
    told = host.run("docker", "events", *period, *filters, "--format={{json .Actor.Attributes}}")
    return [json.loads(line) for line in told.splitlines()]


def last_words(host: Host, container: Inspected) -> str:
    """Return how a container is, and the last lines that it wrote."""
    said = host.output("docker", "logs", "--tail", str(LOG_LINES), container["Id"])
    # A container that starts again and again has forgotten how it ended; the engine has not.
    ended = next((event["exitCode"] for event in reversed(events(host, container, "die"))), "none")
    name, how = container["Name"].lstrip("/"), f"{container['State']['Status']} (exit code {ended})"
    return f"The container {name} is {how}. Its last lines:\n{last_lines(said)}"


def why(host: Host, container: Inspected | None) -> str:
    """Say that a container stopped for want of memory, where it did; its restart has forgotten that."""
    if container and events(host, container, "oom"):
        return " It ran out of memory: stack_flask_blog_memory_mb is its limit."
    return ""
