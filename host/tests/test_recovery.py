"""Recovery from a killed run and from lost state."""

import json
from dataclasses import replace

import pytest
from fakes import NEW, OLD, THIRD, Killed, fits, make_entry

from slipway.credentials import copy_secrets
from slipway.recovery import recover
from slipway.release import put_into_service, release
from slipway.schema import end_migration
from slipway.settings import SLOTS
from slipway.shell import CommandFailure, Failure
from slipway.status import drift

STAGES = ["image", "nginx", "database", "schema", "dump", "migrate", "start", "admin"]


@pytest.mark.parametrize("stage", STAGES)
def test_next_run_undoes_a_release_that_was_killed_before_the_switch(main, stack, engine, capsys, stage):
    engine.plan |= {"pending": ["0002"]}
    engine.wrong[stage] = Killed()
    with pytest.raises(Killed):
        release(stack, NEW, "1.2", "", "anna")
    [left] = stack.ledger.entries()
    assert left.outcome == "under way"
    assert stack.isolation_flag("green").exists() == (stage in ("start", "admin"))

    del engine.wrong[stage]
    assert main("release", "--in-unit", NEW) == 0
    told = capsys.readouterr().out
    assert f"Release {left.id} was interrupted during the stage" in told
    assert "it was undone" in told
    assert engine.images == stack.slot_images() == {"green": NEW}
    assert not stack.isolation_flag("green").exists()
    undone, current = stack.ledger.entries()
    assert undone.outcome == "failed"
    assert current.image == NEW


def test_next_run_finishes_a_release_that_was_killed_after_the_switch(
    main, stack, engine, capsys, hook, tmp_path
):
    stack.config["hooks"] = {"after": hook(f"echo $SLIPWAY_RELEASE $SLIPWAY_OUTCOME > {tmp_path}/told")}
    engine.wrong["switch"] = Killed()
    with pytest.raises(Killed):
        release(stack, NEW, "1.2", "", "anna")
    engine.wrong.clear()
    assert stack.active() == "green"
    assert engine.images == {"blue": OLD, "green": NEW}
    assert main("release", "--in-unit", "--json", NEW) == 0
    out = capsys.readouterr().out
    assert "after the switch; it was finished" in out
    assert json.loads(out.splitlines()[-1])["changed"] is True
    assert engine.images == stack.slot_images() == {"green": NEW}
    [entry] = stack.ledger.entries()
    assert entry.outcome == "in service"
    assert entry.version == "1.2"
    assert entry.stage is None
    assert (tmp_path / "told").read_text() == f"{entry.id} in service\n"


def test_hook_after_runs_even_if_the_release_is_killed_while_it_drains(stack, engine, hook, tmp_path):
    def killed(seconds):
        raise Killed

    stack.config["hooks"] = {"after": hook(f"echo $SLIPWAY_OUTCOME >> {tmp_path}/told")}
    engine.sleep = killed
    with pytest.raises(Killed):
        release(stack, NEW, "", "", "anna")
    assert engine.images == {"blue": OLD, "green": NEW}
    assert put_into_service(stack, NEW, "", "", "anna") == (True, None)
    assert engine.images == {"green": NEW}
    assert (tmp_path / "told").read_text() == "in service\n"


def follow_advice(stack, main, capsys):
    """Break slots.env, and follow the advice of the error message, except that site.yml is not run."""
    stack.slots_file.write_text("GREEN_IMAGE=\n")
    assert main("release", "--in-unit", OLD) == 1
    assert "is broken: it has no COMPOSE_PROFILES. Remove it and run site.yml" in capsys.readouterr().err
    stack.slots_file.unlink()


DAMAGE = {
    "slots.env lost": lambda stack, engine, *_: stack.slots_file.unlink(),
    "slots.env broken": lambda stack, engine, *rest: follow_advice(stack, *rest),
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
def serving(stack, engine, request):
    """The slot that serves OLD: blue, or green after a release of OLD."""
    if request.param == "green":
        engine.images["blue"] = NEW
        release(stack, OLD, "", "", "anna")
    engine.events.clear()
    engine.variables.clear()
    return request.param


@pytest.mark.parametrize("image", [OLD, NEW])
@pytest.mark.parametrize("damage", DAMAGE)
def test_release_repairs_lost_state_while_the_slot_keeps_serving(
    main, stack, engine, serving, capsys, damage, image
):
    """The slot keeps its readers, container and login until the next one serves; then there is no drift."""
    DAMAGE[damage](stack, engine, main, capsys)
    engine.events.clear()
    run = engine.run

    def watched(*command, **options):
        answer = run(*command, **options)
        if command[:2] != ("docker", "ps"):
            slot = stack.routed()
            assert engine.images.get(slot), command
            assert engine.states.get(slot, "running") == "running", command
            login = engine.variables[-1][f"blog_app_{slot}"] if engine.variables else "LOGIN"
            assert login.startswith("LOGIN"), command
        return answer

    assert main("release", "--check", "--json", image) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True
    engine.run = watched
    assert main("release", "--in-unit", "--json", image) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["changed"] is True
    slot = serving if image == OLD else SLOTS[serving == "blue"]
    assert engine.images == stack.slot_images() == {slot: image}
    assert stack.routed() == slot
    assert stack.active() == slot
    assert engine.variables[-1][f"blog_app_{SLOTS[slot == 'blue']}"] == "NOLOGIN PASSWORD NULL"
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == [slot]
    stack.ledger.put(make_entry(id="9", image=image))
    assert drift(stack, stack.ledger.current()) == []
    assert main("release", "--in-unit", "--json", image) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is False


@pytest.mark.parametrize("damage", ["slots.env lost", "flag lost, or left", "flag and slots.env"])
def test_rotation_finds_the_slot_in_service_despite_lost_state(main, stack, engine, serving, capsys, damage):
    DAMAGE[damage](stack, engine)
    assert main("rotate", "--check", "--json", "key") == 0
    engine.readers.clear()
    assert main("rotate", "--in-unit", "admin") == 0
    assert stack.routed() == serving
    assert stack.slot_images() == {serving: OLD}
    assert engine.readers <= {serving}


def test_recovery_keeps_the_new_slot_if_the_old_one_has_stopped(stack, engine):
    """The run was killed after the switch, and the old slot has stopped: only the new slot runs."""
    stack.ledger.put(make_entry(outcome="under way", stage="switch"))
    copy_secrets(stack, "green")
    engine.images, engine.states = {"blue": OLD, "green": NEW}, {"blue": "exited"}
    stack.slots_file.unlink()
    assert "it was finished" in recover(stack)
    assert stack.routed() == "green"
    assert engine.images == {"green": NEW}
    assert stack.slot_images() == {"green": NEW}


def test_recovery_undoes_a_release_without_slots_env(stack, engine):
    stack.ledger.put(make_entry(outcome="under way", stage="ready"))
    copy_secrets(stack, "green")
    engine.images["green"] = NEW
    stack.slots_file.unlink()
    assert "it was undone" in recover(stack)
    assert engine.images == {"blue": OLD}
    assert stack.slot_images() == {"blue": OLD}
    assert fits(engine.variables[-1]["blog_app_blue"], "value of db_app_password")


@pytest.mark.parametrize(("after_switch", "serves"), [(False, "blue"), (True, "green")])
def test_recovery_ends_the_login_of_the_removed_slot(stack, engine, after_switch, serves):
    stack.ledger.put(make_entry(outcome="under way"))
    copy_secrets(stack, "green")
    stack.set_slots({"blue": OLD, "green": NEW})
    stack.switch("green" if after_switch else "blue")
    engine.images["green"] = NEW
    recover(stack)
    ended = SLOTS[serves == "blue"]
    assert engine.variables[-1][f"blog_app_{ended}"] == "NOLOGIN PASSWORD NULL"
    assert fits(engine.variables[-1][f"blog_app_{serves}"], "value of db_app_password")
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == [serves]


def test_recovery_undoes_a_release_while_the_database_is_down(stack, engine):
    stack.ledger.put(make_entry(outcome="under way", stage="database"))
    engine.wrong["roles"] = Failure("the database is not running")
    assert "it was undone" in recover(stack)
    assert stack.slot_images() == {"blue": OLD}


def test_next_run_removes_the_secrets_of_a_removed_slot(stack, engine):
    copy_secrets(stack, "green")
    assert put_into_service(stack, OLD, "", "", "anna") == (True, None)
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == ["blue"]


def test_recovery_undoes_a_switched_release_that_does_not_serve(stack, engine):
    stack.ledger.put(make_entry(outcome="under way", stage="switch"))
    stack.set_slots({"blue": OLD, "green": NEW})
    stack.switch("green")
    engine.images["green"], engine.wrong["switch"] = NEW, 500
    assert "undone" in recover(stack)
    assert stack.active() == "blue"
    assert stack.slot_images() == {"blue": OLD}
    assert engine.images == {"blue": OLD}
    assert stack.ledger.entries()[0].outcome == "failed"


@pytest.fixture
def restarting(engine, monkeypatch):
    """An engine that restarts during the migration: the command ends, and the migration goes on.

    Return the list of what happens, in order.
    """
    happened, down, run = [], iter(range(5)), engine.run
    engine.plan |= {"pending": ["0002"]}
    monkeypatch.setattr(engine, "sleep", lambda seconds: happened.append("wait"))

    def fails(*command):
        raise CommandFailure(command, 1, "Cannot connect to the Docker daemon")

    def restarted(*command, **options):
        words = " ".join(command)
        if words.endswith(" flask_migrate flask migrate"):
            happened.append("migrate")
            fails(*command)
        if "migrate" not in happened or command[0] != "docker":
            return run(*command, **options)
        if next(down, None) is not None:
            fails(*command)
        if "service=flask_migrate" in words:
            return "" if "end" in happened else "id-migration\n"
        if command == ("docker", "rm", "--force", "id-migration"):
            happened.append("end")
            return ""
        if "pg_terminate_backend" in words and "blog_migrator" in words:
            happened.append("end in the database")
            return "t\n"
        return run(*command, **options)

    engine.run = restarted
    return happened


def test_migration_is_ended_before_a_release_is_undone_after_a_restart_of_the_engine(
    stack, engine, restarting
):
    with pytest.raises(
        Failure, match=r"The new slot was removed\. The blue slot serves as before"
    ) as failure:
        release(stack, NEW, "", "", "anna")
    assert "A step of undoing" not in str(failure.value)
    assert restarting == ["migrate", *["wait"] * 5, "end", "end in the database"]


def test_next_release_ends_a_migration_that_an_undone_one_could_not_end(stack, engine, restarting):
    engine.settings = replace(engine.settings, start_seconds=0)
    with pytest.raises(Failure, match=r"(?s)A step of undoing .* Docker daemon") as failure:
        release(stack, NEW, "", "", "anna")
    assert "The new slot was removed" not in str(failure.value)
    engine.plan |= {"pending": []}
    assert release(stack, NEW, "", "", "anna")
    assert restarting.index("end") > restarting.index("migrate")


def test_migration_that_does_not_end_is_reported(stack, engine):
    engine.verifiers = "f\n"
    with pytest.raises(Failure, match="database has not ended the migration"):
        end_migration(stack)
