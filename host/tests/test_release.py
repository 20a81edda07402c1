"""A release, against a fake engine."""

import json
import re

import pytest
from fakes import NEW, OLD, Engine, make_entry

from slipway.release import put_into_service, release
from slipway.shell import CommandFailure, Failure


def test_release_runs_its_stages_in_order(stack, engine, capsys):
    entry = release(stack, NEW, "1.2", "abc123", "anna")
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
    told = entry.to_json()
    assert list(told.pop("stages")) == stages
    assert re.fullmatch(r"\d{8}T\d{6}Z", told.pop("id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told.pop("at"))
    assert 0 <= told.pop("switched") < 5
    assert told == {
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


def test_next_run_removes_an_old_slot_that_did_not_stop(stack, engine):
    remove = stack.remove

    def stuck(slot):
        if slot == "blue":
            raise Failure("the container does not stop")
        remove(slot)

    stack.remove = stuck
    with pytest.raises(Failure, match="does not stop"):
        release(stack, NEW, "", "", "anna")
    assert stack.active() == "green"
    assert stack.ledger.current().image == NEW

    stack.remove = remove
    assert put_into_service(stack, NEW, "", "", "anna") == (True, None)
    assert engine.images == stack.slot_images() == {"green": NEW}


def test_next_release_uses_the_slot_that_became_idle(stack, engine):
    release(stack, NEW, "", "", "anna")
    assert release(stack, OLD, "", "", "anna").slot == "blue"
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
def test_failed_release_leaves_the_old_slot_serving(stack, engine, stage, reason):
    engine.wrong[stage] = reason if isinstance(reason, int) else CommandFailure(["docker"], 1, reason)
    engine.plan |= {"pending": ["0002"]} if stage in ("dump", "migrate") else {}
    with pytest.raises(Failure) as failure:
        release(stack, NEW, "1.2", "abc123", "anna")
    message = str(failure.value)
    assert str(reason) in message
    started = stage in ("admin", "ready", "smoke", "switch")
    assert ("Its last lines:\n    of green\n" in message) == started
    assert "The new slot was removed. The blue slot serves as before." in message
    assert ("The dump from before the migration is" in message) == (stage == "migrate")

    kill = [] if stage == "switch" else ["kill green"]
    log = ["log of green while blue serves"] if started else []
    last = [*log, *kill, "remove green while blue serves"]
    assert engine.events[-len(last) :] == last
    assert ("kill green" in engine.events) == bool(kill), "a slot with readers finishes requests"
    assert engine.images == stack.slot_images() == {"blue": OLD}
    assert stack.active() == "blue"
    [entry] = stack.ledger.entries()
    assert entry.image == NEW
    assert entry.slot == "green"
    assert entry.outcome == "failed"
    assert message.startswith(f"{entry.reason}\n{'The container' if started else 'The new slot'}")


def test_full_disk_fails_a_release_like_any_other_error(stack, engine):
    engine.wrong["start"] = OSError(28, "No space left on device")
    with pytest.raises(Failure, match="No space left on device"):
        release(stack, NEW, "", "", "anna")
    assert stack.slot_images() == {"blue": OLD}
    assert stack.ledger.entries()[-1].outcome == "failed"


def test_failed_release_is_undone_even_if_the_engine_fails(stack, engine):
    engine.wrong |= {"switch": 502, "log": Failure("Cannot connect to the Docker daemon")}
    with pytest.raises(Failure, match="Docker daemon"):
        release(stack, NEW, "", "", "anna")
    assert stack.active() == "blue"
    assert stack.slot_images() == {"blue": OLD}
    assert "502" in stack.ledger.entries()[-1].reason


def test_failed_first_release_leaves_nothing(stack, engine):
    engine.images.clear()
    stack.set_slots({})
    engine.wrong["switch"] = 502
    with pytest.raises(Failure, match=r"No release was in service before\.$"):
        release(stack, NEW, "", "", "anna")
    assert engine.images == {}
    assert stack.slot_images() == {}
    assert stack.active() is None
    assert stack.ledger.current() is None


def test_release_of_the_image_in_service_does_nothing(stack, engine):
    assert release(stack, OLD, "1.2", "abc123", "anna") is None
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
def test_release_replaces_a_slot_with_another_image_or_configuration(stack, engine, change):
    found = {"blue": engine.inspect("blue") | change}
    engine.inspect = lambda slot: found.get(slot) or Engine.inspect(engine, slot)
    assert release(stack, OLD, "", "", "anna").slot == "green"


@pytest.mark.parametrize("answer", [None, 500])
def test_release_replaces_a_slot_that_does_not_answer(stack, engine, answer):
    engine.wrong["health"] = answer
    assert release(stack, OLD, "", "", "anna").slot == "green"


def test_release_refuses_a_tag(main, engine, capsys):
    assert main("release", "slipway/flask_blog:latest") == 1
    assert "slipway/flask_blog:latest is not an image id" in capsys.readouterr().err
    assert engine.events == []


@pytest.mark.parametrize(
    ("image", "changed"), [(OLD, False), (NEW, True), ("slipway/flask_blog:unbuilt", True)]
)
def test_release_check_reports_changes_and_makes_none(main, engine, stack, capsys, image, changed):
    assert main("release", "--check", "--json", image) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": changed}
    assert engine.events == []
    assert stack.ledger.entries() == []


@pytest.mark.parametrize(("how", "ending"), [("--in-unit", "COMMIT"), ("--check", "ROLLBACK")])
def test_release_of_the_image_in_service_corrects_the_database_roles(
    main, engine, stack, capsys, how, ending
):
    engine.roles = "before\nafter\n"
    assert main("release", how, "--json", OLD) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True}
    assert engine.events == []
    assert engine.endings == [ending]
    assert stack.ledger.entries() == []


def test_release_prints_one_json_object_last(main, engine, capsys):
    assert main("release", "--in-unit", "--json", "--by=anna", NEW) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["changed"] is True
    assert last["by"] == "anna"
    assert last["slot"] == "green"
    assert main("release", "--in-unit", "--json", NEW) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False}


def test_release_check_compares_another_compose_yml_and_reports_an_interrupted_release(
    main, engine, stack, tmp_path, capsys
):
    ask = ("release", "--check", "--json", OLD)
    compose = tmp_path / "compose.yml"
    compose.write_text("another-compose.yml")
    for arguments, changed in (((), False), (("--compose", str(compose)), True)):
        assert main(*ask, *arguments) == 0
        assert json.loads(capsys.readouterr().out) == {"changed": changed}
    stack.ledger.put(make_entry(outcome="under way"))
    assert main(*ask) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True}, "it was interrupted"
    assert engine.events == []
    assert engine.images == {"blue": OLD}


def test_release_prints_the_reason_of_its_failure(main, engine, capsys):
    engine.wrong["smoke"] = 500
    assert main("release", "--in-unit", NEW) == 1
    assert capsys.readouterr().err.startswith("slipway: The green slot behind nginx answered 500 to / (Host ")
