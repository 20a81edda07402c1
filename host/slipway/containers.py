"""Queries to the Docker engine about containers."""

import json
import time
from typing import Any

from slipway.host import Host
from slipway.shell import LOG_LINES, CommandFailure, last_lines

# The object that `docker inspect` prints for one container.
Inspected = dict[str, Any]

# A filter of `docker ps` for the project's containers. Unlike compose, `docker ps` needs no .env.
PROJECT = "--filter=label=com.docker.compose.project=slipway"


def compose(host: Host, *arguments: str, stdin: str | None = None) -> str:
    """Run docker compose; stdin replaces compose.yml."""
    project = (
        "--progress=quiet",
        "--project-directory",
        str(host.settings.project),
        *(("--file", "-") if stdin else ()),
    )
    return host.run("docker", "compose", *project, *arguments, stdin=stdin)


def of_service(host: Host, service: str, which: str = "--all") -> list[str]:
    """Return the ids of a service's containers: of all, or of those that the filter `which` selects."""
    service = f"--filter=label=com.docker.compose.service={service}"
    return host.run("docker", "ps", "--quiet", "--no-trunc", which, PROJECT, service).split()


def inspect(host: Host, *ids: str) -> list[Inspected]:
    """Return the `docker inspect` output of containers."""
    found: list[Inspected] = json.loads(host.run("docker", "inspect", *ids)) if ids else []
    return found


def environment(found: Inspected) -> dict[str, str]:
    """Return the environment variables of a container, or those of an image."""
    return dict(entry.split("=", 1) for entry in found["Config"]["Env"])


def config_hash(container: Inspected) -> str:
    """Return compose's hash of the definition that the container was created from; empty without one."""
    return str(container["Config"]["Labels"].get("com.docker.compose.config-hash", ""))


def wait_for_engine(host: Host) -> None:
    """Wait until the engine answers: while it restarts, its containers go on, but no command works.

    Raises:
        CommandFailure: the engine does not answer within `start_seconds`.
    """
    deadline = time.monotonic() + host.settings.start_seconds
    while True:
        try:
            host.run("docker", "version", "--format={{.Server.Version}}")
            return
        except CommandFailure:
            if time.monotonic() > deadline:
                raise
        host.sleep(0.5)


def events(host: Host, container: Inspected, kind: str) -> list[dict[str, str]]:
    """Return the attributes of a container's recent events of one kind, oldest first."""
    # --until takes whole seconds: round up to include the current one. The command ends within a second.
    period = ("--since", container["Created"], "--until", str(int(time.time()) + 1))
    filters = ("--filter", f"container={container['Id']}", "--filter", f"event={kind}")
    output = host.run("docker", "events", *period, *filters, "--format={{json .Actor.Attributes}}")
    return [json.loads(line) for line in output.splitlines()]


def state_and_log(host: Host, container: Inspected) -> str:
    """Return a container's state, its last exit code and its last log lines."""
    log = host.output("docker", "logs", "--tail", str(LOG_LINES), container["Id"])
    # Read the exit code from events: `inspect` loses it when the container restarts.
    ended = next((event["exitCode"] for event in reversed(events(host, container, "die"))), "none")
    name, how = container["Name"].lstrip("/"), f"{container['State']['Status']} (exit code {ended})"
    return f"The container {name} is {how}. Its last lines:\n{last_lines(log)}"


def out_of_memory_hint(host: Host, container: Inspected | None) -> str:
    """Return a sentence with the memory limit if a container ran out of memory, else an empty string."""
    # Read OOM kills from events: `inspect` loses them when the container restarts.
    if container and events(host, container, "oom"):
        return " It ran out of memory: stack_flask_blog_memory_mb sets its limit."
    return ""
