"""The ledger."""

import json
import re
import subprocess

import pytest
from fakes import NEW, OLD, THIRD, damage_ledger, make_entry

from slipway import ledger


def test_ledger_returns_the_release_in_service(stack):
    assert stack.ledger.entries() == []
    assert stack.ledger.current() is None
    outcomes = ["in service", "in service", "failed"]
    entries = [make_entry(id=str(number), outcome=outcome) for number, outcome in enumerate(outcomes)]
    for entry in entries:
        stack.ledger.put(entry)
    assert stack.ledger.entries() == entries
    assert stack.ledger.current() == entries[1]


def test_advised_command_restores_the_previous_ledger(main, stack, engine, released, capsys):
    kept = damage_ledger(stack, engine)
    before = kept()
    assert main("release", "--in-unit", NEW) == 1
    [advised] = re.findall(r"^    (cp .*)$", capsys.readouterr().err, re.MULTILINE)
    subprocess.run(advised, shell=True, check=True)
    assert [entry.id for entry in stack.ledger.entries()] == [entry.id for entry in released]
    assert stack.ledger.current().image == THIRD
    assert kept() == before
    assert main("rollback", "--in-unit") == 0
    assert stack.ledger.current().image == NEW
    assert stack.ledger.blocked(THIRD)


# An entry as this version writes it, with every key.
WHOLE = {
    "id": "20260101T000000Z",
    "image": NEW,
    "version": "1.1",
    "revision": "abc123",
    "slot": "green",
    "by": "anna",
    "at": "2026-01-01T00:00:10Z",
    "outcome": "in service",
    "stage": "ready",
    "stages": {"check": 0.5, "ready": 2.0},
    "switched": 2.5,
    "instead_of": "20251231T000000Z",
    "blocked": {"since": "2026-01-02T00:00:00Z", "by": "bert"},
    "schema": "0002",
    "applied": ["0002"],
    "config": "hash",
    "secrets": [],
    "reason": "a reason",
}
REQUIRED = ("id", "image", "version", "revision", "slot", "by", "at", "outcome")


@pytest.mark.parametrize(
    "entry",
    [WHOLE, {key: WHOLE[key] for key in REQUIRED}, WHOLE | {"of_a_newer_version": [1]}],
    ids=["every key", "required keys", "unknown key"],
)
def test_entry_is_written_as_it_was_read(stack, entry):
    stack.ledger.path.write_text(json.dumps([entry]))
    stack.ledger.put(make_entry(id="20260103T000000Z"))
    first, _ = json.loads(stack.ledger.path.read_text())
    assert first == entry


def test_former_key_held_is_read_as_blocked(stack):
    before = WHOLE | {"held": WHOLE["blocked"]}
    del before["blocked"]
    stack.ledger.path.write_text(json.dumps([before]))
    assert stack.ledger.blocked(NEW).to_json() == WHOLE


WRONG = {
    **{f"no {key}": {other: WHOLE[other] for other in REQUIRED if other != key} for key in REQUIRED},
    "image": WHOLE | {"image": 1},
    "stages": WHOLE | {"stages": ["check"]},
    "seconds": WHOLE | {"stages": {"check": "long"}},
    "applied": WHOLE | {"applied": [2]},
    "no author of the block": WHOLE | {"blocked": {"since": "2026-01-02T00:00:00Z"}},
    "list of blocked": WHOLE | {"blocked": ["since", "by"]},
    "blocked": WHOLE | {"blocked": 1},
    "slot": WHOLE | {"slot": "purple"},
}


@pytest.mark.parametrize(
    "content",
    ["", "[{", "{}", "[1]", '[{"id": "1"}]', "\0" * 40, *(json.dumps([entry]) for entry in WRONG.values())],
    ids=["empty", "half", "object", "number", "id only", "zeros", *WRONG],
)
def test_invalid_ledger_is_reported(main, stack, engine, released, capsys, content):
    stack.ledger.path.write_text(content)
    assert main("history") == 1
    assert f"slipway: {stack.ledger.path} is broken" in capsys.readouterr().err


def test_ledger_is_limited_and_failures_remove_no_release_that_served(stack):
    for number in range(ledger.ENTRIES + 5):
        stack.ledger.put(make_entry(id=f"good {number}", image=NEW))
    for number in range(ledger.ENTRIES + 5):
        stack.ledger.put(make_entry(id=f"bad {number}", image=OLD, outcome="failed"))
    entries = [entry.id for entry in stack.ledger.entries()]
    each = range(5, ledger.ENTRIES + 5)
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
def test_broken_state_is_reported_and_nothing_changes(main, stack, engine, released, values, capsys, command):
    secrets = values()
    for file, content in ((stack.ledger.path, "[{"), (stack.slots_file, "GREEN_IMAGE=\n")):
        engine.events.clear()
        whole = file.read_text()
        file.write_text(content)
        assert main(*command) == 1
        assert f"slipway: {file} is broken" in capsys.readouterr().err
        assert engine.events == []
        assert values() == secrets
        file.write_text(whole)
