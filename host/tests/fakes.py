"""Fakes of the host for these tests."""

import json
import re
from pathlib import Path

from slipway.database import scram_verifier
from slipway.host import Host
from slipway.ledger import Release

SECRETS = [
    "db_superuser_password",
    "db_migrator_password",
    "db_app_password",
    "app_secret_key",
    "admin_password",
]
OLD, NEW, THIRD = (f"sha256:{digit * 64}" for digit in "012")


class Killed(BaseException):
    """An exception that ends the program like a kill: no error handling runs."""


class Engine(Host):
    """A host with a fake engine: containers by slot, the events so far, and the errors to raise.

    `wrong` maps a stage of a release to the exception of its command, or to the status of its page.
    """

    def __init__(self, stack):
        super().__init__(stack.host.settings)
        self.stack = stack
        self.images, self.events, self.wrong = {}, [], {}
        # The states of containers by slot, if not "running".
        self.states = {}
        # psql's output: roles before and after roles.sql and the number of ended sessions; stored verifiers.
        self.roles, self.verifiers = "same\nsame\n0\n", "postgres|\n"
        # The psql variables of each run of roles.sql, and how each transaction ended.
        self.variables, self.endings = [], []
        # The slots whose secrets the blog's commands read.
        self.readers = set()
        self.plan = {"pending": [], "current": "0001", "head": "0001", "destructive": [], "blocked_by": None}
        self.migrate_output = 'a log line\n{"changed": true, "applied": ["0002"], "head": "0002"}\n'
        self.starting = []  # errors of a database that is still starting
        self.space, self.full = 10**12, None
        self.unit = "active"  # the state of every unit, such as that of `slipway heal`
        # A function that replaces the blog's own import and export.
        self.blog = None
        self.adopt_output = '{"changed": false, "adopted": 0, "missing": [], "damaged": []}\n'
        self.static, self.stored, self.labels = ["style.1.css"], {OLD, NEW}, {}

    def run(self, *command, stdin=None, env=None, source=None, into=None):
        """Answer a command as docker would."""
        words = " ".join(command)
        assert not re.search("value of|created by site", f"{words} {stdin} {env}"), "a command has a secret"
        slot = (re.findall("flask_blog_(blue|green)", words) or [None])[-1]
        self.readers |= {env["TOOL_SLOT"]} if "TOOL_SLOT" in (env or {}) else set()
        if command[:2] == ("docker", "compose"):
            self.stack.slot_images()  # compose reads slots.env too, and fails if it is broken
        if command[:2] == ("docker", "version"):
            return "26.1\n"
        if command[:3] == ("docker", "ps", "--all") and "--format" in words:
            states = {one: self.states.get(one, "running") for one in self.images}
            told = {"unhealthy": "running Up 2 minutes (unhealthy)", "running": "running Up 2 minutes"}
            lines = [f"flask_blog_{one} {told.get(state, f'{state} ')}\n" for one, state in states.items()]
            return "".join([*lines, "nginx running Up 2 minutes (healthy)\n"])
        if " ps " in words:
            return "id-db\n" if words.endswith(" db") else f"id-{slot}\n" if slot in self.images else ""
        if words.endswith(" inspect id-db"):
            created = {"Id": "id-db", "Name": "/slipway-db-1", "Created": "2026-01-01T00:00:00Z"}
            return json.dumps([created | {"State": {"Status": "exited"}}])
        if " inspect id-" in words:
            return json.dumps([self.inspect(command[-1].removeprefix("id-"))])
        if " config --hash " in words:
            return (
                f"flask_blog_{slot} hash-of-{env[f'{slot.upper()}_IMAGE']}{' in ' + stdin if stdin else ''}\n"
            )
        if " stop --timeout 0 " in words:
            self.events.append(f"kill {slot}")
        elif " rm --stop " in words:
            self.events.append(f"remove {slot} while {self.stack.routed()} serves")
            self.images.pop(slot, None)
        elif "image inspect" in words:
            self.happen("image")
            label = self.labels.get(command[-1], "slipway/flask_blog:of-a-test")
            return json.dumps([{"Config": {"Labels": {"slipway.image": label}}}])
        elif " image ls " in words:
            return "\n".join(self.stored)
        elif " image rm " in words:
            self.stored.remove(command[-1])
        elif words.endswith(" nginx -t -q"):
            self.happen("nginx")
        elif "--file=-" in command:
            if "roles" in self.wrong:
                raise self.wrong["roles"]
            self.variables.append(dict(re.findall(r"^\\set (\w+) '(.*)'$", stdin, re.MULTILINE)))
            self.endings.append(re.search("=(COMMIT|ROLLBACK)", words)[1])
            return self.roles
        elif "pg_database_size" in words:
            return "1000000\n"
        elif " psql " in words:
            return self.verifiers
        elif " pg_dump " in words:
            self.happen("dump")
            into.write(b"a dump")
        elif words.endswith(" up --detach --no-recreate --wait --wait-timeout 120 db"):
            self.happen("database")
        elif " pg_isready " in words:
            if self.starting:
                raise self.starting.pop()
        elif words.endswith(" flask_migrate flask migrate --check"):
            self.happen("schema")
            return json.dumps(self.plan)
        elif words.endswith(" flask_migrate flask migrate"):
            self.happen("migrate")
            return self.migrate_output
        elif " flask user ensure-admin " in words:
            self.happen("admin")
            return '{"changed": false}\n'
        elif " flask user set-password " in words:
            self.events.append(f"set-password while {self.stack.routed()} serves")
            return '{"changed": true}\n'
        elif words.endswith(" flask flask media adopt"):
            self.happen("pictures")
            return self.adopt_output
        elif " flask flask import " in words or " flask flask export " in words:
            return json.dumps(self.blog(*command))
        elif " up --detach --no-recreate flask_blog_" in words:
            self.happen("start")
            self.images[slot] = self.stack.slot_images()[slot]
            self.states.pop(slot, None)
        elif command[:2] == ("docker", "info"):
            return "/var/lib/docker\n"
        elif command[:2] == ("docker", "cp"):
            for name in self.static:
                (Path(command[-1]) / name).write_text(name)
        else:
            assert command[:2] == ("docker", "events"), f"unexpected command: {words}"
        return ""

    def get(self, address, path, host, timeout=5, tls=False, cookie=""):
        """Answer a request as the slot, nginx's private listener or the public port would."""
        probes = {"/healthz": "health", "/readyz": "ready"}
        if path in probes:
            stage = probes[path]
        else:
            stage = "smoke" if address == self.stack.config["preview"] else "switch"
            self.events.append(f"{path} at {address} while {self.stack.routed()} serves")
        answer = self.wrong.get(stage, 200)
        if isinstance(answer, BaseException):
            raise answer
        return answer, "a page" if answer == 200 else ""

    def output(self, *command):
        """Return the log of a container, or the state of a unit."""
        if command[:2] == ("systemctl", "is-active"):
            return f"{self.unit}\n"
        assert command[:2] == ("docker", "logs")
        service = command[-1].removeprefix("id-")
        self.events.append(f"log of {service} while {self.stack.routed()} serves")
        if "log" in self.wrong:
            raise self.wrong["log"]
        return f"of {service}\n"

    def is_root(self):
        """Return True, because any user may run the tests."""
        return True

    def free(self, path):
        """Return the free space that the test sets; a full directory has none."""
        return 0 if path == self.full else self.space

    def inspect(self, slot):
        """Return the `docker inspect` output of a slot's container."""
        image = self.images[slot]
        return {
            "Id": f"id-{slot}",
            "Name": f"/slipway-flask_blog_{slot}-1",
            "Created": "2026-01-01T00:00:00Z",
            "Image": image,
            "RestartCount": 0,
            "State": {"Status": self.states.get(slot, "running")},
            "Config": {"Labels": {"com.docker.compose.config-hash": f"hash-of-{image}"}},
        }

    def happen(self, stage):
        """Record that a stage's command ran, and raise its error from `wrong`, if any."""
        self.events.append(stage)
        if stage in self.wrong:
            raise self.wrong[stage]


def fits(verifier, password):
    """Tell whether a verifier, or the one in a role's options, matches the password."""
    verifier = verifier.removeprefix("LOGIN PASSWORD ''").removesuffix("''")
    return scram_verifier(password, verifier) == verifier


def make_entry(**values):
    """Return an entry of the ledger, with these values instead of the usual ones."""
    usual = {"id": "1", "image": NEW, "version": "", "revision": "", "slot": "green", "by": "anna"}
    return Release(**usual | {"at": "2026-01-01T00:00:00Z", "outcome": "in service"} | values)


def former_keys(stack):
    return stack.slot_secret(stack.active(), "app_secret_key_fallbacks")


def damage_ledger(stack, engine):
    """Damage the ledger as a full disk or an edit does.

    Returns:
        A function that returns three sets: the names of dumps and manifests, of static files, and of images.
    """
    stack.dumps.mkdir(exist_ok=True)
    for entry in stack.ledger.entries():
        (stack.dumps / f"{entry.id}.dump").write_text("a dump")
    stack.ledger.path.write_text("[{")
    return lambda: (
        {path.name for place in (stack.dumps, stack.manifests) for path in place.iterdir()},
        {path.name for path in stack.static.iterdir()},
        set(engine.stored),
    )
