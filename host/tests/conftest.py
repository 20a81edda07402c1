"""Shared fixtures: a host without a release, and a host with a release in service."""

import http.server
import json
import os
import threading
import time
import types

import pytest
from backup_fakes import Vault
from fakes import NEW, OLD, SECRETS, THIRD, Engine, Killed
from parsers import check
from ward import Ward, shown

from slipway import cli
from slipway.credentials import copy_secrets, set_admin_password
from slipway.healing import Healer
from slipway.host import Host
from slipway.release import release
from slipway.settings import Settings
from slipway.stack import Stack

# A fixture from tests/parsers.py, which the tests in tests/ use too.
__all__ = ["check"]


@pytest.fixture(autouse=True)
def _owners(monkeypatch):
    """Make chown do nothing unless the tests run as root: only root can change owners."""
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "chown", lambda *arguments, **named: None)
        monkeypatch.setattr(os, "fchown", lambda *arguments: None)


@pytest.fixture
def settings(tmp_path):
    """Settings of a host whose files are in tmp_path."""
    return Settings(
        project=tmp_path / "project", runtime=tmp_path / "run", firewall=tmp_path / "nftables.conf"
    )


@pytest.fixture
def stack(settings, tmp_path):
    """A host without a release."""
    for directory in ("etc", "state/slot", "state/www/static", "secrets"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/roles.sql").write_text("ALTER ROLE blog_app_blue :blog_app_blue;\n")
    for name in SECRETS:
        (tmp_path / "secrets" / name).write_text(f"value of {name}")
    return Stack(
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
        },
        Host(settings),
    )


@pytest.fixture
def engine(stack):
    """A fake engine where the blue slot serves the old release."""
    engine = stack.host = Engine(stack)
    engine.images["blue"] = OLD
    copy_secrets(stack, "blue")
    set_admin_password(stack, OLD)
    stack.set_slots({"blue": OLD})
    return engine


@pytest.fixture
def main(stack):
    """A function that calls the program in this process, as root on the host of `stack`."""

    def call(*arguments):
        [*_, file] = stack.host.settings.configuration
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(stack.config))
        return cli.main(arguments, stack.host)

    return call


@pytest.fixture
def clock(engine):
    """Replace the clock: release ids are a minute apart, and `now` always returns the same time."""
    ids = iter(f"20260101T00{minute:02}00Z" for minute in range(60))
    engine.new_id = lambda taken: next(ids)
    engine.now = lambda: "2026-01-01T00:00:00Z"


@pytest.fixture
def systemd_run(tmp_path, monkeypatch):
    """A function that creates a fake systemd-run from shell commands; $log is the path of the log."""

    def make(commands):
        path = tmp_path / "bin/systemd-run"
        path.parent.mkdir()
        find = (
            "for word; do case $word in --property=StandardOutput=append:*) log=${word#*append:}; esac; done"
        )
        path.write_text(f"#!/bin/sh\n{find}\n{commands}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=":")

    return make


@pytest.fixture
def released(stack, engine, clock):
    """Three releases: the entries of OLD, NEW and a third image, which serves."""
    for image, version in ((OLD, "1.0"), (NEW, "1.1"), (THIRD, "1.2")):
        engine.images.clear()
        engine.stored.add(image)
        release(stack, image, version, "", "anna")
    return stack.ledger.entries()


@pytest.fixture
def started(monkeypatch):
    """The commands that would have replaced this process (os.execvp); each raises Killed instead."""
    commands = []

    def become(name, command):
        commands.append(command)
        raise Killed

    monkeypatch.setattr(os, "execvp", become)
    return commands


@pytest.fixture
def change(stack):
    """A function that changes the value of a secret's file, as Ansible does after a change in the vault."""
    return lambda name: (stack.directory.parent / "secrets" / name).write_text(f"another value of {name}")


@pytest.fixture
def hook(tmp_path):
    """A function that creates a hook from shell commands."""

    def make(commands):
        path = tmp_path / "hook"
        path.write_text(f"#!/bin/sh\n{commands}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def values(stack):
    """A function that returns the values in the secrets' files, by name."""
    directory = stack.directory.parent / "secrets"
    return lambda: {name: (directory / name).read_text() for name in SECRETS}


@pytest.fixture
def ward(stack, engine):
    """The fake engine, with a release in service in the blue slot."""
    ward = Ward(engine.run)
    engine.run, engine.now = ward.run, lambda: shown(ward.time)
    engine.is_frozen = lambda pid: pid in ward.frozen
    [*_, file] = engine.settings.configuration
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(stack.config))
    return ward


@pytest.fixture
def healer(engine, ward):
    return Healer(engine)


@pytest.fixture
def vault(stack, engine, monkeypatch, tmp_path):
    """The fake engine, with a release in service, backups of the database, and a clock that does not wait."""
    vault = Vault(engine, tmp_path / "volume")
    engine.run, engine.output = vault.run, vault.output
    engine.now, engine.sleep = lambda: shown(vault.time), vault.sleep
    engine.unit = "inactive"  # the unit of the full backup
    engine.settings.runtime.mkdir()
    monkeypatch.setattr(time, "monotonic", vault.monotonic)
    monkeypatch.setattr(time, "sleep", vault.sleep)
    stack.config |= {"backup_repository": "s3", "backup_window_days": 14, "backup_heartbeat_url": ""}
    return vault


@pytest.fixture
def run_restore(main, vault, capsys):
    """A function that runs `restore` as its unit does, and returns its exit status, output and errors."""

    def call(*arguments):
        status = main("restore", "--in-unit", "--by=anna", *arguments)
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.fixture
def receiver():
    """A web server: `got` has the requests; `status` is the status of its answers."""
    state = types.SimpleNamespace(got=[], status=200, drips=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            state.got.append((self.path, self.headers["Authorization"], json.loads(body or "null")))
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
