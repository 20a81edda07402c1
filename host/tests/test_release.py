"""A release, against a fake engine."""

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import NEW, OLD, SECRETS, THIRD, Engine, make_entry

from slipway.release import put_into_service, release
from slipway.settings import SLOTS
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
        "pictures",
    ]
    assert engine.images == stack.slot_images() == {"green": NEW}
    assert stack.active() == "green"

    before = ["check", "database", "schema", "start", "admin", "ready", "smoke"]
    stages = [*before, "switch", "drain", "tidy", "pictures"]
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
    assert json.loads(capsys.readouterr().out)["changed"] is changed
    assert engine.events == []
    assert stack.ledger.entries() == []


@pytest.mark.parametrize(("how", "ending"), [("--in-unit", "COMMIT"), ("--check", "ROLLBACK")])
def test_release_of_the_image_in_service_corrects_the_database_roles(
    main, engine, stack, capsys, how, ending
):
    engine.roles = "before\nafter\n"
    assert main("release", how, "--json", OLD) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True
    assert engine.events == []
    assert engine.endings == [ending]
    assert stack.ledger.entries() == []


def test_release_prints_one_json_object_last(main, engine, capsys):
    assert main("release", "--in-unit", "--json", "--by=anna", NEW) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["changed"] is True
    assert last["by"] == "anna"
    assert last["slot"] == "green"
    assert last["message"] == f"Release {last['id']} is in service in the green slot."
    assert main("release", "--in-unit", "--json", NEW) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is False


def test_release_with_nothing_to_do_starts_no_unit(main, engine, systemd_run, tmp_path, capsys):
    systemd_run(f"touch {tmp_path}/started")
    assert main("release", "--json", OLD) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is False
    assert main("release", OLD) == 0
    assert capsys.readouterr().out.startswith("Nothing to release: this image already serves")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda stack, engine: stack.forget_flag.touch(),
        lambda stack, engine: (stack.in_service / "admin_password").unlink(),
        lambda stack, engine: (stack.in_service / stack.idle()).mkdir(),
        lambda stack, engine: setattr(engine, "roles", "before\nafter\n"),
        lambda stack, engine: engine.wrong.update({"roles": Failure("no database")}),
        lambda stack, engine: (stack.directory.parent / "secrets/admin_password").write_text(
            "another value of admin_password"
        ),
    ],
    ids=["forget", "no password", "secrets left", "roles", "no database", "new password"],
)
def test_release_that_has_something_to_repair_starts_a_unit(
    main, stack, engine, systemd_run, tmp_path, damage
):
    systemd_run(f"touch {tmp_path}/started")
    damage(stack, engine)
    assert main("release", "--json", OLD) == 0
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "arguments",
    [[NEW], ["--version=2.0", OLD], ["--compose=/no/such/file", NEW]],
    ids=["image", "version", "file"],
)
def test_release_of_something_else_starts_a_unit(main, stack, engine, systemd_run, tmp_path, arguments):
    systemd_run(f"touch {tmp_path}/started")
    stack.ledger.put(make_entry(id="1", image=OLD, version="1.0"))
    assert main("release", "--json", *arguments) == 0
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize("how", ["--in-unit", "--check"])
@pytest.mark.parametrize("version", ["1.2", "abc123"], ids=["the same version", "only a revision"])
def test_unchanged_image_is_not_released_and_the_message_says_why(
    main, stack, engine, released, capsys, how, version
):
    assert main("release", how, "--json", f"--version={version}", "--revision=abc123", THIRD) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "changed": False,
        "message": f"Nothing to release: {released[2].id} (1.2) of 2026-01-01T00:00:00Z already serves this "
        "image, with the current configuration.",
    }
    assert stack.ledger.entries() == released


def test_unchanged_image_gets_a_new_version_in_the_ledger(main, stack, engine, released, capsys):
    ask = ("release", "--json", "--version=1.4", "--revision=abc123", THIRD)
    assert main(*ask, "--check") == 0
    assert stack.ledger.entries() == released, "a dry run"
    assert main(*ask, "--in-unit") == 0
    dry, real = map(json.loads, capsys.readouterr().out.splitlines())
    assert dry == real
    assert real["changed"] is True
    assert "(1.2) of" in real["message"]
    assert real["message"].endswith(" Its version in the ledger becomes 1.4.")
    assert stack.ledger.entries() == [*released[:2], replace(released[2], version="1.4")]
    assert main(*ask, "--in-unit") == 0
    assert json.loads(capsys.readouterr().out)["changed"] is False


def test_release_check_compares_another_compose_yml_and_reports_an_interrupted_release(
    main, engine, stack, tmp_path, capsys
):
    ask = ("release", "--check", "--json", OLD)
    compose = tmp_path / "compose.yml"
    compose.write_text("another-compose.yml")
    for arguments, changed in (((), False), (("--compose", str(compose)), True)):
        assert main(*ask, *arguments) == 0
        assert json.loads(capsys.readouterr().out)["changed"] is changed
    stack.ledger.put(make_entry(outcome="under way"))
    assert main(*ask) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True, "it was interrupted"
    assert engine.events == []
    assert engine.images == {"blue": OLD}


def test_release_prints_the_reason_of_its_failure(main, engine, capsys):
    engine.wrong["smoke"] = 500
    assert main("release", "--in-unit", NEW) == 1
    assert capsys.readouterr().err.startswith("slipway: The green slot behind nginx answered 500 to / (Host ")


def test_release_after_the_clock_was_set_back_keeps_the_entry_and_the_dump_of_an_earlier_one(stack, engine):
    engine.plan["pending"] = ["0002"]
    first, second = (release(stack, image, "", "", "anna") for image in (NEW, OLD))
    assert [entry.image for entry in stack.ledger.entries()] == [NEW, OLD]
    assert {path.stem for path in stack.dumps.glob("*.dump")} == {first.id, second.id}


@pytest.mark.parametrize("wrong", [{}, {"smoke": 500}, {"switch": 502}], ids=["works", "refused", "undone"])
def test_slot_is_no_backup_for_readers_until_the_switch(stack, engine, wrong):
    """While the slot's container exists, nginx sends readers to it, or `isolated-green` keeps them away."""
    seen, real = set(), {name: getattr(engine, name) for name in ("run", "get", "output")}

    def watch(name):
        def watched(*arguments, **options):
            if "green" in engine.images:
                seen.add((stack.routed(), stack.isolation_flag("green").exists()))
            return real[name](*arguments, **options)

        return watched

    for name in real:
        setattr(engine, name, watch(name))
    engine.wrong |= wrong
    with contextlib.suppress(Failure):
        release(stack, NEW, "", "", "anna")
    before, after = ("blue", True), ("green", False)
    assert seen == ({before} if "smoke" in wrong else {before, after})
    assert not any(stack.isolation_flag(slot).exists() for slot in SLOTS)


def test_full_disk_after_the_switch_is_reported_and_the_next_run_finishes(main, stack, engine, capsys):
    written = stack.ledger.put

    def full(*changed):
        if changed[-1].outcome == "in service":
            raise OSError(28, "No space left on device", "/var/lib/slipway/releases.json")
        written(*changed)

    stack.ledger.put = full
    with pytest.raises(Failure) as failure:
        release(stack, NEW, "", "", "anna")
    message = str(failure.value)
    assert "serves readers in the green slot, but a step after the switch failed: " in message
    assert "No space left on device: /var/lib/slipway/releases.json" in message
    assert stack.active() == "green"
    assert engine.images == {"blue": OLD, "green": NEW}

    del stack.ledger.put
    [advice] = re.findall("`slipway (release .*?)`", message)
    assert main(*advice.split(), "--in-unit") == 0
    assert "after the switch; it was finished." in capsys.readouterr().out
    assert stack.ledger.current().image == NEW
    assert engine.images == {"green": NEW}


def test_unreadable_list_of_static_files_does_not_fail_a_release_that_serves(stack, engine, capsys):
    stack.manifests.mkdir()
    (stack.manifests / "20250101T000000Z.txt").write_bytes(b"\xff\n")
    assert release(stack, NEW, "", "", "anna").outcome == "in service"
    assert "static files of old releases could not be removed: UnicodeDecodeError" in capsys.readouterr().out


@pytest.mark.parametrize("name", SECRETS)
def test_missing_secret_is_reported_with_a_remedy(main, stack, engine, capsys, name):
    path = Path(stack.config["secrets"]) / name
    path.unlink()
    assert main("release", "--in-unit", NEW) == 1
    assert (
        f"The secret {path} is missing: run site.yml, which creates missing secrets"
        in capsys.readouterr().err
    )
    assert engine.images == {"blue": OLD}


def test_missing_roles_file_is_reported_and_the_old_slot_serves(main, stack, engine, capsys):
    (stack.directory / "roles.sql").unlink()
    assert main("release", "--in-unit", NEW) == 1
    assert f"slipway: No such file or directory: {stack.directory}/roles.sql\n" in capsys.readouterr().err
    assert engine.images == {"blue": OLD}
    assert stack.ledger.entries()[-1].outcome == "failed"
