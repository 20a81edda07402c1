"""The status and the drift that it reports."""

import json
import os

import pytest
from fakes import NEW, OLD, THIRD, make_entry

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


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize(("pid", "says"), [(os.getpid(), "under way"), (2**22 + 1, "interrupted")])
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
