"""Migrations in a release."""

import pytest
from fakes import NEW

from slipway.release import release
from slipway.shell import Failure


def test_migration_runs_after_a_dump(stack, engine):
    engine.plan |= {"pending": ["0002"], "head": "0002"}
    entry = release(stack, NEW, "", "", "anna")
    assert engine.events[3:7] == ["database", "schema", "dump", "migrate"]
    assert entry.schema == "0002"
    assert entry.applied == ["0002"]
    dump = stack.dumps / f"{entry.id}.dump"
    assert dump.read_text() == "a dump"
    assert dump.stat().st_mode & 0o777 == 0o600


def test_first_migration_runs_without_a_dump(stack, engine):
    engine.plan |= {"pending": ["0001"], "current": None}
    release(stack, NEW, "", "", "anna")
    assert "dump" not in engine.events
    assert "migrate" in engine.events


def test_destructive_migration_is_refused_until_it_is_named(stack, engine):
    engine.plan |= {"pending": ["0002", "0003"], "destructive": ["0003"]}
    for allow in ([], ["0002"]):
        with pytest.raises(Failure, match=r"0003 is destructive.*--allow-destructive 0003"):
            release(stack, NEW, "", "", "anna", allow=allow)
    assert not {"dump", "migrate", "start"} & set(engine.events)
    assert release(stack, NEW, "", "", "anna", allow=["0003"]).applied == ["0002", "0003"]


@pytest.mark.parametrize("output", ["", "Done.\n"])
def test_migration_that_prints_no_json_object_fails_the_release(stack, engine, output):
    engine.migrate_output, engine.plan["pending"] = output, ["0002"]
    with pytest.raises(Failure, match="`flask migrate` printed no JSON object"):
        release(stack, NEW, "", "", "anna")
    assert stack.active() == "blue"
    assert stack.ledger.entries()[-1].outcome == "failed"
