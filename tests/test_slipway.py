"""The host program slipway: its parts against real processes and servers, a release against a fake engine."""

import base64
import datetime
import hashlib
import hmac
import http.server
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from project import ROOT, load_program

PROGRAM = ROOT / "roles/release/files/slipway"
SECRETS = [
    "db_superuser_password",
    "db_migrator_password",
    "db_app_password",
    "app_secret_key",
    "admin_password",
]
OLD, NEW, THIRD = (f"sha256:{digit * 64}" for digit in "012")


@pytest.fixture
def slipway(monkeypatch, tmp_path):
    """The program as a module, with its lock in tmp_path."""
    module = load_program(PROGRAM)
    monkeypatch.setattr(module, "RUNTIME", tmp_path / "run")
    if os.geteuid() != 0:  # who can give a file to no one else
        monkeypatch.setattr(module.os, "chown", lambda *arguments, **named: None)
        monkeypatch.setattr(module.os, "fchown", lambda *arguments: None)
    return module


@pytest.fixture
def stack(slipway, tmp_path):
    """A host on which nothing was released yet."""
    for directory in ("etc", "state/slot", "state/www/static", "secrets"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/roles.sql").write_text("ALTER ROLE blog_app_blue :blog_app_blue;\n")
    for name in SECRETS:
        (tmp_path / "secrets" / name).write_text(f"value of {name}")
    return slipway.Stack(
        {
            "directory": str(tmp_path / "etc"),
            "state": str(tmp_path / "state"),
            "secrets": str(tmp_path / "secrets"),
            "in_service": str(tmp_path / "in-service"),
            "host": "blog.example.org",
            "public": "127.0.0.1:80",
            "tls": False,
            "preview": "10.0.0.10:8081",
            "slots": {"blue": "10.0.0.11", "green": "10.0.0.12"},
            "static": "/app/static-export",
            "admin_email": "anna@example.org",
            "session_cookie": "session",
            "smoke_paths": ["/", "/feed.xml"],
            "ready_timeout": 0.5,
            "drain_seconds": 0,
            "keep": 5,
            "hooks": {},
            "hook_timeout": 5,
            "webhook_url": "",
        }
    )


# --- The database's passwords -------------------------------------------------------------------------------

# RFC 7677, section 3: the password "pencil", and an exchange that proves it.
SALT, CLIENT_PROOF = "W22ZaJ0SNY7soEsUEjb6gQ==", "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_SIGNATURE = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
NONCE = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
AUTH_MESSAGE = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={NONCE},s={SALT},i=4096,c=biws,r={NONCE}".encode()


def test_verifier_holds_in_the_exchange_of_the_rfc(slipway):
    verifier = slipway.scram_verifier("pencil", f"SCRAM-SHA-256$4096:{SALT}$of:another")
    head, keys = verifier.rsplit("$", 1)
    stored_key, server_key = map(base64.b64decode, keys.split(":"))
    assert head == f"SCRAM-SHA-256$4096:{SALT}"
    assert base64.b64encode(hmac.digest(server_key, AUTH_MESSAGE, "sha256")).decode() == SERVER_SIGNATURE
    mask = hmac.digest(stored_key, AUTH_MESSAGE, "sha256")
    client_key = bytes(a ^ b for a, b in zip(base64.b64decode(CLIENT_PROOF), mask, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key


def test_verifier_of_the_same_password_is_kept(slipway):
    verifier = slipway.scram_verifier("correct horse")
    assert slipway.scram_verifier("correct horse", verifier) == verifier
    assert slipway.scram_verifier("battery staple", verifier) != verifier


@pytest.mark.parametrize("existing", [None, "", "md5a3556571e93b0d20722ba62be61e8c2d"])
def test_verifier_without_a_fit_one_gets_a_salt_of_its_own(slipway, existing):
    first, second = (slipway.scram_verifier("pencil", existing) for _ in range(2))
    assert re.fullmatch(r"SCRAM-SHA-256\$4096:[\w+/]{22}==\$[\w+/]{43}=:[\w+/]{43}=", first)
    assert first != second


# --- The host -----------------------------------------------------------------------------------------------


def test_command_sees_nothing_of_the_environment_but_what_it_is_given(slipway, monkeypatch):
    monkeypatch.setenv("BLUE_IMAGE", "of the caller")
    output = slipway.run("env", env={"GREEN_IMAGE": NEW})
    assert {line.split("=")[0] for line in output.splitlines()} == {"PATH", "HOME", "GREEN_IMAGE"}


def test_command_that_fails_ends_with_its_last_lines(slipway):
    with pytest.raises(slipway.CommandFailure, match=r"`sh -c .* failed \(3\)") as failure:
        slipway.run("sh", "-c", "seq 100 >&2; exit 3")
    lines = str(failure.value).splitlines()
    assert lines[1:] == [f"    {number}" for number in range(86, 101)]
    assert failure.value.output.startswith("1\n2\n")


# --- State --------------------------------------------------------------------------------------------------


def test_write_whole_replaces_in_one_step(slipway, tmp_path):
    path = tmp_path / "state"
    slipway.write_whole(path, "old")
    with path.open() as reader:
        slipway.write_whole(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_write_whole_that_fails_leaves_the_old_content(slipway, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("No space left on device")

    path = tmp_path / "state"
    slipway.write_whole(path, "old")
    monkeypatch.setattr(slipway.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        slipway.write_whole(path, "new")
    assert path.read_text() == "old"


def test_ledger_knows_the_release_in_service(stack):
    assert (stack.ledger.entries(), stack.ledger.current()) == ([], None)
    outcomes = ["in service", "in service", "failed"]
    entries = [{"id": number, "outcome": outcome} for number, outcome in enumerate(outcomes)]
    for entry in entries:
        stack.ledger.put(entry)
    assert stack.ledger.entries() == entries
    assert stack.ledger.current() == entries[1]


@pytest.mark.parametrize("images", [{"blue": OLD}, {"green": NEW}, {"blue": OLD, "green": NEW}])
def test_slots_are_read_as_they_were_set(stack, images):
    stack.set_slots(images)
    assert stack.slot_images() == images
    # What compose reads: it starts these profiles and no other.
    assert f"COMPOSE_PROFILES={','.join(images)}\n" in stack.slots_file.read_text()
    stack.set_slots({})
    assert stack.slot_images() == {}


def test_switch_routes_to_one_slot_and_shows_the_other_to_the_gate(stack):
    assert (stack.routed(), stack.idle()) == ("blue", "green")
    for slot, other in (("green", "blue"), ("green", "blue"), ("blue", "green"), ("blue", "green")):
        stack.switch(slot)
        assert (stack.routed(), stack.idle()) == (slot, other)


@pytest.mark.parametrize("declared", [{}, {"blue": OLD}, {"green": OLD}, {"blue": OLD, "green": NEW}])
@pytest.mark.parametrize(
    ("flag", "states", "active"),
    [
        ("blue", {"blue": "running"}, "blue"),
        ("green", {"green": "running"}, "green"),
        # The flag was lost, or is left.
        ("blue", {"green": "running"}, "green"),
        ("green", {"blue": "running"}, "blue"),
        ("blue", {"blue": "exited", "green": "running"}, "green"),
        # A drain was cut short.
        ("blue", {"blue": "running", "green": "running"}, "blue"),
        ("green", {"blue": "running", "green": "running"}, "green"),
        ("blue", {"blue": "unhealthy", "green": "running"}, "blue"),
        ("blue", {"blue": "unhealthy"}, "blue"),
        ("blue", {"blue": "exited", "green": "unhealthy"}, "green"),
        # They were stopped by hand.
        ("green", {"green": "exited"}, "green"),
        ("blue", {"green": "exited"}, "green"),
        ("green", {"blue": "exited", "green": "exited"}, "green"),
    ],
)
def test_what_serves_is_told_by_the_flag_and_the_containers(stack, engine, flag, states, active, declared):
    engine.images, engine.states = dict.fromkeys(states, OLD), states
    stack.set_slots(declared)
    stack.switch(flag)
    assert stack.active() == active


def test_nothing_serves_before_the_first_release(slipway, stack, engine):
    engine.images.clear()
    stack.set_slots({})
    assert stack.active() is None
    assert slipway.drift(stack, None) == []


# --- The lock -----------------------------------------------------------------------------------------------


@pytest.fixture
def holder(slipway):
    """Another process, which holds the lock until it is told to go on or is killed."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def hold():
        with slipway.lock("anna, since noon"):
            theirs.send("held")
            theirs.recv()

    process = context.Process(target=hold)
    process.start()
    assert ours.recv() == "held"
    yield types.SimpleNamespace(process=process, release=lambda: ours.send("go on"))
    process.kill()
    process.join()


def test_lock_names_who_has_it(slipway, holder):
    with pytest.raises(slipway.Failure, match="under way: anna, since noon"), slipway.lock("bert"):
        pass
    holder.release()
    holder.process.join(5)
    with slipway.lock("bert"):
        assert (slipway.RUNTIME / "lock").read_text() == "bert"


def test_lock_of_a_dead_holder_is_free(slipway, holder):
    holder.process.kill()
    holder.process.join()
    with slipway.lock("bert"):
        pass


# --- Readiness ----------------------------------------------------------------------------------------------


@pytest.fixture
def blue(slipway, monkeypatch):
    """The blue slot as a real HTTP server: it answers with `statuses` in turn, and stays at the last."""
    state = types.SimpleNamespace(statuses=[200], requests=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests.append((self.path, self.headers["Host"]))
            status = state.statuses.pop(0) if len(state.statuses) > 1 else state.statuses[0]
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    real = slipway.get
    there = {"10.0.0.11:8000": f"127.0.0.1:{server.server_port}"}
    monkeypatch.setattr(slipway, "get", lambda address, *rest, **named: real(there[address], *rest, **named))
    monkeypatch.setattr(slipway.Stack, "container", lambda stack, slot: state.container)
    created = {"Id": "id-blue", "Created": "2026-01-01T00:00:00Z"}
    state.container = created | {"State": {"Status": "running"}, "RestartCount": 0}
    state.stop = lambda: (server.shutdown(), server.server_close())
    yield state
    state.stop()
    thread.join()


def test_ready_at_once(slipway, stack, blue):
    slipway.wait_until_ready(stack, "blue")
    assert blue.requests == [("/readyz", "blog.example.org")]


def test_ready_after_a_while(slipway, stack, blue):
    blue.statuses = [503, 503, 200]
    slipway.wait_until_ready(stack, "blue")
    assert len(blue.requests) == 3


def test_never_ready_says_what_it_answered_and_what_to_raise(slipway, stack, blue):
    blue.statuses = [503]
    with pytest.raises(slipway.Failure, match=r"within 0\.5 s: /readyz answered 503.*release_ready_timeout"):
        slipway.wait_until_ready(stack, "blue")


def test_never_there_says_so(slipway, stack, blue):
    blue.stop()
    with pytest.raises(slipway.Failure, match=r"did not answer \(.*refused\).*release_ready_timeout"):
        slipway.wait_until_ready(stack, "blue")


@pytest.mark.parametrize("change", [None, {"State": {"Status": "exited"}}, {"RestartCount": 1}])
@pytest.mark.parametrize("memory", ["", '{"name": "slipway-flask_blog_blue-1"}\n'])
def test_a_container_that_stopped_is_not_waited_for(slipway, stack, blue, monkeypatch, change, memory):
    stack.config["ready_timeout"] = 60
    blue.statuses, blue.container = [503], change and blue.container | change
    monkeypatch.setattr(slipway, "run", lambda *command: memory)
    with pytest.raises(slipway.Failure, match="stopped instead of becoming ready") as failure:
        slipway.wait_until_ready(stack, "blue")
    assert ("stack_flask_blog_memory_mb" in str(failure.value)) == bool(memory and change)
    assert len(blue.requests) == 1


def test_one_that_says_no_is_asked_why_once(slipway, stack, blue):
    blue.statuses, asked = [503, 503, 200], []
    slipway.wait_until_ready(stack, "blue", lambda: asked.append(len(blue.requests)))
    assert asked == [1]


# --- A release ----------------------------------------------------------------------------------------------


class Engine:
    """Stands in for `run`, `get` and what reads logs: containers by slot, what happened, what is to go wrong.

    `wrong` maps a stage of a release to the exception of its command, or to the status of its page.
    """

    def __init__(self, stack):
        self.stack = stack
        self.images, self.events, self.wrong = {}, [], {}
        # Of containers by slot, where it is not "running".
        self.states = {}
        # Roles before and after roles.sql and the sessions that ended; verifiers before it.
        self.roles, self.verifiers = "same\nsame\n0\n", "postgres|\n"
        # The psql variables of each time that roles.sql ran, and how its transactions ended.
        self.variables, self.endings = [], []
        # The slots whose secrets commands of the blog read.
        self.readers = set()
        self.plan = {"pending": [], "current": "0001", "head": "0001", "destructive": [], "blocked_by": None}
        self.migrate_output = 'a log line\n{"changed": true, "applied": ["0002"], "head": "0002"}\n'
        self.starting = []  # what a database says that is not there yet
        self.static, self.stored, self.labels = ["style.1.css"], {OLD, NEW}, {}

    def run(self, *command, stdin=None, env=None, source=None, into=None):
        """Answer a command as docker would."""
        words = " ".join(command)
        assert not re.search("value of|made anew", f"{words} {stdin} {env}"), "a secret is shown"
        slot = (re.findall("flask_blog_(blue|green)", words) or [None])[-1]
        self.readers |= {env["TOOL_SLOT"]} if "TOOL_SLOT" in (env or {}) else set()
        if command[:2] == ("docker", "compose"):
            self.stack.slot_images()  # which compose reads as well, and refuses where it is broken
        if command[:3] == ("docker", "ps", "--all") and "--format" in words:
            states = {one: self.states.get(one, "running") for one in self.images}
            told = {"unhealthy": "running Up 2 minutes (unhealthy)", "running": "running Up 2 minutes"}
            lines = [f"flask_blog_{one} {told.get(state, f'{state} ')}\n" for one, state in states.items()]
            return "".join([*lines, "nginx running Up 2 minutes (healthy)\n"])
        if " ps " in words:
            return "id-db\n" if words.endswith(" db") else f"id-{slot}\n" if slot in self.images else ""
        if words.endswith(" inspect id-db"):
            return json.dumps([{"Name": "/slipway-db-1"}])
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
        elif words.endswith(" up --detach --wait --wait-timeout 120 db"):
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
        elif " up --detach flask_blog_" in words:
            self.happen("start")
            self.images[slot] = self.stack.slot_images()[slot]
            self.states.pop(slot, None)
        elif command[:2] == ("docker", "cp"):
            for name in self.static:
                (Path(command[-1]) / name).write_text(name)
        else:
            assert command[:2] == ("docker", "events"), f"the engine does not know: {words}"
        return ""

    def get(self, address, path, host, timeout=5, tls=False, cookie=""):
        """Answer a request as the slot, the gate or the public port would."""
        probes = {"/healthz": "health", "/readyz": "ready"}
        if path in probes:
            stage = probes[path]
        else:
            stage = "smoke" if address == self.stack.config["preview"] else "switch"
            self.events.append(f"{path} at {address} while {self.stack.routed()} serves")
        return (self.wrong[stage], "") if stage in self.wrong else (200, "a page")

    def slot_log(self, stack, slot):
        """Return the log of a slot's container."""
        self.events.append(f"log of {slot} while {self.stack.routed()} serves")
        return f"Its last lines:\n    of {slot}\n"

    def inspect(self, slot):
        """Return what docker knows of a slot's container."""
        image = self.images[slot]
        return {
            "Id": f"id-{slot}",
            "Created": "2026-01-01T00:00:00Z",
            "Image": image,
            "RestartCount": 0,
            "State": {"Status": self.states.get(slot, "running")},
            "Config": {"Labels": {"com.docker.compose.config-hash": f"hash-of-{image}"}},
        }

    def happen(self, stage):
        """Note that a stage's command ran, and let it fail where it is to go wrong."""
        self.events.append(stage)
        if stage in self.wrong:
            raise self.wrong[stage]


@pytest.fixture
def engine(slipway, stack, monkeypatch):
    """A fake engine, on which the blue slot serves the old release."""
    engine = Engine(stack)
    monkeypatch.setattr(slipway, "run", engine.run)
    monkeypatch.setattr(slipway, "get", engine.get)
    monkeypatch.setattr(slipway, "slot_log", engine.slot_log)
    monkeypatch.setattr(slipway, "last_words", lambda container: f"last words of {container['Name']}")
    engine.images["blue"] = OLD
    slipway.give_secrets(stack, "blue")
    slipway.set_admin_password(stack, OLD)
    stack.set_slots({"blue": OLD})
    return engine


def test_release_goes_through_its_stages_in_order(slipway, stack, engine, capsys):
    entry = slipway.release(stack, NEW, "1.2", "abc123", "anna")
    assert engine.events == [
        "image",
        "nginx",
        "remove green while blue serves",
        "database",
        "schema",
        "start",
        "admin",
        "/ at 10.0.0.10:8081 while blue serves",
        "/feed.xml at 10.0.0.10:8081 while blue serves",
        "/ at 127.0.0.1:80 while green serves",
        "remove blue while green serves",
    ]
    assert engine.images == stack.slot_images() == {"green": NEW}
    assert stack.active() == "green"

    stages = ["check", "database", "schema", "start", "admin", "ready", "smoke", "switch", "drain", "tidy"]
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [stage for stage in stages for _ in ("begins", "ends")]
    assert re.fullmatch(r"switched after \d\.\d\d s, \d\.\d\d s in all", total)
    [recorded] = stack.ledger.entries()
    assert recorded == entry
    assert list(entry.pop("stages")) == stages
    assert re.fullmatch(r"\d{8}T\d{6}Z", entry.pop("id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.pop("at"))
    assert 0 <= entry.pop("switched") < 5
    assert entry == {
        "image": NEW,
        "version": "1.2",
        "revision": "abc123",
        "slot": "green",
        "by": "anna",
        "schema": "0001",
        "config": f"hash-of-{NEW}",
        "secrets": ["db_superuser_password", "db_migrator_password"],
        "outcome": "in service",
    }


def test_migration_runs_after_a_dump(slipway, stack, engine):
    engine.plan |= {"pending": ["0002"], "head": "0002"}
    entry = slipway.release(stack, NEW, "", "", "anna")
    assert engine.events[3:7] == ["database", "schema", "dump", "migrate"]
    assert (entry["schema"], entry["applied"]) == ("0002", ["0002"])
    dump = stack.dumps / f"{entry['id']}.dump"
    assert (dump.read_text(), dump.stat().st_mode & 0o777) == ("a dump", 0o600)


def test_first_migration_has_nothing_to_dump(slipway, stack, engine):
    engine.plan |= {"pending": ["0001"], "current": None}
    slipway.release(stack, NEW, "", "", "anna")
    assert "dump" not in engine.events and "migrate" in engine.events


def test_dump_that_the_disk_has_no_room_for_is_not_begun(slipway, stack, engine, monkeypatch):
    engine.plan |= {"pending": ["0002"]}
    usage = types.SimpleNamespace(free=slipway.SPARE_DISK + 10**6 - 1)
    monkeypatch.setattr(slipway.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(slipway.Failure, match=r"dump before the migration may take 1 MB.*has 68 MB free"):
        slipway.release(stack, NEW, "", "", "anna")
    assert not {"dump", "migrate"} & set(engine.events)


def test_destructive_migration_is_refused_until_it_is_named(slipway, stack, engine):
    engine.plan |= {"pending": ["0002", "0003"], "destructive": ["0003"]}
    for allow in ([], ["0002"]):
        with pytest.raises(slipway.Failure, match=r"0003 is destructive.*--allow-destructive 0003"):
            slipway.release(stack, NEW, "", "", "anna", allow=allow)
    assert not {"dump", "migrate", "start"} & set(engine.events)
    assert slipway.release(stack, NEW, "", "", "anna", allow=["0003"])["applied"] == ["0002", "0003"]


def test_old_slot_that_would_not_go_is_removed_by_the_next_run(slipway, stack, engine, monkeypatch):
    remove = stack.remove

    def stuck(slot):
        if slot == "blue":
            raise slipway.Failure("the container does not stop")
        remove(slot)

    monkeypatch.setattr(stack, "remove", stuck)
    with pytest.raises(slipway.Failure, match="does not stop"):
        slipway.release(stack, NEW, "", "", "anna")
    assert stack.active() == "green" and stack.ledger.current()["image"] == NEW

    monkeypatch.setattr(stack, "remove", remove)
    assert slipway.put_into_service(stack, NEW, "", "", "anna") == (True, None)
    assert engine.images == stack.slot_images() == {"green": NEW}


def test_next_release_takes_the_slot_that_became_idle(slipway, stack, engine):
    slipway.release(stack, NEW, "", "", "anna")
    assert slipway.release(stack, OLD, "", "", "anna")["slot"] == "blue"
    assert engine.images == stack.slot_images() == {"blue": OLD}
    assert stack.active() == "blue"


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("image", "No such image"),
        ("nginx", "unexpected end of file"),
        ("database", "db is unhealthy"),
        ("schema", "could not connect"),
        ("dump", "pg_dump: error"),
        ("migrate", "relation exists"),
        ("start", "No space left on device"),
        ("admin", "the database refused"),
        ("ready", 503),
        ("smoke", 500),
        ("switch", 502),
    ],
)
def test_release_that_fails_leaves_the_old_one_serving(slipway, stack, engine, stage, reason):
    engine.wrong[stage] = reason if isinstance(reason, int) else slipway.CommandFailure(["docker"], 1, reason)
    engine.plan |= {"pending": ["0002"]} if stage in ("dump", "migrate") else {}
    with pytest.raises(slipway.Failure) as failure:
        slipway.release(stack, NEW, "1.2", "abc123", "anna")
    message = str(failure.value)
    assert str(reason) in message
    assert "Its last lines:\n    of green\n" in message
    assert "The new slot was removed. The blue slot serves as before." in message
    assert ("The dump from before is" in message) == (stage == "migrate")

    kill = [] if stage == "switch" else ["kill green"]
    last = ["log of green while blue serves", *kill, "remove green while blue serves"]
    assert engine.events[-len(last) :] == last
    assert ("kill green" in engine.events) == bool(kill), "what had readers finishes their requests"
    assert engine.images == stack.slot_images() == {"blue": OLD}
    assert stack.active() == "blue"
    [entry] = stack.ledger.entries()
    assert (entry["image"], entry["slot"], entry["outcome"]) == (NEW, "green", "failed")
    assert entry["reason"] == message.partition("\nIts last lines")[0]


def test_database_that_does_not_start_says_why(slipway, stack, engine):
    engine.wrong["database"] = slipway.CommandFailure(["docker"], 1, "container slipway-db-1 exited (1)")
    with pytest.raises(slipway.Failure) as failure:
        slipway.release(stack, NEW, "1.2", "abc123", "anna")
    assert "container slipway-db-1 exited (1)\nlast words of /slipway-db-1\n" in str(failure.value)
    assert "The blue slot serves as before." in str(failure.value)


def test_database_that_the_engine_takes_for_healthy_too_early_is_waited_for(slipway, stack, engine):
    engine.starting = [slipway.CommandFailure(["docker"], 2, "no response") for _ in range(3)]
    entry = slipway.release(stack, NEW, "2.0", "abc", "anna")
    assert entry["outcome"] == "in service"
    assert engine.starting == []


def test_last_words_are_how_a_container_is_and_what_it_wrote(slipway, tmp_path, monkeypatch):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$*" = "logs --tail 15 id" ] && echo first && echo last >&2\n')
    monkeypatch.setattr(slipway, "events", lambda container, kind: [{"exitCode": "1"}, {"exitCode": "3"}])
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    container = {"Id": "id", "Name": "/slipway-db-1", "State": {"Status": "restarting"}}
    assert slipway.last_words(container) == (
        "The container slipway-db-1 is restarting (exit code 3). Its last lines:\n    first\n    last"
    )


def test_release_that_meets_a_full_disk_fails_like_any_other(slipway, stack, engine):
    engine.wrong["start"] = OSError(28, "No space left on device")
    with pytest.raises(slipway.Failure, match="No space left on device"):
        slipway.release(stack, NEW, "", "", "anna")
    assert stack.slot_images() == {"blue": OLD}
    assert stack.ledger.entries()[-1]["outcome"] == "failed"


def test_release_that_fails_with_the_engine_is_put_right_all_the_same(slipway, stack, engine, monkeypatch):
    def gone(stack, slot):
        raise slipway.Failure("Cannot connect to the Docker daemon")

    engine.wrong["switch"] = 502
    monkeypatch.setattr(slipway, "slot_log", gone)
    with pytest.raises(slipway.Failure, match="Docker daemon"):
        slipway.release(stack, NEW, "", "", "anna")
    assert (stack.active(), stack.slot_images()) == ("blue", {"blue": OLD})
    assert "502" in stack.ledger.entries()[-1]["reason"]


def test_first_release_that_fails_leaves_nothing(slipway, stack, engine):
    engine.images.clear()
    stack.set_slots({})
    engine.wrong["switch"] = 502
    with pytest.raises(slipway.Failure, match=r"Nothing was in service before\.$"):
        slipway.release(stack, NEW, "", "", "anna")
    assert (engine.images, stack.slot_images(), stack.active()) == ({}, {}, None)
    assert stack.ledger.current() is None


@pytest.mark.parametrize("output", ["", "Done.\n"])
def test_release_whose_migration_prints_no_object_fails_like_any_other(slipway, stack, engine, output):
    engine.migrate_output, engine.plan["pending"] = output, ["0002"]
    with pytest.raises(slipway.Failure, match="`flask migrate` ended with no JSON object"):
        slipway.release(stack, NEW, "", "", "anna")
    assert stack.active() == "blue"
    assert stack.ledger.entries()[-1]["outcome"] == "failed"


def test_release_of_what_serves_is_nothing_to_do(slipway, stack, engine):
    assert slipway.release(stack, OLD, "1.2", "abc123", "anna") is None
    assert engine.events == []
    assert stack.ledger.entries() == []


@pytest.mark.parametrize(
    "change",
    [
        {"Image": NEW},
        {"Config": {"Labels": {"com.docker.compose.config-hash": "of another configuration"}}},
    ],
    ids=["image", "configuration"],
)
def test_release_replaces_what_serves_in_another_way(slipway, stack, engine, monkeypatch, change):
    found = {"blue": engine.inspect("blue") | change}
    monkeypatch.setattr(engine, "inspect", lambda slot: found.get(slot) or Engine.inspect(engine, slot))
    assert slipway.release(stack, OLD, "", "", "anna")["slot"] == "green"


@pytest.mark.parametrize("answer", [None, 500])
def test_release_replaces_what_does_not_answer(slipway, stack, engine, answer):
    engine.wrong["health"] = answer
    assert slipway.release(stack, OLD, "", "", "anna")["slot"] == "green"


# --- The secrets of a release -------------------------------------------------------------------------------


def fits(slipway, verifier, password):
    """Tell whether a verifier, or a role's options with one, is of the password."""
    verifier = verifier.removeprefix("LOGIN PASSWORD ''").removesuffix("''")
    return slipway.scram_verifier(password, verifier) == verifier


@pytest.fixture
def change(stack):
    """A function that changes the value of a secret's file, as Ansible does when the vault's changed."""
    return lambda name: (stack.directory.parent / "secrets" / name).write_text(f"another value of {name}")


def test_release_gives_the_database_verifiers_and_no_passwords(slipway, stack, engine):
    kept = slipway.scram_verifier("value of db_app_password")
    engine.verifiers = f"postgres|\nblog_app_blue|{kept}\nblog_app|\n"
    slipway.release(stack, NEW, "", "", "anna")
    assert engine.endings == ["COMMIT", "COMMIT"]
    during, after = engine.variables
    assert fits(slipway, during["postgres_verifier"], "value of db_superuser_password")
    assert fits(slipway, during["blog_migrator_verifier"], "value of db_migrator_password")
    assert during["blog_app_blue"] == f"LOGIN PASSWORD ''{kept}''", "what serves is left as it is"
    assert fits(slipway, during["blog_app_green"], "value of db_app_password")
    assert after["blog_app_blue"] == "NOLOGIN PASSWORD NULL"
    assert fits(slipway, after["blog_app_green"], "value of db_app_password")


@pytest.mark.parametrize("left", [b"", b"\n", bytes(40), b"too short", b"two lines\nof it", b"\xff" * 40])
@pytest.mark.parametrize("command", [["release", "--in-unit", OLD], ["rotate", "--in-unit", "key"]])
def test_secret_that_is_damaged_is_named_with_the_way_out_and_not_put_into_service(
    main, stack, engine, capsys, left, command
):
    file = Path(stack.config["secrets"]) / "app_secret_key"
    whole = file.read_text()
    file.write_bytes(left)
    assert main(*command) == 1
    assert f"slipway: {file} is empty or damaged" in capsys.readouterr().err
    assert (engine.images, stack.slot_secret("blue", "app_secret_key")) == ({"blue": OLD}, whole)

    # The way out: site.yml makes another, and releases what serves with it.
    file.write_text("made anew by site.yml")
    assert main("release", "--in-unit", OLD) == 0
    assert (stack.slot_secret("green", "app_secret_key"), former_keys(stack)) == (file.read_text(), whole)


@pytest.mark.parametrize("name", ["db_app_password", "app_secret_key"])
def test_secret_that_changes_is_released_with_the_image_that_serves(slipway, stack, engine, change, name):
    change(name)
    assert stack.slot_secret("blue", name) == f"value of {name}", "what serves keeps its own"
    entry = slipway.release(stack, OLD, "", "", "anna")
    assert (entry["slot"], name in entry["secrets"]) == ("green", True)
    assert stack.slot_secret("green", name) == f"another value of {name}"
    assert not (stack.in_service / "blue").exists()
    assert slipway.release(stack, OLD, "", "", "anna") is None


def test_commands_of_a_release_read_the_new_slot_s_secrets(slipway, stack, engine):
    engine.plan |= {"pending": ["0002"]}
    slipway.release(stack, NEW, "", "", "anna")
    assert engine.readers == {"green"}


def test_old_login_is_valid_until_its_slot_has_gone(slipway, stack, engine, change):
    change("db_app_password")
    slipway.release(stack, OLD, "", "", "anna")
    during, after = engine.variables
    assert fits(slipway, during["blog_app_blue"], "value of db_app_password")
    assert fits(slipway, during["blog_app_green"], "another value of db_app_password")
    assert engine.events[-1] == "remove blue while green serves"
    assert after["blog_app_blue"] == "NOLOGIN PASSWORD NULL"


def test_new_login_that_does_not_work_leaves_the_old_one(slipway, stack, engine, change):
    change("db_app_password")
    engine.wrong["ready"] = 503
    with pytest.raises(slipway.Failure, match="The blue slot serves as before"):
        slipway.release(stack, OLD, "", "", "anna")
    after = engine.variables[-1]
    assert fits(slipway, after["blog_app_blue"], "value of db_app_password")
    assert after["blog_app_green"] == "NOLOGIN PASSWORD NULL"
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == ["blue"]

    engine.wrong.clear()
    assert slipway.release(stack, OLD, "", "", "anna")["slot"] == "green"
    assert stack.slot_secret("green", "db_app_password") == "another value of db_app_password"


def former_keys(stack):
    return stack.slot_secret(stack.active(), "app_secret_key_fallbacks")


def test_key_is_believed_until_the_next_one_goes(slipway, stack, engine, change):
    assert former_keys(stack) == ""
    change("app_secret_key")
    slipway.release(stack, OLD, "", "", "anna")
    assert former_keys(stack) == "value of app_secret_key"
    slipway.release(stack, NEW, "", "", "anna")
    assert former_keys(stack) == "value of app_secret_key", "a release of another image keeps it"
    (stack.directory.parent / "secrets/app_secret_key").write_text("third value of app_secret_key")
    slipway.release(stack, NEW, "", "", "anna")
    assert former_keys(stack) == "another value of app_secret_key"


def test_key_that_leaked_is_not_believed(slipway, stack, engine, change):
    change("app_secret_key")
    stack.forget_flag.touch()
    slipway.release(stack, OLD, "", "", "anna")
    assert former_keys(stack) == ""


def test_directory_that_the_engine_made_is_closed_to_others(slipway, stack, engine):
    stack.in_service.chmod(0o755)
    slipway.release(stack, NEW, "", "", "anna")
    assert oct(stack.in_service.stat().st_mode & 0o777) == "0o700"


def test_slot_s_secrets_are_for_the_blog_alone(slipway, stack, engine):
    directory = stack.in_service / "blue"
    assert oct(stack.in_service.stat().st_mode & 0o777) == "0o700"
    assert oct(directory.stat().st_mode & 0o777) == "0o500"
    files = sorted(directory.iterdir())
    assert [file.name for file in files] == ["app_secret_key", "app_secret_key_fallbacks", "db_app_password"]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o400"}
    if os.geteuid() == 0:
        assert {path.stat().st_uid for path in (directory, *files)} == {slipway.BLOG_UID}


def test_slot_without_its_secrets_is_replaced_and_its_login_left_alone(slipway, stack, engine):
    (stack.in_service / "blue/db_app_password").unlink()
    assert slipway.release(stack, OLD, "", "", "anna")["slot"] == "green"
    assert engine.variables[0]["blog_app_blue"] == ""


def test_admin_s_password_is_set_when_its_file_changes_and_only_then(slipway, stack, engine, change):
    assert slipway.put_into_service(stack, OLD, "", "", "anna") == (False, None)
    change("admin_password")
    assert slipway.put_into_service(stack, OLD, "", "", "anna") == (True, None)
    assert slipway.put_into_service(stack, OLD, "", "", "anna") == (False, None)
    assert engine.events == ["set-password while blue serves"]


# --- A run that was killed ----------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends the program as a kill does: nothing is put right."""


STAGES = ["image", "nginx", "database", "schema", "dump", "migrate", "start", "admin"]


@pytest.mark.parametrize("stage", STAGES)
def test_next_run_undoes_what_was_killed_before_the_switch(slipway, main, stack, engine, capsys, stage):
    engine.plan |= {"pending": ["0002"]}
    engine.wrong[stage] = Killed()
    with pytest.raises(Killed):
        slipway.release(stack, NEW, "1.2", "", "anna")
    [left] = stack.ledger.entries()
    assert left["outcome"] == "under way"

    del engine.wrong[stage]
    assert main("release", "--in-unit", NEW) == 0
    told = capsys.readouterr().out
    assert f"Release {left['id']} was cut short during the stage" in told and "it was undone" in told
    assert engine.images == stack.slot_images() == {"green": NEW}
    # Both have the id of one second, so what was undone is what was begun anew.
    assert stack.ledger.current()["image"] == NEW


def test_next_run_finishes_what_was_killed_after_the_switch(
    slipway, main, stack, engine, capsys, hook, tmp_path
):
    stack.config["hooks"] = {"after": hook(f"echo $SLIPWAY_RELEASE $SLIPWAY_OUTCOME > {tmp_path}/told")}
    slipway.CONFIG.write_text(json.dumps(stack.config))
    real = slipway.check_public

    def killed(*arguments):
        raise Killed

    slipway.check_public = killed
    with pytest.raises(Killed):
        slipway.release(stack, NEW, "1.2", "", "anna")
    slipway.check_public = real
    assert (stack.active(), engine.images) == ("green", {"blue": OLD, "green": NEW})
    assert main("release", "--in-unit", "--json", NEW) == 0
    out = capsys.readouterr().out
    assert "after the switch; it was finished" in out
    assert json.loads(out.splitlines()[-1]) == {"changed": True}
    assert engine.images == stack.slot_images() == {"green": NEW}
    [entry] = stack.ledger.entries()
    assert (entry["outcome"], entry["version"], "stage" in entry) == ("in service", "1.2", False)
    assert (tmp_path / "told").read_text() == f"{entry['id']} in service\n"


def test_hook_is_told_of_what_serves_and_was_killed_while_it_drained(
    slipway, stack, engine, hook, tmp_path, monkeypatch
):
    def killed(seconds):
        raise Killed

    stack.config["hooks"] = {"after": hook(f"echo $SLIPWAY_OUTCOME >> {tmp_path}/told")}
    monkeypatch.setattr(slipway.time, "sleep", killed)
    with pytest.raises(Killed):
        slipway.release(stack, NEW, "", "", "anna")
    assert engine.images == {"blue": OLD, "green": NEW}
    assert slipway.put_into_service(stack, NEW, "", "", "anna") == (True, None)
    assert engine.images == {"green": NEW}
    assert (tmp_path / "told").read_text() == "in service\n"


def test_holder_that_was_killed_is_told_from_one_that_works(slipway):
    assert not slipway.is_held(), "nobody ever had it"
    with slipway.lock(f"anna, since noon, process {os.getpid()}"):
        assert slipway.is_held()
    with subprocess.Popen(["true"]) as gone:
        pass
    (slipway.RUNTIME / "lock").write_text(f"anna, since noon, process {gone.pid}")
    assert not slipway.is_held()


def test_slot_that_is_not_to_run_is_no_harmony(slipway, stack, engine, released):
    current = stack.ledger.current()
    slot, other = stack.active(), stack.idle()
    assert slipway.drift(stack, current) == []
    stack.set_slots({})
    assert slipway.drift(stack, current) == [f"slots.env is missing, and {slot} serves: run site.yml."]
    stack.set_slots({other: THIRD})
    assert slipway.drift(stack, current) == [f"slots.env lists {other}, and {slot} serves: run site.yml."]
    stack.set_slots({slot: OLD})
    assert slipway.drift(stack, current) == [
        f"slots.env has {OLD} for the {slot} slot, which runs {THIRD}: run site.yml."
    ]
    stack.set_slots({slot: THIRD})
    for state in ("running", "exited"):
        engine.images[other], engine.states = NEW, {other: state}
        assert slipway.drift(stack, current) == [
            f"The {other} slot has a container ({state}), and {slot} serves: run site.yml."
        ]
    del engine.images[other]
    stack.switch(other)
    assert slipway.drift(stack, current) == [
        f"Readers are sent to the {other} slot, and only {slot} runs: run site.yml, "
        f"or `slipway release {THIRD}`."
    ]
    stack.switch(slot)
    engine.images.clear()
    assert slipway.drift(stack, current) == [f"No slot has a container: `slipway release {THIRD}`."]


def test_container_of_which_the_ledger_knows_nothing_is_no_harmony(slipway, stack, engine):
    assert slipway.drift(stack, None) == [
        f"The blue slot runs {OLD}, and the ledger has no release: put back what it was, "
        f"as {stack.ledger.former}, or the next release is its first."
    ]


def advised(stack, main, capsys):
    """Do what the message about a broken slots.env says, up to site.yml."""
    stack.slots_file.write_text("GREEN_IMAGE=\n")
    assert main("release", "--in-unit", OLD) == 1
    assert "is broken: it has no COMPOSE_PROFILES. Remove it and run site.yml" in capsys.readouterr().err
    stack.slots_file.unlink()


HARMS = {
    "slots.env lost": lambda stack, engine, *_: stack.slots_file.unlink(),
    "slots.env broken": lambda stack, engine, *rest: advised(stack, *rest),
    "slots.env of the other slot": lambda stack, engine, *_: stack.set_slots({stack.idle(): THIRD}),
    "slots.env of both slots": lambda stack, engine, *_: stack.set_slots(
        {stack.routed(): OLD, stack.idle(): THIRD}
    ),
    "flag lost, or left": lambda stack, engine, *_: stack.switch(stack.idle()),
    "flag and slots.env": lambda stack, engine, *_: (stack.switch(stack.idle()), stack.slots_file.unlink()),
    "other slot left": lambda stack, engine, *_: engine.images.update({stack.idle(): THIRD}),
    "other slot left, stopped": lambda stack, engine, *_: (
        engine.images.update({stack.idle(): THIRD}),
        engine.states.update({stack.idle(): "exited"}),
    ),
}


@pytest.fixture(params=["blue", "green"])
def serving(slipway, stack, engine, request):
    """The slot that serves OLD: green after a release of it."""
    if request.param == "green":
        engine.images["blue"] = NEW
        slipway.release(stack, OLD, "", "", "anna")
    engine.events.clear()
    engine.variables.clear()
    return request.param


@pytest.mark.parametrize("image", [OLD, NEW])
@pytest.mark.parametrize("harm", HARMS)
def test_what_serves_goes_on_whatever_was_lost(
    slipway, main, stack, engine, serving, capsys, monkeypatch, harm, image
):
    """Its readers, its container and its login, until the next one serves; and then all is in harmony."""
    HARMS[harm](stack, engine, main, capsys)
    engine.events.clear()
    run = engine.run

    def watched(*command, **options):
        answer = run(*command, **options)
        if command[:2] != ("docker", "ps"):
            slot = stack.routed()
            assert engine.images.get(slot) and engine.states.get(slot, "running") == "running", command
            login = engine.variables[-1][f"blog_app_{slot}"] if engine.variables else "LOGIN"
            assert login.startswith("LOGIN"), command
        return answer

    assert main("release", "--check", "--json", image) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True}
    monkeypatch.setattr(slipway, "run", watched)
    assert main("release", "--in-unit", "--json", image) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["changed"] is True
    slot = serving if image == OLD else slipway.SLOTS[serving == "blue"]
    assert engine.images == stack.slot_images() == {slot: image}
    assert (stack.routed(), stack.active()) == (slot, slot)
    assert engine.variables[-1][f"blog_app_{slipway.SLOTS[slot == 'blue']}"] == "NOLOGIN PASSWORD NULL"
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == [slot]
    stack.ledger.put({"id": "9", "image": image, "outcome": "in service"})
    assert slipway.drift(stack, stack.ledger.current()) == []
    assert main("release", "--in-unit", "--json", image) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False}


@pytest.mark.parametrize("harm", ["slots.env lost", "flag lost, or left", "flag and slots.env"])
def test_commands_find_what_serves_whatever_was_lost(main, stack, engine, serving, capsys, harm):
    HARMS[harm](stack, engine)
    assert main("rotate", "--check", "--json", "key") == 0
    engine.readers.clear()
    assert main("rotate", "--in-unit", "admin") == 0
    assert (stack.routed(), stack.slot_images()) == (serving, {serving: OLD})
    assert engine.readers <= {serving}


def test_flag_that_was_lost_while_a_release_was_cut_short_removes_nothing_that_serves(slipway, stack, engine):
    """Killed after the switch, and what served before has ended: the new one is all that there is."""
    stack.ledger.put({"id": "1", "image": NEW, "slot": "green", "outcome": "under way", "stage": "switch"})
    slipway.give_secrets(stack, "green")
    engine.images, engine.states = {"blue": OLD, "green": NEW}, {"blue": "exited"}
    stack.slots_file.unlink()
    assert "it was finished" in slipway.recover(stack)
    assert (stack.routed(), engine.images, stack.slot_images()) == ("green", {"green": NEW}, {"green": NEW})


def test_release_that_was_cut_short_is_undone_without_slots_env(slipway, stack, engine):
    stack.ledger.put({"id": "1", "image": NEW, "slot": "green", "outcome": "under way", "stage": "ready"})
    slipway.give_secrets(stack, "green")
    engine.images["green"] = NEW
    stack.slots_file.unlink()
    assert "it was undone" in slipway.recover(stack)
    assert (engine.images, stack.slot_images()) == ({"blue": OLD}, {"blue": OLD})
    assert fits(slipway, engine.variables[-1]["blog_app_blue"], "value of db_app_password")


@pytest.mark.parametrize(("after_switch", "serves"), [(False, "blue"), (True, "green")])
def test_login_of_a_slot_that_a_killed_run_left_ends(slipway, stack, engine, after_switch, serves):
    entry = {"id": "1", "image": NEW, "version": "", "by": "anna", "slot": "green", "outcome": "under way"}
    stack.ledger.put(entry)
    slipway.give_secrets(stack, "green")
    stack.set_slots({"blue": OLD, "green": NEW})
    stack.switch("green" if after_switch else "blue")
    engine.images["green"] = NEW
    slipway.recover(stack)
    ended = slipway.SLOTS[serves == "blue"]
    assert engine.variables[-1][f"blog_app_{ended}"] == "NOLOGIN PASSWORD NULL"
    assert fits(slipway, engine.variables[-1][f"blog_app_{serves}"], "value of db_app_password")
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == [serves]


def test_killed_run_is_put_right_where_the_database_is_down(slipway, stack, engine, monkeypatch):
    def down(*arguments):
        raise slipway.Failure("the database is not running")

    stack.ledger.put({"id": "1", "image": NEW, "slot": "green", "outcome": "under way", "stage": "database"})
    monkeypatch.setattr(slipway, "reconcile_roles", down)
    assert "it was undone" in slipway.recover(stack)
    assert stack.slot_images() == {"blue": OLD}


def test_secrets_of_a_slot_that_was_removed_just_before_the_kill_go(slipway, stack, engine):
    slipway.give_secrets(stack, "green")
    assert slipway.put_into_service(stack, OLD, "", "", "anna") == (True, None)
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == ["blue"]


def test_what_was_killed_after_the_switch_and_does_not_serve_is_undone(slipway, stack, engine):
    stack.ledger.put({"id": "1", "image": NEW, "slot": "green", "outcome": "under way", "stage": "switch"})
    stack.set_slots({"blue": OLD, "green": NEW})
    stack.switch("green")
    engine.images["green"], engine.wrong["switch"] = NEW, 500
    assert "undone" in slipway.recover(stack)
    assert (stack.active(), stack.slot_images(), engine.images) == ("blue", {"blue": OLD}, {"blue": OLD})
    assert stack.ledger.entries()[0]["outcome"] == "failed"


# --- Rollback and holds -------------------------------------------------------------------------------------


@pytest.fixture
def clock(slipway, monkeypatch):
    """Releases a minute apart, since one a second has the same id."""
    moments = iter(datetime.datetime(2026, 1, 1, 0, minute, tzinfo=datetime.UTC) for minute in range(60))
    fake = types.SimpleNamespace(now=lambda zone: next(moments))
    monkeypatch.setattr(slipway, "datetime", types.SimpleNamespace(datetime=fake, UTC=datetime.UTC))
    monkeypatch.setattr(slipway, "now", lambda: "2026-01-01T00:00:00Z")


@pytest.fixture
def released(slipway, stack, engine, clock):
    """Three releases: the entries of OLD, NEW and a third image, which serves."""
    for image, version in ((OLD, "1.0"), (NEW, "1.1"), (THIRD, "1.2")):
        engine.images.clear()
        engine.stored.add(image)
        slipway.release(stack, image, version, "", "anna")
    return stack.ledger.entries()


def test_rollback_goes_to_the_one_before_and_holds_the_other(main, stack, engine, released, capsys):
    engine.events.clear()
    assert main("rollback", "--in-unit", "--by=bert") == 0
    assert not {"schema", "migrate", "admin"} & set(engine.events), "it is ready, so nothing is asked"
    assert f"{released[1]['id']} serves again" in capsys.readouterr().out
    current = stack.ledger.current()
    told = {key: current[key] for key in ("image", "version", "by", "instead_of", "schema")}
    assert told == {
        "image": NEW,
        "version": "1.1",
        "by": "bert",
        "instead_of": released[2]["id"],
        "schema": "0001",
    }
    assert stack.ledger.held(THIRD)["held"] == {"since": "2026-01-01T00:00:00Z", "by": "bert"}
    # Once more goes further back, not forth.
    assert main("rollback", "--in-unit") == 0
    assert stack.ledger.current()["image"] == OLD
    assert main("rollback", "--in-unit") == 1
    assert "no earlier release to go back to" in capsys.readouterr().err


def test_rollback_takes_the_present_secrets_along(slipway, main, stack, engine, released, change):
    for name in ("db_app_password", "app_secret_key", "admin_password"):
        change(name)
    engine.events.clear()
    assert main("rollback", "--in-unit") == 0
    slot = stack.active()
    assert stack.slot_secret(slot, "db_app_password") == "another value of db_app_password"
    assert former_keys(stack) == "value of app_secret_key"
    after = engine.variables[-1]
    assert fits(slipway, after[f"blog_app_{slot}"], "another value of db_app_password")
    assert after[f"blog_app_{stack.idle()}"] == "NOLOGIN PASSWORD NULL"
    assert engine.events[-1] == f"set-password while {slot} serves"
    assert {"db_app_password", "app_secret_key", "admin_password"} <= set(stack.ledger.current()["secrets"])


def test_rotation_leaves_what_is_held_and_what_serves(main, stack, engine, released, capsys):
    main("rollback", "--in-unit")
    for what in ("key", "admin"):
        assert main("rotate", "--in-unit", what) == 0
    assert [entry["outcome"] for entry in stack.ledger.entries()[-2:]] == ["in service", "rotated"]
    assert stack.ledger.current()["image"] == engine.images[stack.active()] == NEW
    assert stack.ledger.held(THIRD)
    assert main("history") == 0


def test_rollback_to_a_release_by_name(main, stack, engine, released, capsys):
    for name, image in ((released[0]["id"], OLD), ("1.2", THIRD)):
        assert main("rollback", "--in-unit", name) == 0
        assert stack.ledger.current()["image"] == image
    assert main("rollback", "--in-unit", "9.9") == 1
    assert "No release 9.9 was ever in service" in capsys.readouterr().err


def test_rollback_that_is_taken_back_leaves_a_way_back(main, stack, engine, released, capsys):
    main("rollback", "--in-unit")
    capsys.readouterr()
    assert main("rollback", "--in-unit", released[2]["id"]) == 0
    assert "held" not in capsys.readouterr().out
    assert [stack.ledger.held(image) for image in (OLD, NEW, THIRD)] == [None] * 3
    assert main("rollback", "--in-unit") == 0
    assert stack.ledger.current()["image"] == NEW


def test_rollback_to_what_is_held_holds_what_served(slipway, main, stack, engine, released):
    main("rollback", "--in-unit")
    slipway.release(stack, "sha256:4", "", "", "anna")
    main("rollback", "--in-unit", released[2]["id"])
    assert stack.ledger.current()["image"] == THIRD
    assert stack.ledger.held("sha256:4")


def test_rollback_check_changes_nothing(main, stack, engine, released, capsys):
    engine.events.clear()
    assert main("rollback", "--check") == 0
    told = {"changed": True, "instead_of": released[2]["id"], "to": released[1]["id"]}
    assert json.loads(capsys.readouterr().out) == told
    assert (engine.events, stack.ledger.entries()) == ([], released)


def test_rollback_to_what_cannot_run_on_the_schema_is_refused_with_the_way_out(
    main, stack, engine, released, capsys
):
    culprit = released[2] | {"applied": ["0007"]}
    stack.ledger.put(released[1] | {"applied": ["0007"]}, culprit)
    engine.wrong["ready"] = 503
    engine.plan |= {"blocked_by": "0007"}
    assert main("rollback", "--in-unit") == 1
    assert "no dump from before is kept" in capsys.readouterr().err
    stack.dumps.mkdir()
    (stack.dumps / f"{culprit['id']}.dump").touch()
    assert main("rollback", "--in-unit") == 1
    told = capsys.readouterr().err
    assert f"slipway restore-dump {culprit['id']}\n    slipway rollback {released[1]['id']}\n" in told
    assert stack.ledger.current()["image"] == engine.images[stack.active()] == THIRD
    assert stack.ledger.held(THIRD) is None


def test_rollback_before_the_first_release_says_so(main, engine, capsys):
    assert main("rollback", "--in-unit") == 1
    assert "No release is in service yet" in capsys.readouterr().err


def test_held_release_does_not_come_back_until_it_is_named(main, stack, engine, released, capsys):
    main("rollback", "--in-unit", "--by=bert")
    engine.events.clear()
    capsys.readouterr()
    for how in ("--in-unit", "--check"):
        assert main("release", how, "--json", THIRD) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["changed"] is False
        assert "was rolled back by bert at 2026-01-01T00:00:00Z and is held; " in told["held"]["message"]
        assert f"-e release_held={released[2]['id']}" in told["held"]["message"]
    assert engine.events == []
    assert main("release", "--in-unit", "--held", released[2]["id"], THIRD) == 0
    assert stack.ledger.current()["image"] == THIRD
    assert stack.ledger.held(THIRD) is None


def test_what_serves_instead_of_a_held_release_gets_the_present_configuration(main, stack, engine, released):
    main("rollback", "--in-unit")
    slot, real = stack.active(), engine.inspect
    labels = {"Config": {"Labels": {"com.docker.compose.config-hash": "of yesterday"}}}
    engine.inspect = lambda asked: real(asked) | (labels if asked == slot else {})
    assert main("release", "--in-unit", THIRD) == 0
    assert (stack.active() != slot, stack.ledger.current()["image"]) == (True, NEW)
    assert stack.ledger.held(THIRD)


# --- What is kept -------------------------------------------------------------------------------------------


def test_what_old_releases_left_goes_when_they_are_not_kept(slipway, stack, engine, released):
    stack.config["keep"] = 2
    for image in ("4", "5"):
        engine.static = [f"style.{image}.css"]
        (stack.dumps.mkdir(exist_ok=True), (stack.dumps / f"{released[0]['id']}.dump").touch())
        engine.stored.add(f"sha256:{image}")
        slipway.release(stack, f"sha256:{image}", "", "", "anna")
    assert engine.stored == {"sha256:4", "sha256:5"}
    assert list(stack.dumps.iterdir()) == []
    assert {path.name for path in stack.static.iterdir()} == {"style.4.css", "style.5.css"}


def broken(stack, engine):
    """Spoil the ledger as a full disk or a hand does; return what the host keeps for earlier releases."""
    stack.dumps.mkdir(exist_ok=True)
    for entry in stack.ledger.entries():
        (stack.dumps / f"{entry['id']}.dump").write_text("a dump")
    stack.ledger.path.write_text("[{")
    return lambda: (
        {path.name for place in (stack.dumps, stack.manifests) for path in place.iterdir()},
        {path.name for path in stack.static.iterdir()},
        set(engine.stored),
    )


def test_ledger_that_was_moved_away_as_advised_costs_nothing_that_earlier_releases_left(
    slipway, main, stack, engine, released, capsys
):
    (stack.static / "of-a-release-without-a-list.css").touch()
    slipway.CONFIG.write_text(json.dumps(stack.config | {"keep": 2}))
    kept = broken(stack, engine)
    before = kept()
    assert main("release", "--in-unit", NEW) == 1
    told = capsys.readouterr().err
    assert f"move {stack.ledger.path} away" in told and "is removed" in told
    stack.ledger.path.rename(stack.ledger.path.with_name("moved-away"))
    for image in ("4", "5", "6"):
        engine.static = [f"style.{image}.css"]
        engine.stored.add(f"sha256:{image}")
        assert main("release", "--in-unit", f"sha256:{image}") == 0
    for past, present in zip(before, kept(), strict=True):
        assert past <= present
    # The new ledger's own go as ever.
    assert "sha256:4" not in engine.stored and not (stack.static / "style.4.css").exists()


def test_ledger_that_is_put_back_as_advised_is_the_one_before(main, stack, engine, released, capsys):
    kept = broken(stack, engine)
    before = kept()
    assert main("release", "--in-unit", NEW) == 1
    [advised] = re.findall(r"^    (cp .*)$", capsys.readouterr().err, re.MULTILINE)
    subprocess.run(advised, shell=True, check=True)
    assert [entry["id"] for entry in stack.ledger.entries()] == [entry["id"] for entry in released]
    assert stack.ledger.current()["image"] == THIRD
    assert kept() == before
    assert main("rollback", "--in-unit") == 0
    assert stack.ledger.current()["image"] == NEW and stack.ledger.held(THIRD)


@pytest.mark.parametrize("content", ["", "[{", "{}", "[1]", '[{"id": "1"}]', "\0" * 40])
def test_ledger_that_is_no_ledger_is_named(main, stack, engine, released, capsys, content):
    stack.ledger.path.write_text(content)
    assert main("history") == 1
    assert f"slipway: {stack.ledger.path} is broken" in capsys.readouterr().err


def test_half_a_dump_that_a_killed_run_left_goes(slipway, stack, engine):
    stack.dumps.mkdir()
    (stack.dumps / "20260101T000000Z.new").touch()
    (stack.dumps / "by-hand.dump").touch()
    slipway.release(stack, NEW, "", "", "anna")
    assert [path.name for path in stack.dumps.iterdir()] == ["by-hand.dump"]


def test_static_files_with_a_link_refuse_the_release(slipway, stack, engine, monkeypatch, tmp_path):
    """nginx would follow it: to its key, for one."""
    (tmp_path / "secret").write_text("a key")

    def copied(*command, **options):
        if command[:2] == ("docker", "cp"):
            (Path(command[-1]) / "fonts").mkdir()
            (Path(command[-1]) / "fonts/a.woff2").symlink_to(tmp_path / "secret")
            (Path(command[-1]) / "more").symlink_to(tmp_path)
            return ""
        return engine.run(*command, **options)

    monkeypatch.setattr(slipway, "run", copied)
    with pytest.raises(slipway.Failure, match=r"no plain file: more, fonts/a\.woff2"):
        slipway.release(stack, NEW, "", "", "anna")
    assert (stack.active(), engine.images) == ("blue", {"blue": OLD})
    assert [*stack.static.parent.rglob("*")] == [stack.static]
    assert (tmp_path / "secret").read_text() == "a key"


def test_images_of_others_are_not_removed(slipway, stack, engine, released):
    stack.config["keep"] = 2
    engine.labels[OLD] = "slipway/nginx:of-a-test"
    engine.stored |= {"sha256:4", "sha256:5", "of somebody else"}
    for image in ("sha256:4", "sha256:5"):
        slipway.release(stack, image, "", "", "anna")
    assert engine.stored == {OLD, "sha256:4", "sha256:5", "of somebody else"}


def test_held_image_stays_until_something_new_is_released(slipway, main, stack, engine, released):
    slipway.CONFIG.write_text(json.dumps(stack.config | {"keep": 2}))
    for _ in range(2):
        main("rollback", "--in-unit")
    assert THIRD in engine.stored, "built anew it would be another image, which nothing holds"


def test_ledger_is_bounded_and_failures_push_nothing_out_that_served(slipway, stack):
    for number in range(slipway.LEDGER_ENTRIES + 5):
        stack.ledger.put({"id": f"good {number}", "image": NEW, "outcome": "in service"})
    for number in range(slipway.LEDGER_ENTRIES + 5):
        stack.ledger.put({"id": f"bad {number}", "image": OLD, "outcome": "failed"})
    entries = [entry["id"] for entry in stack.ledger.entries()]
    each = range(5, slipway.LEDGER_ENTRIES + 5)
    assert entries == [*(f"good {number}" for number in each), *(f"bad {number}" for number in each)]


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["rollback", "--in-unit"],
        ["release", "--in-unit", NEW],
        ["rotate", "--in-unit", "all"],
    ],
)
def test_state_that_is_broken_is_named_and_nothing_is_done(
    main, stack, engine, released, values, capsys, command
):
    secrets = values()
    for file, content in ((stack.ledger.path, "[{"), (stack.slots_file, "GREEN_IMAGE=\n")):
        engine.events.clear()
        whole = file.read_text()
        file.write_text(content)
        assert main(*command) == 1
        assert f"slipway: {file} is broken" in capsys.readouterr().err
        assert (engine.events, values()) == ([], secrets)
        file.write_text(whole)


def test_dump_stays_while_a_release_from_before_its_migration_does(slipway, stack, engine, released):
    """Also that of a release which migrated and then failed."""
    stack.config["keep"] = 2
    engine.plan["pending"], engine.wrong["smoke"] = ["0007"], 500
    with pytest.raises(slipway.Failure):
        slipway.release(stack, "sha256:4", "", "", "anna")
    [dump] = stack.dumps.glob("*.dump")
    engine.plan["pending"] = []
    engine.wrong.clear()
    for image, stays in (("sha256:5", True), ("sha256:6", False)):
        slipway.release(stack, image, "", "", "anna")
        assert dump.exists() is stays


def test_engine_that_cannot_start_a_process_for_a_moment_refuses_no_release(
    slipway, stack, engine, monkeypatch
):
    monkeypatch.setattr(slipway.time, "sleep", lambda seconds: engine.wrong.pop("nginx", None))
    engine.wrong["nginx"] = slipway.CommandFailure(["docker"], 126, "OCI runtime exec failed")
    assert slipway.release(stack, NEW, "", "", "anna")


# --- Hooks and the webhook ----------------------------------------------------------------------------------


@pytest.fixture
def hook(tmp_path):
    """A function that makes a hook of shell commands."""

    def make(commands):
        path = tmp_path / "hook"
        path.write_text(f"#!/bin/sh\n{commands}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_hooks_are_told_of_the_release(slipway, stack, engine, hook, tmp_path):
    told = hook(f"env | grep ^SLIPWAY_ | sort > {tmp_path}/$1")
    stack.config["hooks"] = {moment: f"{told} {moment}" for moment in ("before", "after", "failed")}
    entry = slipway.release(stack, NEW, "1.2", "abc", "anna smith")
    lines = dict(line.split("=", 1) for line in (tmp_path / "after").read_text().splitlines())
    assert lines == {
        "SLIPWAY_RELEASE": entry["id"],
        "SLIPWAY_OUTCOME": "in service",
        "SLIPWAY_IMAGE": NEW,
        "SLIPWAY_VERSION": "1.2",
        "SLIPWAY_REVISION": "abc",
        "SLIPWAY_BY": "anna smith",
        "SLIPWAY_REASON": "",
        "SLIPWAY_INSTEAD_OF": "",
    }
    assert "SLIPWAY_OUTCOME=under way\n" in (tmp_path / "before").read_text()
    assert not (tmp_path / "failed").exists()
    engine.wrong["smoke"] = 500
    with pytest.raises(slipway.Failure):
        slipway.release(stack, OLD, "", "", "anna")
    assert "SLIPWAY_REASON=The blue slot behind nginx answered 500" in (tmp_path / "failed").read_text()


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ("echo no release on a friday; exit 3", r"`before` .* failed \(3\):\n    no release on a friday"),
        ("sleep 60", r"had not ended after 0\.2 s"),
        (None, "cannot be run: .*No such file"),
    ],
)
def test_hook_before_can_refuse_a_release(slipway, stack, engine, hook, commands, says):
    stack.config |= {"hooks": {"before": hook(commands) if commands else "/nosuch"}, "hook_timeout": 0.2}
    with pytest.raises(slipway.Failure, match=says):
        slipway.release(stack, NEW, "", "", "anna")
    assert not {"database", "start"} & set(engine.events)


def test_hook_after_that_fails_is_said_and_no_more(slipway, stack, engine, hook, capsys):
    stack.config["hooks"] = {"after": hook("echo oh; exit 1")}
    assert slipway.release(stack, NEW, "", "", "anna")["outcome"] == "in service"
    assert re.search(r"hook `after` .* failed \(1\):\n    oh", capsys.readouterr().out)
    stack.config["hooks"] = {"after": hook("printf '\\377'; exit 1")}
    assert slipway.release(stack, OLD, "", "", "anna")["outcome"] == "in service"
    assert "hook `after`" in capsys.readouterr().out
    stack.config["hooks"] = {"after": "echo it's"}
    engine.stored.add(THIRD)
    assert slipway.release(stack, THIRD, "", "", "anna")["outcome"] == "in service"
    assert "hook `after` cannot be run: No closing quotation" in capsys.readouterr().out


@pytest.fixture
def receiver():
    """Somebody who takes webhooks: `got` has what came; `status` is what they are answered with."""
    state = types.SimpleNamespace(got=[], status=200, drips=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.got.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(state.status)
            while state.drips:
                self.send_header("Patience", "a virtue")
                self.flush_headers()
                time.sleep(0.01)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield state
    state.drips = False
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("status", [200, 500, 302])
def test_webhook_gets_the_entry_and_fails_no_release(slipway, stack, engine, receiver, capsys, status):
    receiver.status, stack.config["webhook_url"] = status, receiver.url
    (Path(stack.config["secrets"]) / "webhook_token").write_text("never-to-be-shown\n")
    entry = slipway.release(stack, NEW, "1.2", "", "anna")
    [(path, token, body)] = receiver.got
    assert (path, token) == ("/hook", "Bearer never-to-be-shown")
    late = {"drain", "tidy"}
    by_then = {stage: seconds for stage, seconds in entry["stages"].items() if stage not in late}
    assert body == {"host": "blog.example.org", "release": entry | {"stages": by_then}}
    told = capsys.readouterr().out
    assert ("The webhook did not take it" in told) == (status != 200)
    assert "never-to-be-shown" not in told + stack.ledger.path.read_text()


@pytest.mark.parametrize(
    ("url", "says"), [("http://127.0.0.1:1/", ".*refused"), ("chat.example.org/hook", "unknown url type")]
)
def test_webhook_that_nobody_answers_fails_no_release(slipway, stack, engine, capsys, url, says):
    stack.config["webhook_url"] = url
    assert slipway.release(stack, NEW, "", "", "anna")
    assert re.search(f"webhook did not take it: {says}", capsys.readouterr().out)


def test_webhook_is_not_waited_for_any_longer(slipway, stack, engine, capsys, receiver, monkeypatch):
    """Each byte in time, and no end to them."""
    monkeypatch.setattr(slipway, "WEBHOOK_SECONDS", 0.3)
    receiver.drips, stack.config["webhook_url"] = True, receiver.url
    assert slipway.release(stack, NEW, "", "", "anna")["outcome"] == "in service"
    assert "The webhook had not answered after 0.3 s" in capsys.readouterr().out


# --- The command line ---------------------------------------------------------------------------------------


def command_line(*arguments):
    return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True)


def test_help_names_the_commands():
    done = command_line("--help")
    assert done.returncode == 0
    commands = ["status", "logs", "history", "release", "rollback", "restore-dump", "maintenance"]
    commands += ["rotate", "import", "export", "metrics"]
    assert re.findall(r"^    ([a-z-]+)(?:  |$)", done.stdout, re.MULTILINE) == commands


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["relaese"],
        ["release"],
        ["logs", "redis"],
        ["release", NEW, "--bye"],
        ["rotate"],
        ["rotate", "tls"],
    ],
)
def test_bad_usage_is_told_apart(arguments):
    done = command_line(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: slipway ")


@pytest.fixture
def main(slipway, stack, monkeypatch, tmp_path):
    """A function that calls the program in this process, as root on the host of `stack`."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["slipway", *arguments])
        return slipway.main()

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(slipway, "CONFIG", tmp_path / "slipway.json")
    slipway.CONFIG.write_text(json.dumps(stack.config))
    return call


def test_other_users_are_told_to_use_sudo(main, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="sudo slipway"):
        main("status")


def test_host_without_configuration_is_told_to_get_it(slipway, main):
    slipway.CONFIG.unlink()
    with pytest.raises(SystemExit, match=r"slipway\.json is missing: run the playbook site\.yml"):
        main("status")


def test_release_refuses_a_tag(main, engine, capsys):
    assert main("release", "slipway/flask_blog:latest") == 1
    assert "slipway/flask_blog:latest is not an image's id" in capsys.readouterr().err
    assert engine.events == []


@pytest.mark.parametrize(
    ("image", "changed"), [(OLD, False), (NEW, True), ("slipway/flask_blog:unbuilt", True)]
)
def test_release_check_tells_and_changes_nothing(main, engine, stack, capsys, image, changed):
    assert main("release", "--check", "--json", image) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": changed}
    assert engine.events == []
    assert stack.ledger.entries() == []


@pytest.mark.parametrize(("how", "ending"), [("--in-unit", "COMMIT"), ("--check", "ROLLBACK")])
def test_release_of_what_serves_sees_to_the_roles(main, engine, stack, capsys, how, ending):
    engine.roles = "before\nafter\n"
    assert main("release", how, "--json", OLD) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True}
    assert (engine.events, engine.endings) == ([], [ending])
    assert stack.ledger.entries() == []


def test_release_ends_with_one_object(main, engine, capsys):
    assert main("release", "--in-unit", "--json", "--by=anna", NEW) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["changed"], last["by"], last["slot"]) == (True, "anna", "green")
    assert main("release", "--in-unit", "--json", NEW) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False}


def test_release_that_is_only_asked_about_tells_what_would_change_it(main, engine, stack, tmp_path, capsys):
    ask = ("release", "--check", "--json", OLD)
    compose = tmp_path / "compose.yml"
    compose.write_text("another-compose.yml")
    for arguments, changed in (((), False), (("--compose", str(compose)), True)):
        assert main(*ask, *arguments) == 0
        assert json.loads(capsys.readouterr().out) == {"changed": changed}
    stack.ledger.put({"id": "1", "image": NEW, "slot": "green", "outcome": "under way"})
    assert main(*ask) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True}, "it was cut short"
    assert (engine.events, engine.images) == ([], {"blue": OLD})


def test_release_fails_with_its_reason(main, engine, capsys):
    engine.wrong["smoke"] = 500
    assert main("release", "--in-unit", NEW) == 1
    assert capsys.readouterr().err.startswith("slipway: The green slot behind nginx answered 500 to / (Host ")


@pytest.fixture
def values(stack):
    """A function that returns the values in the secrets' files, by name."""
    directory = stack.directory.parent / "secrets"
    return lambda: {name: (directory / name).read_text() for name in SECRETS}


@pytest.mark.parametrize(
    ("what", "names"),
    [
        (["database"], SECRETS[:3]),
        (["key"], ["app_secret_key"]),
        (["admin"], ["admin_password"]),
        (["admin", "key"], ["app_secret_key", "admin_password"]),
        (["all"], SECRETS),
    ],
)
def test_rotation_makes_new_values_and_puts_them_into_service(
    slipway, main, engine, stack, values, capsys, monkeypatch, what, names
):
    before, told_of = values(), []
    monkeypatch.setattr(slipway, "tell", lambda stack, moment, entry: told_of.append((moment, entry["id"])))
    assert main("rotate", "--in-unit", "--json", "--by=anna", *what) == 0
    after = values()
    assert [name for name in SECRETS if after[name] != before[name]] == names
    assert all(re.fullmatch("[A-Za-z0-9]{40}", after[name]) for name in names)
    assert stack.slot_secret(stack.active(), "db_app_password") == after["db_app_password"]
    assert (stack.in_service / "admin_password").read_text() == after["admin_password"]
    released = what != ["admin"]
    assert engine.images == stack.slot_images() == ({"green": OLD} if released else {"blue": OLD})
    [entry] = stack.ledger.entries()
    assert (entry["by"], entry["outcome"]) == ("anna", "in service" if released else "rotated")
    assert told_of == [("after", entry["id"])]
    assert set(names) <= set(entry["secrets"])

    told = capsys.readouterr().out
    assert json.loads(told.splitlines()[-1])["changed"] is True
    assert [name for name, value in (before | after).items() if value in told] == []


def test_rotation_takes_what_the_vault_gives(main, engine, stack, change, values):
    change("app_secret_key")
    assert main("rotate", "--in-unit", "--given=app_secret_key", "key") == 0
    assert values()["app_secret_key"] == "another value of app_secret_key"
    assert stack.slot_secret("green", "app_secret_key") == "another value of app_secret_key"
    assert former_keys(stack) == "value of app_secret_key"


def test_rotation_that_is_only_asked_about_changes_nothing(
    slipway, main, engine, stack, change, values, capsys
):
    engine.verifiers = "".join(
        f"{role}|{slipway.scram_verifier(stack.secret(name))}\n" for role, name in slipway.OWNERS.items()
    )
    assert main("rotate", "--check", "--json", "database") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True, "secrets": SECRETS[:3], "waiting": []}
    for name in SECRETS:
        change(name)
    before = values()
    assert main("rotate", "--check", "--json", "all") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True, "secrets": SECRETS, "waiting": SECRETS}
    assert (engine.events, engine.endings, values()) == ([], [], before)


def test_rotation_that_fails_leaves_the_old_values_serving_and_goes_on_later(
    main, engine, stack, values, capsys
):
    engine.wrong["smoke"] = 500
    old = stack.slot_secret("blue", "db_app_password")
    assert main("rotate", "--in-unit", "all") == 1
    told = capsys.readouterr().err
    assert "The blue slot serves as before." in told
    assert "The new secrets wait in their files" in told
    assert (stack.slot_images(), stack.slot_secret("blue", "db_app_password")) == ({"blue": OLD}, old)
    assert "set-password while blue serves" not in engine.events
    assert [entry["outcome"] for entry in stack.ledger.entries()] == ["failed"]

    engine.wrong.clear()
    assert main("release", "--in-unit", OLD) == 0
    assert stack.slot_secret("green", "db_app_password") == values()["db_app_password"] != old
    assert engine.events[-1] == "set-password while green serves"


def test_key_that_leaked_is_forgotten_by_whatever_ends_its_service(main, engine, stack):
    engine.wrong["smoke"] = 500
    assert main("rotate", "--in-unit", "--forget", "key") == 1
    engine.wrong.clear()
    assert main("release", "--in-unit", OLD) == 0
    assert former_keys(stack) == ""
    assert main("rotate", "--in-unit", "key") == 0
    assert former_keys(stack) != "", "the next rotation forgets nothing"


def test_forgetting_is_for_keys(main, engine, values, capsys):
    before = values()
    assert main("rotate", "--in-unit", "--forget", "database") == 1
    assert "rotate `key` with it" in capsys.readouterr().err
    assert values() == before


def test_rotation_needs_a_release(main, stack, engine, capsys):
    stack.set_slots({})
    engine.images.clear()
    assert main("rotate", "all") == 1
    assert "run the playbook deploy.yml first" in capsys.readouterr().err


def test_import_needs_a_release(main, stack, engine, capsys):
    stack.set_slots({})
    engine.images.clear()
    assert main("import", "posts") == 1
    assert "run the playbook deploy.yml first" in capsys.readouterr().err


def test_import_that_fails_names_each_file(slipway, main, engine, monkeypatch, capsys, tmp_path):
    def refuse(*arguments, **named):
        raise slipway.CommandFailure(
            ["docker"], 1, f"{arguments[3]}/a.md: line 2 has no date\n{arguments[3]}/b/c.md: no title\n"
        )

    monkeypatch.setattr(slipway.Stack, "flask", refuse)
    monkeypatch.chdir(tmp_path)
    Path("posts").mkdir()
    assert main("import", "posts") == 1
    told = capsys.readouterr().err
    assert told == "slipway: the import failed:\na.md: line 2 has no date\nb/c.md: no title\n"


@pytest.fixture
def flask(slipway, monkeypatch):
    """The blog's commands that get a directory: what they find there, and what they are to write."""
    blog = types.SimpleNamespace(writes={}, links={}, fails=None, found={}, owners=set())

    def run(stack, image, command, *arguments, options):
        place = Path(options[1].split(":")[0])
        files = [path for path in place.rglob("*") if path.is_file()]
        blog.found = {str(path.relative_to(place)): path.read_text() for path in files}
        blog.owners = {path.lstat().st_uid for path in (place, *place.rglob("*"))}
        for name, content in blog.writes.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(content)
        for name, to in blog.links.items():
            (place / name).symlink_to(to)
        if blog.fails:
            raise blog.fails
        return {"changed": True}

    monkeypatch.setattr(slipway.Stack, "flask", run)
    return blog


def owners(*paths):
    return {path.lstat().st_uid for path in paths}


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@AS_ROOT
def test_export_leaves_a_directory_with_other_files_alone(main, engine, flask, tmp_path, monkeypatch, capsys):
    """As `slipway export .` does in a home: sshd refuses whose home is another's."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    for path in (home, home / ".ssh"):
        os.chown(path, 1234, 1234)
    monkeypatch.chdir(home)
    assert main("export", ".") == 1
    assert f"slipway: {home} holds other files: name a new directory" in capsys.readouterr().err
    assert owners(home, *home.rglob("*")) == {1234}
    assert [*home.iterdir()] == [home / ".ssh"]


@AS_ROOT
@pytest.mark.parametrize("given", ["empty", "new", "new/below"])
def test_export_belongs_to_whom_the_directory_does(
    slipway, main, engine, flask, tmp_path, monkeypatch, given
):
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1234")
    (tmp_path / "empty").mkdir(mode=0o755)
    os.chown(tmp_path / "empty", 1234, 1234)
    directory = tmp_path / given
    flask.writes = {"export.json": "{}", "posts/a.md": "one"}
    assert main("export", str(directory)) == 0
    assert flask.owners == {slipway.BLOG_UID}
    assert sorted(path.name for path in directory.rglob("*")) == ["a.md", "export.json", "posts"]
    assert owners(tmp_path / given.split("/")[0], directory, *directory.rglob("*")) == {1234}


@AS_ROOT
def test_export_brings_an_earlier_one_up_to_date(slipway, main, engine, flask, tmp_path):
    """Also one that a kill, or a blog that failed, left half-way; what else is there stays."""
    directory = tmp_path / "blog"
    flask.writes = {"export.json": "{}", "posts/a.md": "one"}
    assert main("export", str(directory)) == 0
    (directory / ".git").mkdir()
    os.chown(directory / ".git", 1234, 1234)
    flask.writes = {"posts/b.md": "two"}
    assert main("export", str(directory)) == 0
    assert flask.found == {"export.json": "{}", "posts/a.md": "one"}
    assert owners(directory / ".git") == {1234}

    (directory / ".slipway-export").mkdir()
    (directory / "posts").rename(directory / ".slipway-export/posts")
    (directory / "export.json").rename(directory / ".slipway-export/export.json")
    flask.fails = slipway.Failure("the disk is full")
    assert main("export", str(directory)) == 1
    flask.fails = None
    assert main("export", str(directory)) == 0
    assert flask.found == {"export.json": "{}", "posts/a.md": "one", "posts/b.md": "two"}
    assert sorted(path.name for path in directory.iterdir()) == [".git", "export.json", "posts"]


def test_export_that_is_elsewhere_by_a_link_stays_there(main, engine, flask, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "blog").mkdir()
    (tmp_path / "blog/export.json").touch()
    (tmp_path / "blog/media").symlink_to(tmp_path / "pictures")
    assert main("export", str(tmp_path / "blog")) == 1
    assert "holds no export, but links: media" in capsys.readouterr().err
    assert (tmp_path / "blog/media").is_symlink()


def test_export_hands_over_no_link(main, engine, flask, tmp_path, capsys):
    """One that was taken over could have root give it a file of the host, or have an op copy one."""
    secret = tmp_path / "secret"
    secret.write_text("a key")
    before = secret.stat()
    flask.writes = {"export.json": "{}", "posts/a.md": "one"}
    flask.links = {"posts/b.md": secret, "media": tmp_path}
    assert main("export", str(tmp_path / "blog")) == 1
    assert "no plain file, which was removed: media, posts/b.md" in capsys.readouterr().err
    assert (secret.stat().st_uid, secret.read_text()) == (before.st_uid, "a key")
    assert sorted(path.name for path in (tmp_path / "blog").rglob("*")) == ["a.md", "export.json", "posts"]


def test_import_shows_the_blog_a_copy_that_it_can_read_and_nothing_hidden(
    slipway, main, engine, flask, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("a key")
    (home / "posts").mkdir(mode=0o700)
    (home / "posts/a.md").write_text("one")
    (home / "posts/a.md").chmod(0o600)
    before = owners(home, *home.rglob("*"))
    monkeypatch.chdir(home)
    assert main("import", ".") == 0
    # By its whole path, so that what lies among drafts still does.
    assert flask.found == {f"{home}/posts/a.md".removeprefix("/"): "one"}
    if os.geteuid() == 0:
        assert flask.owners == {slipway.BLOG_UID}
    assert owners(home, *home.rglob("*")) == before


def test_import_of_what_is_not_there_says_so(main, engine, flask, tmp_path, capsys):
    assert main("import", str(tmp_path / "nowhere")) == 1
    assert f"slipway: {tmp_path}/nowhere cannot be read: " in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


# --- Maintenance --------------------------------------------------------------------------------------------


def test_maintenance_is_a_flag(main, stack, capsys):
    for state, changed in (("on", True), ("on", False), ("off", True), ("off", False)):
        assert main("maintenance", state, "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"changed": changed}
        assert stack.maintenance_flag.exists() == (state == "on")


def test_release_goes_on_in_maintenance(slipway, stack, engine):
    stack.maintenance_flag.touch()
    engine.wrong["switch"] = 503
    assert slipway.release(stack, NEW, "", "", "anna")["outcome"] == "in service"


def test_dump_is_restored_in_maintenance_only(main, stack, capsys):
    assert main("restore-dump", "20260101T000000Z") == 1
    assert "`slipway maintenance on` first" in capsys.readouterr().err
    stack.maintenance_flag.touch()
    assert main("restore-dump", "20260101T000000Z") == 1
    assert "There is no dump of a release 20260101T000000Z. There are: none." in capsys.readouterr().err
