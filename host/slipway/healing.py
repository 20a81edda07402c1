"""Restart containers that have become unhealthy.

The engine restarts a container whose main process ends, but not one whose processes hang. `slipway heal` runs
as a systemd unit. It acts on what it finds, not on what an event says, so a lost event does no harm: an event
only makes it look at once. It restarts a container under the lock, so never during a release, a change of
nginx or a restore. The health checks decide how soon a container counts as unhealthy: `x-patience` in
compose.yml.j2, at most 24 seconds.
"""

import contextlib
import datetime
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from slipway import containers
from slipway.containers import PROJECT, Inspected
from slipway.files import write
from slipway.host import Host, age, moment, notify_systemd
from slipway.json_types import from_json
from slipway.lock import HEALING, Busy, lock
from slipway.notify import call_webhook
from slipway.settings import DAY, load
from slipway.shell import Failure, printable
from slipway.stack import Stack

UNIT = "slipway-heal.service"
# The directory of the running version; `is_replaced` compares it with the installed one.
CODE = Path(__file__).resolve().parents[1]
# The keys of the configuration without which there is no stack yet.
NEEDED = {"directory", "state", "secrets", "in_service"}
# A one-off container has the label of its service too.
UNHEALTHY = (
    *("--filter=health=unhealthy", "--filter=status=running"),
    "--filter=label=com.docker.compose.oneoff=False",
)
EVENTS = ("--filter=type=container", "--filter=event=health_status", "--format={{.Status}}")
# pg_isready's exit status if Postgres answers but accepts no connections yet, as after a crash. Then it reads
# its log, which a restart would only begin again.
RECOVERING = {"db": 1}
REASON_LENGTH = 200
# The retries of the health checks in compose.yml.
FAILED_CHECKS = 3


@dataclass(frozen=True)
class Healed:
    """The restart of an unhealthy container.

    Attributes:
        service: the container's service.
        at: when it was restarted, as in RFC 3339.
        seconds: how long it had been unhealthy.
        reason: the output of its last health check.
    """

    service: str
    at: str
    seconds: int
    reason: str


def record_file(stack: Stack) -> Path:
    """Return the path of the record of restarts."""
    return stack.state / "healing.json"


def read_record(stack: Stack) -> list[Healed]:
    """Return the restarts of the last day, oldest first; none if the record is missing or damaged."""
    try:
        found = [from_json(Healed, one) for one in json.loads(record_file(stack).read_text())]
        return [entry for entry in found if age(stack.host, entry.at) < DAY]
    except (OSError, ValueError, TypeError):
        return []


def services(stack: Stack) -> list[str]:
    """Return the services in service, in the order in which to heal them: each needs those before it."""
    with contextlib.suppress(Failure):  # slots.env may be broken, but then no slot runs
        if active := stack.active():
            return ["db", f"flask_blog_{active}", "nginx"]
    return ["db", "nginx"]


def unhealthy(stack: Stack) -> dict[str, Inspected]:
    """Return the unhealthy containers in service that a restart may help, by service."""
    host = stack.host
    ids = host.run("docker", "ps", "--quiet", "--no-trunc", *UNHEALTHY, PROJECT).split()
    if not ids:
        return {}
    found = {
        container["Config"]["Labels"]["com.docker.compose.service"]: container
        for container in containers.inspect(host, *ids)
    }
    return {
        service: found[service]
        for service in services(stack)
        if service in found and last_check(found[service]).get("ExitCode") != RECOVERING.get(service, -2)
    }


def checks(container: Inspected) -> list[dict[str, Any]]:
    """Return the failed health checks of a container since the last one that passed, oldest first."""
    failed: list[dict[str, Any]] = []
    for check in reversed(container["State"].get("Health", {}).get("Log") or []):
        if check["ExitCode"] == 0:
            break
        failed.insert(0, check)
    return failed


def is_proven(stack: Stack, service: str, container: Inspected) -> bool:
    """Tell whether a container is unhealthy for a reason of its own.

    A database that hangs makes the blog unhealthy too, perhaps before the database itself. So the blog is not
    restarted while checks of the database fail; and for any service, only checks count that began after the
    last restart of another service. If the container's main process is frozen, that alone is proof.
    """
    if stack.host.is_frozen(str(container["State"]["Pid"])):
        return True
    if service.startswith("flask_blog") and is_failing(stack.host, "db"):
        return False
    others = [moment(entry.at) for entry in read_record(stack) if entry.service != service]
    if not others:
        return True
    since = [check for check in checks(container) if moment(check["Start"]) > max(others)]
    return len(since) >= FAILED_CHECKS


def is_failing(host: Host, service: str) -> bool:
    """Tell whether the last health check of a service failed."""
    found = containers.inspect(host, *containers.of_service(host, service)[:1])
    return any(one["State"].get("Health", {}).get("FailingStreak") for one in found)


def last_check(container: Inspected) -> dict[str, Any]:
    """Return the last health check if it failed; empty if it passed."""
    return next(iter(checks(container)[-1:]), {})


def reason(container: Inspected) -> str:
    """Return the last line of the output of a container's last health check, or its exit status."""
    check = last_check(container)
    lines = printable(check.get("Output", "")).strip().splitlines()
    return lines[-1][:REASON_LENGTH] if lines else f"its check failed ({check.get('ExitCode', 'unknown')})"


def next_restart(stack: Stack, service: str) -> datetime.datetime | None:
    """Return when a service may be restarted again, if it has had too many restarts; else None."""
    settings = stack.host.settings
    recent = [
        moment(entry.at)
        for entry in read_record(stack)
        if entry.service == service and age(stack.host, entry.at) < settings.heal_period
    ]
    if len(recent) < settings.heal_limit:
        return None
    return recent[-settings.heal_limit] + datetime.timedelta(seconds=settings.heal_period)


def waiting_sentence(stack: Stack, service: str, until: datetime.datetime) -> str:
    """Return a sentence about a service that restarts do not heal."""
    settings = stack.host.settings
    return (
        f"{service} is unhealthy again after {settings.heal_limit} restarts in {settings.heal_period // 60} "
        f"minutes; the next restart is at {until:%Y-%m-%dT%H:%M:%SZ}. See `slipway logs {log_of(service)}`."
    )


def log_of(service: str) -> str:
    """Return the name of a service for `slipway logs`."""
    return "flask_blog" if service.startswith("flask_blog") else service


class Healer:
    """Restarts unhealthy containers, and says in the journal what it does, each thing once."""

    def __init__(self, host: Host) -> None:
        self.host = host
        # Since when a container is unhealthy: the engine keeps only its last five checks.
        self.since: dict[str, str] = {}
        self.said: dict[str, str] = {}

    def look(self) -> bool:
        """Restart the unhealthy containers that may be restarted now; tell whether to look again soon."""
        try:
            config = load(self.host.settings.configuration)
            if not config.keys() >= NEEDED:
                return False  # the first run of site.yml is under way
            stack = Stack(config, self.host)
            found = unhealthy(stack)
            ids = {container["Id"]: container for container in found.values()}
            self.since = {one: self.since.get(one) or began(ids[one], self.host.now()) for one in ids}
            self.said = {about: text for about, text in self.said.items() if about in found}
            waiting = [service for service in found if self.must_wait(stack, service)]
            return bool(waiting)
        except Failure as failure:
            self.say("", str(failure))
            return True

    def must_wait(self, stack: Stack, service: str) -> bool:
        """Restart a service's container if it may be restarted now; tell whether to look again soon."""
        if until := next_restart(stack, service):
            if self.say(service, waiting_sentence(stack, service, until)):
                self.call(stack, {"service": service, "at": self.host.now(), "restarted": False})
            return False
        try:
            with lock(self.host, f"{HEALING} {service}", other="Another operation"):
                # Another operation may have replaced it before this one had the lock.
                container = unhealthy(stack).get(service)
                if not container or container["Id"] not in self.since:
                    return False
                if not is_proven(stack, service, container):  # the next checks will tell
                    return True
                entry = self.restart(stack, service, container)
        except Busy as busy:
            self.say(service, f"{service} is unhealthy, but is not restarted now. {busy}")
            return True
        self.call(stack, asdict(entry) | {"restarted": True})
        return False

    def restart(self, stack: Stack, service: str, container: Inspected) -> Healed:
        """Restart a container; record the restart first, so that it counts even if this program is killed."""
        host, now = self.host, self.host.now()
        seconds = int(age(host, self.since.pop(container["Id"])))
        entry = Healed(service, now, seconds, reason(container))
        text = json.dumps([asdict(one) for one in (*read_record(stack), entry)], indent=1)
        try:
            write(record_file(stack), f"{text}\n")
        except OSError as error:  # the disk may be full
            self.say("record", f"The restart of {service} is not recorded: {error.strerror}.")
        frozen = host.is_frozen(str(container["State"]["Pid"]))
        # A frozen process cannot stop by itself, so do not wait for it.
        stop = 0 if frozen else host.settings.heal_stop_seconds
        host.run("docker", "restart", f"--time={stop}", container["Id"])
        self.said.pop(service, None)
        print(f"{service}: restarted, unhealthy for {seconds} s: {entry.reason}", flush=True)
        return entry

    def say(self, about: str, text: str) -> bool:
        """Print a sentence unless it was the last one about this subject; return whether it was printed."""
        if self.said.get(about) == text:
            return False
        self.said[about] = text
        print(text, flush=True)
        return True

    def call(self, stack: Stack, what: dict[str, object]) -> None:
        """Tell the webhook, if there is one, of a restart or of a container that restarts do not heal."""
        try:
            call_webhook(stack, "healing", what)
        except Failure as failure:
            print(f"{failure} This does not affect the blog.", flush=True)


def began(container: Inspected, now: str) -> str:
    """Return when the first of the failed checks that the engine still knows began."""
    return str(next((check["Start"] for check in checks(container)), now))


def is_replaced(host: Host) -> bool:
    """Tell whether another version of this program was installed."""
    link = host.settings.program
    return link.exists() and link.resolve() != CODE


def watch(host: Host, tell: Callable[[str], None] = notify_systemd) -> None:
    """Heal containers until another version of this program is installed."""
    healer, settings = Healer(host), host.settings
    tell("READY=1")
    while True:
        # --since adds the events that happen before the engine gets this command.
        with host.follow("docker", "events", f"--since={host.now()}", PROJECT, *EVENTS) as events:
            while events.goes_on:
                if is_replaced(host):
                    return
                tell("WATCHDOG=1")
                events.wait(settings.heal_again_seconds if healer.look() else settings.heal_look_seconds)
        # The engine has stopped.
        host.sleep(settings.heal_again_seconds)


def command_heal(host: Host, options: Namespace) -> NoReturn:
    watch(host)
    print("Another version of slipway was installed, and goes on.", flush=True)
    # The same process goes on, so that the unit is active all the time.
    main = str(host.settings.program / "slipway" / "__main__.py")
    os.execvp(sys.executable, [sys.executable, "-I", "-B", main, "heal"])


def problems(stack: Stack) -> list[str]:
    """Return sentences for the status: the healer does not run, or restarts do not heal a container."""
    found = []
    if stack.host.output("systemctl", "is-active", UNIT).strip() not in ("active", "reloading"):
        found.append(
            f"{UNIT} does not run, so nothing restarts an unhealthy container: run site.yml, or "
            f"`systemctl restart {UNIT}`; its reason is in `journalctl -u {UNIT}`."
        )
    late = {entry.service: next_restart(stack, entry.service) for entry in read_record(stack)}
    sick = unhealthy(stack) if any(late.values()) else {}
    return found + [
        waiting_sentence(stack, service, until)
        for service, until in late.items()
        if until and service in sick
    ]


def failing(host: Host, listed: list[dict[str, Any]]) -> list[str]:
    """Return the state and the last log lines of each container that starts again and again.

    Args:
        host: the host.
        listed: the containers, as `docker compose ps` lists them.
    """
    suspects = [one["Service"] for one in listed if one.get("Health") != "healthy"]
    found = [one for service in suspects for one in containers.of_service(host, service)]
    return [
        printable(containers.state_and_log(host, container))
        for container in containers.inspect(host, *found)
        if container["RestartCount"]
    ]
