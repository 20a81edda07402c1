"""Moves of the database to another major version of Postgres, and back."""

import io
import json
import sys

import pytest
from backup_fakes import BEFORE, CONTENT, MARKER, failure, once
from fakes import OLD, Killed

from slipway import backups, generations, restore, upgrade
from slipway.drills import Drill, save
from slipway.lock import lock

OLD_TEXT, NEW_TEXT = "the database has the image sha256:17", "the database has the image sha256:18"
COPY = f"copy of {BEFORE}"


@pytest.fixture
def volume(stack, vault):
    """The fake engine, with images of PostgreSQL 17 and 18, compose.yml with the former, and a good drill."""
    vault.majors = {"sha256:17": "17", "sha256:18": "18"}
    (stack.directory / "compose.yml").write_text(OLD_TEXT)
    save(stack, Drill(stack.host.now(), passed=True))
    return vault


@pytest.fixture
def run(main, volume, monkeypatch, capsys):
    """Run `upgrade-database` as its unit does, and return its exit status, output and errors."""

    def call(*arguments, text=NEW_TEXT):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        status = main("upgrade-database", "--in-unit", "--by=anna", *arguments)
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.fixture
def logins(engine):
    """A function that tells whether the blog can log in to the database; a release before the test let it."""
    engine.variables.append({"blog_app_blue": ""})
    return lambda: not engine.variables[-1]["blog_app_blue"].startswith("NOLOGIN")


def compose_file(stack):
    return (stack.directory / "compose.yml").read_text()


def directories(volume):
    """Return the directories of databases in the volume."""
    return sorted(str(path.relative_to(volume.place)) for path in volume.place.glob("*/*"))


def expect_former(stack, volume, logins):
    """Assert that the former version serves as if nothing had happened."""
    assert (volume.running, volume.serving()) == ("17", BEFORE)
    assert directories(volume) == ["17/a"]
    assert compose_file(stack) == OLD_TEXT
    assert volume.containers == {"db": "running"}
    assert logins()
    assert not stack.maintenance_flag.exists()


# --- What is needed -----------------------------------------------------------------------------------------


def test_host_without_a_drill_is_refused(stack, run, volume):
    (stack.state / "drills.json").unlink()
    status, _told, errors = run()
    assert status == 1
    assert "There was no restore drill yet. Upgrade only after a good drill: playbooks/drill.yml." in errors
    assert volume.order("start db_rehearsal", "stop db") == []


def test_host_whose_last_drill_failed_is_refused_with_the_reason(stack, run, volume):
    save(stack, Drill(stack.host.now(), reason="a page is damaged"))
    status, _told, errors = run()
    assert status == 1
    assert "a page is damaged Upgrade only after a good drill" in errors
    assert volume.order("start db_rehearsal", "stop db") == []


def test_host_without_backups_is_refused(stack, run, volume):
    del stack.config["backup_repository"]
    status, _told, errors = run()
    assert status == 1
    assert "This host has no backups, so an upgrade cannot be rehearsed" in errors


def test_earlier_version_is_refused_and_the_way_back_is_named(stack, run, volume):
    volume.majors["sha256:18"] = "15"
    status, _told, errors = run()
    assert status == 1
    assert "The database is of PostgreSQL 17, and the image has 15" in errors
    assert "`-e upgrade_undo=true`" in errors


def test_other_databases_which_would_be_lost_are_named(run, volume):
    volume.others = "shop, wiki"
    status, _told, errors = run()
    assert status == 1
    assert "there are others: shop, wiki. Nothing was changed." in errors


def test_database_of_the_new_version_that_served_before_is_kept(run, volume):
    directory = volume.place / "18/a"
    directory.mkdir(parents=True)
    (directory / "name").write_text("served before")
    assert run()[0] == 0
    assert [(path / "name").read_text() for path in volume.place.glob("18/former-*")] == ["served before"]
    assert volume.serving() == COPY


def test_database_that_accepts_no_changes_is_refused(run, volume):
    (volume.live / "standby.signal").touch()
    status, _told, errors = run()
    assert status == 1
    assert "The database does not accept changes" in errors


def test_link_out_of_the_volume_is_refused(run, volume, tmp_path):
    (volume.place / "18").symlink_to(tmp_path)
    status, _told, errors = run()
    assert status == 1
    assert f"{volume.place / '18'} is a link, which a compromised database may have made" in errors


def test_upgrade_without_space_is_refused(run, volume, engine):
    engine.space = 128 * 10**6
    status, _told, errors = run()
    assert status == 1
    assert "This needs 129 MB for copies of the database" in errors
    assert volume.order("recover db_drill", "start db_rehearsal") == []


def test_upgrade_is_refused_while_another_operation_is_under_way(stack, run, volume, engine, logins):
    with lock(engine, "bert"):
        status, _told, errors = run()
    assert status == 1
    assert "Another operation is under way: bert" in errors
    assert volume.events == []


def test_upgrade_runs_in_a_unit(main, volume, started):
    with pytest.raises(Killed):
        main("upgrade-database")
    [command] = started
    assert command[0] == "systemd-run"
    assert {"upgrade-database", "--in-unit"} <= set(command)


# --- The rehearsal ------------------------------------------------------------------------------------------


def test_rehearsal_changes_nothing_and_says_how_long_it_takes(stack, run, volume, logins):
    status, told, _errors = run("--rehearse")
    assert status == 0
    assert json.loads(told.splitlines()[-1]) == {"changed": False}
    assert "rehearsed: 12 rows are the same" in told
    steps = [
        "recover db_drill",
        "promote db_drill",
        "start db_rehearsal",
        "copy db_rehearsal",
        "check backups",
    ]
    assert volume.order(*steps, "stop db", "copy db_upgrade") == steps
    assert volume.volumes == set()
    expect_former(stack, volume, logins)


@pytest.mark.parametrize(
    "event", ["recover db_drill", "start db_rehearsal", "copy db_rehearsal", "check backups"]
)
def test_rehearsal_that_fails_prevents_the_upgrade(stack, run, volume, logins, event):
    volume.wrong[event] = failure("extension not available")
    status, _told, errors = run()
    assert status == 1
    assert "extension not available" in errors
    assert volume.volumes == set()
    expect_former(stack, volume, logins)


# --- An upgrade that succeeds -------------------------------------------------------------------------------


def test_new_version_serves_and_the_former_database_is_kept(stack, run, volume, logins):
    status, told, _errors = run()
    assert status == 0
    assert (volume.running, volume.serving()) == ("18", COPY)
    [former] = volume.place.glob("17/former-*")
    assert (former / "name").read_text() == BEFORE
    assert directories(volume) == [f"17/{former.name}", "18/a"]
    assert compose_file(stack) == NEW_TEXT
    assert volume.containers == {"db": "running"}
    assert logins()
    assert not stack.maintenance_flag.exists()
    assert json.loads(told.splitlines()[-1]) == {"changed": True}
    assert "PostgreSQL 18 serves" in told


def test_steps_of_an_upgrade_are_in_order(run, volume):
    run()
    steps = ["copy db_rehearsal", "start db_upgrade", "end backups", "copy db_upgrade", "stop db", "start db"]
    assert volume.order(*steps)[: len(steps)] == steps


def test_changes_are_archived_before_the_copy(run, volume):
    run()
    steps = ["close", "end backups", "close", "copy db_upgrade"]
    assert volume.order("end backups", "close", "copy db_upgrade")[: len(steps)] == steps


def test_backups_of_the_new_version_begin(run, volume):
    run()
    assert volume.events[-3:] == ["stanza-upgrade", "systemctl reset-failed", "systemctl restart"]
    assert volume.started == ["slipway-backup@full.service"]


def test_host_without_a_backup_of_the_new_version_is_red(stack, run, volume):
    volume.wrong["stanza-upgrade"] = failure("no route to host")
    run()
    assert backups.examine(stack).problems["full"] == (
        "The backups of this version of Postgres have not begun: run upgrade_database.yml again."
    )


def test_backups_do_not_begin_before_an_upgrade_has_ended(main, run, volume, capsys):
    volume.wrong["stanza-upgrade"] = failure("no route to host")
    run()
    assert main("backup", "prepare") == 1
    assert "an upgrade or its undoing did not end: run upgrade_database.yml again" in capsys.readouterr().err


def test_new_host_with_the_backups_of_a_lost_one_gets_the_advice_to_restore(main, volume, capsys):
    volume.databases, volume.foreign = ["15"], True
    assert main("backup", "prepare") == 1
    assert "To bring that database back, run `slipway restore`" in capsys.readouterr().err
    assert "stanza-upgrade" not in volume.events


def test_status_names_the_former_database_and_forget_removes_it(stack, run, run_restore, volume):
    run()
    [former] = volume.place.glob("17/former-*")
    [sentence] = restore.sentences(stack)
    assert f"17/{former.name} is the database from before an upgrade" in sentence
    assert "upgrade_undo=true" in sentence
    assert "Former databases removed: 1." in run_restore("--forget")[1]
    assert directories(volume) == ["18/a"]


def test_second_run_changes_nothing(run, volume, engine):
    run()
    engine.unit = "activating"  # the full backup
    volume.events.clear()
    status, told, _errors = run()
    assert status == 0
    assert json.loads(told.splitlines()[-1]) == {"changed": False}
    assert volume.order("copy db_upgrade", "stop db", "copy db_rehearsal", "stanza-upgrade") == []


def test_repository_without_a_stanza_is_left_to_site_yml(run, volume):
    def forget():
        volume.code, volume.backups = 1, []

    volume.wrong["start db"] = once_then(forget)
    assert run()[0] == 0
    assert "stanza-upgrade" not in volume.events


def once_then(action):
    """Return a function that does something when it is first called."""
    left = [action]

    def call():
        if left:
            left.pop()()

    return call


def test_repository_that_is_away_fails_the_run_after_the_database_serves(stack, run, volume, logins):
    volume.wrong["stanza-upgrade"] = once(failure("no route to host"))
    status, _told, errors = run()
    assert status == 1
    assert "The database serves, but its backups could not begin" in errors
    assert "Run upgrade_database.yml again." in errors
    assert volume.running == "18"
    assert not stack.maintenance_flag.exists()
    assert run()[0] == 0
    assert volume.major == "18"


# --- An upgrade that fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["start db_upgrade", "copy db_upgrade", "stop db_upgrade"])
def test_failure_before_the_switch_leaves_the_former_version(stack, run, volume, logins, event):
    volume.wrong[event] = failure("no space left on device")
    status, _told, errors = run()
    assert status == 1
    assert "no space left on device" in errors
    assert "stop db" not in volume.events
    expect_former(stack, volume, logins)


@pytest.mark.parametrize("service", ["db_rehearsal", "db_upgrade"])
def test_copy_that_differs_is_not_put_into_service(stack, run, volume, logins, service):
    volume.copied[service] = CONTENT | {"table public.post": "11 rows, digest 76"}
    status, _told, errors = run()
    assert status == 1
    assert (
        "The copy differs from the database. table public.post: 11 rows, digest 76 "
        "instead of 12 rows, digest 77" in errors
    )
    expect_former(stack, volume, logins)


@pytest.mark.parametrize("event", ["stop db", "start db"])
def test_failure_of_the_switch_puts_the_former_version_back(stack, run, volume, logins, event):
    volume.wrong[event] = once(failure("invalid parameter"))
    status, _told, errors = run()
    assert status == 1
    assert "PostgreSQL 17 serves again, because 18 failed" in errors
    assert "invalid parameter" in errors
    expect_former(stack, volume, logins)


def test_blog_that_does_not_work_on_the_new_version_gets_the_former_one_back(
    stack, run, volume, logins, monkeypatch
):
    ready = generations.make_ready

    def make_ready(stack):
        if volume.running == "18":
            raise failure("the blog is not ready")
        ready(stack)

    monkeypatch.setattr(generations, "make_ready", make_ready)
    status, _told, errors = run()
    assert status == 1
    assert "PostgreSQL 17 serves again, because 18 failed" in errors
    expect_former(stack, volume, logins)


def test_database_that_cannot_be_put_back_is_named_and_the_page_stays(stack, run, volume):
    def break_engine():
        volume.wrong["stop db"] = failure("the engine is away")
        raise failure("invalid parameter")

    volume.wrong["start db"] = break_engine
    status, _told, errors = run()
    assert status == 1
    assert "The former database could not be put back" in errors
    assert f"It is in {volume.place / '17/a'}." in errors
    assert stack.maintenance_flag.exists()
    assert (volume.place / "17/a/name").read_text() == BEFORE


# --- An upgrade that is killed ------------------------------------------------------------------------------


# What the program does when it fails, and cannot do when it is killed.
CLEANING = [
    (generations, "end_maintenance"),
    (upgrade, "reconcile_roles"),
    (upgrade, "remove_copies"),
]
EVENTS = [
    "start db_rehearsal",
    "start db_upgrade",
    "end backups",
    "copy db_upgrade",
    "stop db_upgrade",
    "stop db",
    "start db",
    "stanza-upgrade",
]


@pytest.fixture
def run_killed(run, volume, monkeypatch):
    """A function that runs `upgrade-database`, and kills it at an event."""

    def call(event, *arguments, **options):
        def die():
            for place, name in CLEANING:
                dead.setattr(place, name, lambda *arguments, **named: None)
            raise Killed

        volume.wrong[event] = die
        with monkeypatch.context() as dead:
            with pytest.raises(Killed):
                run(*arguments, **options)
            volume.wrong.clear()

    return call


@pytest.mark.parametrize("event", EVENTS)
def test_killed_upgrade_is_finished_by_the_next_run(stack, run, run_killed, volume, logins, event):
    run_killed(event)
    assert run()[0] == 0
    assert (volume.running, volume.serving()) == ("18", COPY)
    assert [(path / "name").read_text() for path in volume.place.glob("17/former-*")] == [BEFORE]
    assert [path for path in directories(volume) if "former" not in path] == ["18/a"]
    assert volume.containers == {"db": "running"}
    assert logins()
    assert not stack.maintenance_flag.exists()
    assert not (volume.live / MARKER).exists()
    assert volume.major == "18"


def test_status_says_that_an_upgrade_was_interrupted(stack, volume):
    stack.restore_flag.write_text("upgrade")
    assert "An upgrade of the database was interrupted" in restore.sentences(stack)[0]


@pytest.mark.parametrize("event", ["end backups", "stop db", "start db", "stanza-upgrade"])
def test_killed_undo_is_finished_by_the_next_run(run, run_killed, volume, logins, event):
    run()
    run_killed(event, "--undo", text=OLD_TEXT)
    assert run("--undo", text=OLD_TEXT)[0] == 0
    assert (volume.running, volume.serving()) == ("17", BEFORE)
    assert [(path / "name").read_text() for path in volume.place.glob("18/former-*")] == [COPY]
    assert logins()
    assert volume.major == "17"


def test_stopped_container_is_started(run, volume):
    volume.containers["db"] = "exited"
    assert run("--rehearse")[0] == 0
    assert volume.containers == {"db": "running"}


def test_copy_that_never_served_is_removed_if_the_former_image_is_chosen_again(run, volume):
    directory = volume.place / "18/a"
    directory.mkdir(parents=True)
    (directory / MARKER).touch()
    assert run(text=OLD_TEXT)[0] == 0
    assert directories(volume) == ["17/a"]


# --- The way back -------------------------------------------------------------------------------------------


def test_undo_puts_the_former_database_back_and_keeps_the_present_one(stack, run, volume, logins):
    run()
    status, told, _errors = run("--undo", text=OLD_TEXT)
    assert status == 0
    assert "PostgreSQL 17 serves" in told
    assert (volume.running, volume.serving()) == ("17", BEFORE)
    [kept] = volume.place.glob("18/former-*")
    assert (kept / "name").read_text() == COPY
    assert compose_file(stack) == OLD_TEXT
    assert logins()
    assert volume.major == "17"


def test_upgrade_undo_and_upgrade_again(run, volume):
    run()
    run("--undo", text=OLD_TEXT)
    assert run()[0] == 0
    assert (volume.running, volume.serving()) == ("18", COPY)
    assert len(list(volume.place.glob("17/former-*"))) == 1
    assert len(list(volume.place.glob("18/former-*"))) == 1


def test_undo_without_a_former_database_is_refused(stack, run, volume):
    status, _told, errors = run("--undo")
    assert status == 1
    assert "There is no former database of PostgreSQL 18 on this host. Nothing was changed." in errors
    assert volume.serving() == BEFORE


def test_undo_with_the_images_of_the_present_version_is_refused(run, volume, engine):
    run()
    engine.unit = "activating"  # the full backup
    status, _told, errors = run("--undo")
    assert status == 1
    assert "PostgreSQL 18 serves, and the images have the same version. Nothing was changed." in errors


def test_undo_works_while_the_new_version_does_not_start(run, volume, logins):
    run()

    def fail_if_18():
        if volume.running == "18":
            volume.containers["db"] = "exited"
            raise failure("the log is damaged")

    volume.containers["db"] = "exited"
    volume.wrong["start db"] = fail_if_18
    status, told, _errors = run("--undo", text=OLD_TEXT)
    assert status == 0
    assert "the present database does not serve" in told
    assert (volume.running, volume.serving()) == ("17", BEFORE)


def test_undo_works_if_a_killed_upgrade_left_a_new_version_that_does_not_start(
    run, volume, logins, monkeypatch
):
    (volume.place / "18/a").mkdir(parents=True)
    (volume.place / "18/a/name").write_text(COPY)
    (volume.engine.stack.directory / "compose.yml").write_text(NEW_TEXT)
    volume.running, volume.containers["db"] = "18", "exited"

    def fail_if_18():
        if volume.running == "18":
            volume.containers["db"] = "exited"
            raise failure("the log is damaged")

    volume.wrong["start db"] = fail_if_18
    status, _told, errors = run()
    assert status == 1
    assert "`-e upgrade_undo=true` and the former images put the former one back" in errors
    assert run("--undo", text=OLD_TEXT)[0] == 0
    assert (volume.running, volume.serving()) == ("17", BEFORE)


def test_undo_that_fails_leaves_the_new_version_in_service(run, volume, logins):
    run()
    volume.wrong["start db"] = once(failure("it is broken"))
    status, _told, errors = run("--undo", text=OLD_TEXT)
    assert status == 1
    assert "PostgreSQL 18 serves again, because 17 failed" in errors
    assert (volume.running, volume.serving()) == ("18", COPY)
    assert len(list(volume.place.glob("17/former-*"))) == 1
    assert logins()


def test_release_in_service_stays(run, engine):
    run()
    assert engine.images == {"blue": OLD}
