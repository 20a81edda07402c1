"""The status and the drift that it reports."""

import json
import os
import subprocess
from dataclasses import replace

import pytest
from fakes import NEW, OLD, THIRD, make_entry

from slipway import status
from slipway.host import Host
from slipway.status import drift


def test_drift_reports_differences_between_flag_slots_env_and_containers(stack, engine, released):
    current = stack.ledger.current()
    slot, other = stack.active(), stack.idle()
    assert drift(stack, current) == []
    stack.set_slots({})
    assert drift(stack, current) == [f"slots.env is missing, but the {slot} slot serves: run site.yml."]
    stack.set_slots({other: THIRD})
    assert drift(stack, current) == [f"slots.env lists {other}, but the {slot} slot serves: run site.yml."]
    stack.set_slots({slot: OLD})
    assert drift(stack, current) == [
        f"slots.env has the image {OLD} for the {slot} slot, which runs {THIRD}: run site.yml."
    ]
    stack.set_slots({slot: THIRD})
    for state in ("running", "exited"):
        engine.images[other], engine.states = NEW, {other: state}
        assert drift(stack, current) == [
            f"The {other} slot has a container ({state}), but the {slot} slot serves: run site.yml."
        ]
    del engine.images[other]
    stack.switch(other)
    assert drift(stack, current) == [
        f"nginx sends readers to the {other} slot, but only the {slot} slot runs: run site.yml, "
        f"or `slipway release {THIRD}`."
    ]
    stack.switch(slot)
    engine.images.clear()
    assert drift(stack, current) == [f"No slot has a container: run `slipway release {THIRD}`."]


def test_drift_reports_a_container_that_the_ledger_does_not_list(stack, engine):
    assert drift(stack, None) == [
        f"The blue slot runs {OLD}, but the ledger has no release: restore it from "
        f"{stack.ledger.former}, or the next release is its first."
    ]


@pytest.fixture
def services(engine):
    """Make `docker compose ps` list a service."""
    run = engine.run

    def told(*command, **options):
        if command[-4:] == ("ps", "--all", "--format", "json"):
            return json.dumps({"Service": "db", "State": "running", "Health": "healthy"}) + "\n"
        return run(*command, **options)

    engine.run = told


@pytest.mark.usefixtures("services")
def test_status_shows_the_run_of_a_playbook(main, stack, engine, monkeypatch, capsys):
    run = {"playbook": "site.yml", "by": "anna@laptop", "since": "2026-01-01T00:00:00Z"}
    monkeypatch.setattr(status, "playbook_run", lambda host: run)
    assert main("status") == 0
    assert "run          site.yml by anna@laptop since 2026-01-01T00:00:00Z\n" in capsys.readouterr().out


@pytest.mark.usefixtures("services")
def test_status_shows_backups_drills_and_former_databases(main, stack, vault, capsys):
    for command in (("drill",), ("restore", "--by=anna")):
        assert main(*command, "--in-unit") == 0
    main("backup", "check")
    capsys.readouterr()
    assert main("status") == 0
    lines = capsys.readouterr().out.splitlines()
    told = [" ".join(line.split()[:2]) for line in lines]
    [former] = vault.live.parent.glob("former-*")
    assert {"backup newest", "drill passed", f"restore {former.name}"} <= set(told)
    assert main("status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert [len(status[key]) for key in ("backup", "drill", "restore")] == [2, 1, 1]


@pytest.mark.usefixtures("services")
def test_status_shows_what_runs(main, stack, engine, released, capsys):
    engine.space = 123_456_789
    main("rollback", "--in-unit", "--by=bert")
    stack.maintenance_flag.touch()
    capsys.readouterr()
    assert main("status") == 0
    current = stack.ledger.current()
    assert capsys.readouterr().out.splitlines() == [
        f"release      {current.id} (1.1, no revision)",
        f"slot         {current.slot}",
        f"image        {NEW}",
        "since        2026-01-01T00:00:00Z by bert",
        f"blocked      {released[2].id} since 2026-01-01T00:00:00Z by bert",
        "maintenance  ON: readers get a page with status 503",
        "disk         123 MB free",
        "drift        none",
        "db                 running    healthy",
    ]
    assert main("status", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["release"] == current.to_json()
    assert told["active"] == current.slot
    assert told["image"] == NEW
    assert [entry["id"] for entry in told["blocked"]] == [released[2].id]
    assert told["containers"] == {"db": "healthy"}
    assert told["maintenance"] is True
    assert told["certificate"] is None
    assert told["drift"] == []
    assert told["disk_free_mb"] == 123


@pytest.fixture
def certificate(stack, engine, tmp_path):
    """A function that makes nginx's certificate with the real openssl; its subject is also its issuer."""
    file = tmp_path / "blog.pem"
    engine.settings = replace(engine.settings, certificate=file)
    stack.config["tls"] = True
    run = engine.run
    engine.run = lambda *command, **options: (
        Host.run(engine, *command, **options) if command[0] == "openssl" else run(*command, **options)
    )

    def make(subject):
        key = (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-noenc",
            "-keyout",
            tmp_path / "key",
        )
        names = ("-addext", "subjectAltName = DNS:blog.example.org,DNS:www.example.org")
        command = ("openssl", "req", "-x509", "-days", "90", *key, "-out", file, "-subj", subject, *names)
        subprocess.run(command, check=True, capture_output=True)
        return file

    return make


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize(
    ("subject", "issuer"),
    [
        ("/O=An authority/CN=Its name", "Its name"),
        ("/C=DE/O=An authority", "An authority"),
        ("/", "an unnamed authority"),
        ("/O=commonName = x", "commonName = x"),
    ],
)
def test_status_names_the_issuer_of_any_certificate(
    main, stack, engine, released, certificate, capsys, subject, issuer
):
    certificate(subject)
    assert main("status", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["certificate"]["issuer"] == issuer
    assert told["certificate"]["names"] == ["blog.example.org", "www.example.org"]
    assert told["certificate"]["days_left"] in (89, 90)
    assert told["drift"] == []


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("damaged")])
def test_status_reports_a_certificate_that_it_cannot_read(
    main, stack, engine, released, certificate, capsys, damage
):
    damage(certificate("/CN=blog"))
    assert main("status", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["certificate"] is None
    assert told["image"] == THIRD
    [sentence] = told["drift"]
    assert sentence.startswith("The certificate cannot be read: run site.yml. `openssl x509 ")


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize(
    ("pid", "says"), [(os.getpid(), "under way"), (2**22 + 1, "interrupted")], ids=["alive", "dead"]
)
def test_status_distinguishes_a_running_release_from_an_interrupted_one(
    main, stack, engine, capsys, pid, says
):
    stack.ledger.put(make_entry(outcome="under way", stage="ready"))
    engine.settings.runtime.mkdir()
    engine.settings.lock.write_text(f"anna, since noon, process {pid}")
    assert main("status") == 0
    assert f"{says:<12} 1 by anna: ready" in capsys.readouterr().out


def test_history_shows_the_outcome_of_each_release(main, stack, engine, released, capsys):
    main("rollback", "--in-unit", "--by=bert")
    engine.wrong["smoke"] = 500
    main("release", "--in-unit", "--version=2.0", "sha256:4")
    capsys.readouterr()
    assert main("history", "--lines=3") == 0
    blocked, serves, failed, reason = capsys.readouterr().out.splitlines()
    assert blocked.split()[1:] == ["1.2", "blocked", "since", "2026-01-01T00:00:00Z", "anna"]
    assert serves.split()[1:] == ["1.1", "serves", "bert", "(instead", "of", f"{released[2].id})"]
    assert failed.split()[1:3] == ["2.0", "failed"]
    assert "slot behind nginx answered 500" in reason
    assert main("history", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [entry.to_json() for entry in stack.ledger.entries()]
    for number in ("0", "-1"):
        assert main("history", f"--lines={number}") == 0
        assert capsys.readouterr().out == ""


def test_logs_shows_the_containers_of_the_slot_in_service(main, stack, engine, released):
    shown = []
    engine.show = lambda *command: shown.append(command) or 0
    assert main("logs", "--lines=5", "flask_blog") == 0
    [command] = shown
    assert command[-4:] == ("logs", "--tail", "5", f"flask_blog_{stack.active()}")


def test_metrics_have_no_control_characters(main, engine, released, capsys):
    engine.get = lambda *arguments, **options: (200, "requests 1\n\x9b2J")
    assert main("metrics") == 0
    assert capsys.readouterr().out == "requests 1\n\\x9b2J"
