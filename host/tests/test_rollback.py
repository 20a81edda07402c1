"""Rollbacks, and the releases that they block."""

import json
from dataclasses import replace

import pytest
from fakes import NEW, OLD, THIRD, fits, former_keys

from slipway.ledger import Blocked
from slipway.release import release


def test_rollback_returns_to_the_previous_release_and_blocks_the_current_one(
    main, stack, engine, released, capsys
):
    engine.events.clear()
    assert main("rollback", "--in-unit", "--by=bert") == 0
    assert not {"schema", "migrate", "admin"} & set(engine.events), "a ready slot needs no checks"
    assert f"{released[1].id} serves again" in capsys.readouterr().out
    current = stack.ledger.current()
    assert current.image == NEW
    assert current.version == "1.1"
    assert current.by == "bert"
    assert current.instead_of == released[2].id
    assert current.schema == "0001"
    assert stack.ledger.blocked(THIRD).blocked == Blocked(since="2026-01-01T00:00:00Z", by="bert")
    # A second rollback goes further back, not forward again.
    assert main("rollback", "--in-unit") == 0
    assert stack.ledger.current().image == OLD
    assert main("rollback", "--in-unit") == 1
    assert "no earlier release to roll back to" in capsys.readouterr().err


# What an operator does after the releases 1.0, 1.1 and 1.2, and the version that serves afterwards: "back" is
# a rollback without a name, "to" one with a name. None: there is nothing to go back to.
SEQUENCES = {
    "forward past two rollbacks": [
        ("back", "1.1"),
        ("back", "1.0"),
        ("to 1.2", "1.2"),
        ("back", "1.0"),
        ("back", None),
    ],
    "forward past one of two rollbacks": [
        ("back", "1.1"),
        ("back", "1.0"),
        ("to 1.1", "1.1"),
        ("back", "1.0"),
    ],
    "forward and back, twice": [
        *[("back", "1.1"), ("to 1.2", "1.2")] * 2,
        ("back", "1.1"),
        ("back", "1.0"),
        ("back", None),
    ],
    "forward after new secrets": [
        ("back", "1.1"),
        ("back", "1.0"),
        ("rotate", "1.0"),
        ("to 1.2", "1.2"),
        ("back", "1.0"),
    ],
    "far back, then further": [("release 1.3", "1.3"), ("to 1.1", "1.1"), ("back", "1.0"), ("back", "1.2")],
    "far back, new secrets, then further": [
        ("release 1.3", "1.3"),
        ("to 1.1", "1.1"),
        ("rotate", "1.1"),
        ("back", "1.0"),
    ],
    "far back, then a release": [
        ("to 1.0", "1.0"),
        ("release 1.3", "1.3"),
        ("back", "1.0"),
        ("back", "1.1"),
        ("back", "1.0"),
        ("back", None),
    ],
    "release after each rollback": [
        ("back", "1.1"),
        ("release 1.3", "1.3"),
        ("back", "1.1"),
        ("release 1.4", "1.4"),
        ("back", "1.1"),
        ("back", "1.0"),
    ],
}


@pytest.mark.parametrize("steps", SEQUENCES.values(), ids=SEQUENCES)
def test_rollback_without_a_name_finds_the_release_that_served_before(
    main, stack, engine, released, capsys, steps
):
    images = {entry.version: entry.image for entry in released}
    for step, serves in steps:
        what, _, version = step.partition(" ")
        if what == "release":
            images[version] = f"sha256:{version}"
            engine.stored.add(images[version])
            status = main("release", "--in-unit", "--version", version, images[version])
        elif what == "rotate":
            status = main("rotate", "--in-unit", "key")
        else:
            status = main("rollback", "--in-unit", *([version] if version else []))
        assert status == (serves is None), (step, capsys.readouterr().err)
        if serves:
            assert stack.ledger.current().version == serves, step
            assert engine.images[stack.active()] == images[serves], step


def test_second_rollback_of_a_release_blocks_it_again(main, stack, engine, released):
    for name in ([], ["1.2"], []):
        assert main("rollback", "--in-unit", *name) == 0
    assert stack.ledger.blocked(THIRD)


def test_rollback_past_a_blocked_release_keeps_it_blocked(main, stack, engine, released):
    for name in ([], [], ["1.2"]):
        assert main("rollback", "--in-unit", *name) == 0
    assert [entry.image for entry in stack.ledger.all_blocked()] == [NEW]


def test_rollback_uses_the_present_secrets(main, stack, engine, released, change):
    for name in ("db_app_password", "app_secret_key", "admin_password"):
        change(name)
    engine.events.clear()
    assert main("rollback", "--in-unit") == 0
    slot = stack.active()
    assert stack.slot_secret(slot, "db_app_password") == "another value of db_app_password"
    assert former_keys(stack) == "value of app_secret_key"
    after = engine.variables[-1]
    assert fits(after[f"blog_app_{slot}"], "another value of db_app_password")
    assert after[f"blog_app_{stack.idle()}"] == "NOLOGIN PASSWORD NULL"
    assert engine.events[-1] == f"set-password while {slot} serves"
    assert {"db_app_password", "app_secret_key", "admin_password"} <= set(stack.ledger.current().secrets)


def test_rotation_changes_neither_the_blocked_release_nor_the_image_in_service(
    main, stack, engine, released, capsys
):
    main("rollback", "--in-unit")
    for what in ("key", "admin"):
        assert main("rotate", "--in-unit", what) == 0
    assert [entry.outcome for entry in stack.ledger.entries()[-2:]] == ["in service", "rotated"]
    assert stack.ledger.current().image == engine.images[stack.active()] == NEW
    assert stack.ledger.blocked(THIRD)
    assert main("history") == 0


def test_rollback_accepts_an_id_or_a_version(main, stack, engine, released, capsys):
    for name, image in ((released[0].id, OLD), ("1.2", THIRD)):
        assert main("rollback", "--in-unit", name) == 0
        assert stack.ledger.current().image == image
    assert main("rollback", "--in-unit", "9.9") == 1
    assert "No release with the id or version 9.9 was ever in service" in capsys.readouterr().err


def test_undone_rollback_blocks_no_release(main, stack, engine, released, capsys):
    main("rollback", "--in-unit")
    capsys.readouterr()
    assert main("rollback", "--in-unit", released[2].id) == 0
    assert "blocked" not in capsys.readouterr().out
    assert stack.ledger.all_blocked() == []
    assert main("rollback", "--in-unit") == 0
    assert stack.ledger.current().image == NEW


def test_rollback_to_a_blocked_release_blocks_the_one_that_served(main, stack, engine, released):
    main("rollback", "--in-unit")
    release(stack, "sha256:4", "", "", "anna")
    main("rollback", "--in-unit", released[2].id)
    assert stack.ledger.current().image == THIRD
    assert stack.ledger.blocked("sha256:4")


def test_rollback_check_changes_nothing(main, stack, engine, released, capsys):
    engine.events.clear()
    assert main("rollback", "--check") == 0
    told = {"changed": True, "instead_of": released[2].id, "to": released[1].id}
    assert json.loads(capsys.readouterr().out) == told
    assert engine.events == []
    assert stack.ledger.entries() == released


def test_rollback_to_an_image_that_cannot_run_on_the_schema_fails_with_a_remedy(
    main, stack, engine, released, capsys
):
    culprit = replace(released[2], applied=["0007"])
    stack.ledger.put(replace(released[1], applied=["0007"]), culprit)
    engine.wrong["ready"] = 503
    engine.plan |= {"blocked_by": "0007"}
    assert main("rollback", "--in-unit") == 1
    assert "no dump from before that revision" in capsys.readouterr().err
    stack.dumps.mkdir()
    (stack.dumps / f"{culprit.id}.dump").touch()
    assert main("rollback", "--in-unit") == 1
    told = capsys.readouterr().err
    assert f"slipway restore-dump {culprit.id}\n    slipway rollback {released[1].id}\n" in told
    assert stack.ledger.current().image == engine.images[stack.active()] == THIRD
    assert stack.ledger.blocked(THIRD) is None


def test_rollback_before_the_first_release_fails(main, engine, capsys):
    assert main("rollback", "--in-unit") == 1
    assert "No release is in service yet" in capsys.readouterr().err


def test_blocked_release_is_not_released_until_it_is_named(main, stack, engine, released, capsys):
    main("rollback", "--in-unit", "--by=bert")
    engine.events.clear()
    capsys.readouterr()
    for how in ("--in-unit", "--check"):
        assert main("release", how, "--json", THIRD) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["changed"] is False
        assert told["blocked"] == {"id": released[2].id, "since": "2026-01-01T00:00:00Z", "by": "bert"}
        assert "was rolled back by bert at 2026-01-01T00:00:00Z and is blocked; release " in told["message"]
        assert f"-e release_unblock={released[2].id}" in told["message"]
    assert engine.events == []
    assert main("release", "--in-unit", "--unblock", released[2].id, THIRD) == 0
    assert stack.ledger.current().image == THIRD
    assert stack.ledger.blocked(THIRD) is None


def test_release_that_serves_instead_of_a_blocked_one_gets_the_present_configuration(
    main, stack, engine, released
):
    main("rollback", "--in-unit")
    slot, real = stack.active(), engine.inspect
    labels = {"Config": {"Labels": {"com.docker.compose.config-hash": "of yesterday"}}}
    engine.inspect = lambda asked: real(asked) | (labels if asked == slot else {})
    assert main("release", "--in-unit", THIRD) == 0
    assert stack.active() != slot
    assert stack.ledger.current().image == NEW
    assert stack.ledger.blocked(THIRD)


def test_dump_is_restored_only_during_maintenance(main, stack, capsys):
    assert main("restore-dump", "20260101T000000Z") == 1
    assert "`slipway maintenance on` first" in capsys.readouterr().err
    stack.maintenance_flag.touch()
    assert main("restore-dump", "20260101T000000Z") == 1
    assert "There is no dump of a release 20260101T000000Z. Existing dumps: none." in capsys.readouterr().err
