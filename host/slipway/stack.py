"""The compose project on this host, and the state that defines the slot in service."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from slipway.containers import PROJECT, Inspected, config_hash, inspect, of_service
from slipway.files import read_secret, sync, write
from slipway.host import Host
from slipway.ledger import Ledger
from slipway.settings import SLOTS, Configuration
from slipway.shell import Failure, last_lines

SECRET_FORM = re.compile(rb"[!-~][ -~]{10,}[!-~]")
# The secrets that a slot reads, besides the app's former keys.
SLOT_SECRETS = ("db_app_password", "app_secret_key")
PSQL = (
    "psql",
    "--username=postgres",
    "--dbname=blog",
    "--no-psqlrc",
    "--quiet",
    "--tuples-only",
    "--no-align",
    "--set=ON_ERROR_STOP=1",
)


class Stack:
    """The compose project on this host, and the state that defines the slot in service."""

    def __init__(self, config: Configuration, host: Host) -> None:
        self.config, self.host = config, host
        self.directory = Path(config["directory"])
        state = Path(config["state"])
        self.slots_file = state / "slots.env"
        self.green_flag = state / "slot" / "green"
        self.maintenance_flag = state / "slot" / "maintenance"
        self.state = state
        # It says that a restore, and no operator, switched the maintenance page on.
        self.restore_flag = state / "restore_maintenance"
        self.static = state / "www" / "static"
        self.dumps = state / "dumps"
        self.manifests = state / "static"
        self.in_service = Path(config["in_service"])
        # `rotate --forget` creates this file, so that the release with the new key drops the former key.
        self.forget_flag = self.in_service / "forget"
        self.ledger = Ledger(state / "releases.json")

    def new_id(self) -> str:
        """Return the id of a release that begins now, which no release and no dump on this host has yet."""
        taken = {entry.id for entry in self.ledger.entries()} | {path.stem for path in self.dumps.glob("*")}
        return self.host.new_id(taken)

    def compose(
        self,
        *arguments: str,
        stdin: str | None = None,
        images: Mapping[str, str] | None = None,
        tool_slot: str | None = None,
        **files: IO[Any],
    ) -> str:
        """Run docker compose.

        Args:
            arguments: the compose command and its arguments.
            stdin: text for the standard input.
            images: images by slot, or by `tool` for a flask command; they override slots.env.
            tool_slot: the slot whose database login and secrets a flask command uses.
            files: open files for standard input or output, as for `shell.run`.
        """
        tool = {"TOOL_SLOT": tool_slot} if tool_slot else {}
        return self.host.run(
            "docker",
            "compose",
            "--project-directory",
            str(self.directory),
            *arguments,
            stdin=stdin,
            env=tool | {f"{name.upper()}_IMAGE": image for name, image in (images or {}).items()},
            **files,
        )

    def slot_images(self) -> dict[str, str]:
        """Return the images by slot in slots.env, from which compose starts slots; another slot may serve."""
        if not self.slots_file.exists():
            return {}
        text = self.slots_file.read_text(errors="replace")
        lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        listed = [slot for slot in lines.get("COMPOSE_PROFILES", "").split(",") if slot]
        keys = ["COMPOSE_PROFILES", *(f"{slot.upper()}_IMAGE" for slot in listed)]
        problems = [f"it has no {key}" for key in keys if key not in lines]
        problems += [f"it lists {slot}, which is no slot" for slot in listed if slot not in SLOTS]
        if problems:
            raise Failure(
                f"{self.slots_file} is broken: {', '.join(problems)}. Remove it and run "
                "site.yml, which writes it again. The release in service keeps running."
            )
        return {slot: lines[f"{slot.upper()}_IMAGE"] for slot in listed}

    def set_slots(self, images: Mapping[str, str]) -> None:
        """Write to slots.env which slots run with which image, for `docker compose up` in the directory."""
        if images:
            lines = [f"{slot.upper()}_IMAGE={image}" for slot, image in images.items()]
            write(self.slots_file, "\n".join([f"COMPOSE_PROFILES={','.join(images)}", *lines]) + "\n")
        else:
            self.slots_file.unlink(missing_ok=True)

    def routed(self) -> str:
        """Return the slot that nginx sends readers to, whether it runs or not."""
        return "green" if self.green_flag.exists() else "blue"

    def idle(self) -> str:
        """Return the other slot: the private listener uses it; readers get it only as a backup."""
        return next(slot for slot in SLOTS if slot != self.routed())

    def active(self) -> str | None:
        """Return the slot in service, or None before the first release.

        The slot of the flag is in service if its container runs, even if the container is unhealthy.
        Otherwise the flag was lost, and the other slot is in service if its container runs. If no container
        runs, return a slot with a stopped container, or else a slot in slots.env.
        """
        states = self.slot_states()
        up = [slot for slot in states if states[slot] in ("running", "unhealthy")]
        there = up or list(states) or list(self.slot_images())
        return self.routed() if self.routed() in there else next(iter(there), None)

    def slot_states(self) -> dict[str, str]:
        """Return the state of each slot's container by slot: "running", "unhealthy", "exited" and so on."""
        told = '{{.Label "com.docker.compose.service"}} {{.State}} {{.Status}}'
        lines = self.host.run("docker", "ps", "--all", PROJECT, f"--format={told}").splitlines()
        states = {}
        for service, state, status in (line.split(" ", 2) for line in lines):
            states[service] = "unhealthy" if "(unhealthy)" in status else state
        return {slot: states[f"flask_blog_{slot}"] for slot in SLOTS if f"flask_blog_{slot}" in states}

    def isolation_flag(self, slot: str) -> Path:
        """Return the flag that keeps nginx from using slot as a backup, until `switch` removes the flag."""
        return self.green_flag.with_name(f"isolated-{slot}")

    def isolate(self, slot: str) -> None:
        """Keep readers from slot, also if the other slot is down, until `switch` sends them to slot."""
        self.isolation_flag(slot).touch()
        sync(self.green_flag.parent)

    def switch(self, slot: str) -> None:
        """Send new requests to slot. nginx checks the flag for each request, so this closes no connection."""
        self.isolation_flag(slot).unlink(missing_ok=True)
        if slot == "green":
            self.green_flag.touch()
        else:
            self.green_flag.unlink(missing_ok=True)
        sync(self.green_flag.parent)

    def container(self, slot: str) -> Inspected | None:
        """Return the `docker inspect` output of the slot's container, or None."""
        return next(iter(inspect(self.host, *of_service(self.host, f"flask_blog_{slot}")[:1])), None)

    def wanted_hash(self, slot: str, image: str, text: str | None = None) -> str:
        """Return compose's hash of the slot's definition with image, as in the label of its container.

        text: used instead of the content of compose.yml.
        """
        service, file = f"flask_blog_{slot}", ("--file", "-") if text else ()
        output = self.compose(
            *file, "--profile", slot, "config", "--hash", service, images={slot: image}, stdin=text
        )
        return output.split()[-1]

    def image(self, slot: str) -> str | None:
        """Return the image id of the slot's container; without a container, the image in slots.env."""
        container = self.container(slot)
        return container["Image"] if container else self.slot_images().get(slot)

    def serving(self) -> dict[str, str]:
        """Return the image of the slot in service, by slot; empty before the first release."""
        active = self.active()
        image = self.image(active) if active else None
        return {active: image} if active and image else {}

    def running(self, slot: str) -> str | None:
        """Return the id of the image that the slot's container runs, or None."""
        container = self.container(slot)
        return container["Image"] if container and container["State"]["Status"] == "running" else None

    def serves(self, slot: str, image: str, text: str | None = None) -> bool:
        """Tell whether slot runs image with the present configuration and secrets, and answers `/healthz`.

        text: used instead of the content of compose.yml.

        Do not use the engine's health status: for some seconds after its restart, no container is healthy.
        """
        if any(self.slot_secret(slot, name) != self.secret(name) for name in SLOT_SECRETS):
            return False
        container = self.container(slot)
        if not container or container["Image"] != image:
            return False
        if config_hash(container) != self.wanted_hash(slot, image, text):
            return False
        return self.host.get(f"{self.config['slots'][slot]}:8000", "/healthz", self.config["host"])[0] == 200

    def remove(self, slot: str, at_once: bool = False) -> None:
        """Remove the slot's container and secrets; unless at_once is set, let its requests finish first."""
        if at_once:
            self.compose("--profile", slot, "stop", "--timeout", "0", f"flask_blog_{slot}")
        self.compose("--profile", slot, "rm", "--stop", "--force", f"flask_blog_{slot}")
        if (self.in_service / slot).exists():
            shutil.rmtree(self.in_service / slot)
        self.isolation_flag(slot).unlink(missing_ok=True)

    def flask(
        self,
        image: str,
        *arguments: str,
        slot: str | None = None,
        service: str = "flask",
        options: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Run a flask command once in a container of image and return the object that it prints last.

        The command reads the secrets of slot, by default those of the slot in service.
        """
        command = ("run", "--rm", "--no-deps", "-T", *options, service, "flask", *arguments)
        output = self.compose(*command, images={"tool": image}, tool_slot=slot or self.active())
        try:
            answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            words = " ".join(arguments[:2])
            raise Failure(
                f"`flask {words}` printed no JSON object in its last line:\n{last_lines(output)}"
            ) from None
        return answer

    def query(self, statement: str) -> str:
        """Run one SQL statement as the superuser, and return the result."""
        return self.compose("exec", "-T", "db", *PSQL, f"--command={statement}").strip()

    def secret_file(self, name: str) -> Path:
        """Return the path of a secret's file."""
        return Path(self.config["secrets"]) / name

    def secret(self, name: str) -> str:
        """Return the content of a secret's file, which is the wanted value.

        Raises:
            Failure: the file is missing, empty or damaged.
        """
        path = self.secret_file(name)
        if not path.exists():
            raise Failure(
                f"The secret {path} is missing: run site.yml, which creates missing secrets and puts them "
                "into service. The release in service keeps its own copies."
            )
        value = path.read_bytes().strip()
        if not SECRET_FORM.fullmatch(value):
            raise Failure(
                f"{path} is empty or damaged and contains no valid secret. Remove it, or set its value in "
                "secrets_vault; then run site.yml, which creates missing secrets and puts them into service."
            )
        return value.decode()

    def slot_secret(self, slot: str, name: str) -> str | None:
        """Return the slot's own copy of a secret, or None if it has none or the copy is damaged."""
        return read_secret(self.in_service / slot / name)
