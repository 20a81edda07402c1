"""The ledger."""

import re
import subprocess

import pytest
from fakes import NEW, OLD, THIRD, broken

from slipway import ledger


def test_ledger_knows_the_release_in_service(stack):
    assert (stack.ledger.entries(), stack.ledger.current()) == ([], None)
    outcomes = ["in service", "in service", "failed"]
    entries = [{"id": number, "outcome": outcome} for number, outcome in enumerate(outcomes)]
    for entry in entries:
        stack.ledger.put(entry)
    assert stack.ledger.entries() == entries
    assert stack.ledger.current() == entries[1]


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


def test_ledger_is_bounded_and_failures_push_nothing_out_that_served(stack):
    for number in range(ledger.ENTRIES + 5):
        stack.ledger.put({"id": f"good {number}", "image": NEW, "outcome": "in service"})
    for number in range(ledger.ENTRIES + 5):
        stack.ledger.put({"id": f"bad {number}", "image": OLD, "outcome": "failed"})
    entries = [entry["id"] for entry in stack.ledger.entries()]
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
