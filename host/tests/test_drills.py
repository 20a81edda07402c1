"""Restore drills."""

import datetime
import io
import json
import signal
import sys
from dataclasses import asdict

import pytest
from backup_fakes import ROWS, backup, failure, terminate
from fakes import SECRETS, Killed
from ward import NOON, shown

from slipway import drills
from slipway.credentials import write_copies
from slipway.drills import Drill, read_drills
from slipway.lock import DRILL, lock

NOTHING = []
FIRST = "2025-12-31T12:00:00Z"  # the end of the oldest backup


@pytest.fixture(autouse=True)
def _signals():
    """Fail, rather than end all tests, if a drill does not handle SIGTERM; restore the handler afterwards."""

    def unhandled(number, frame):
        raise AssertionError("the drill does not handle SIGTERM at this moment")

    before = signal.signal(signal.SIGTERM, unhandled)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def drill(main, stack, vault, capsys):
    """A function that runs a drill, and returns its exit status, its output and its errors."""

    def call():
        status = main("drill", "--in-unit")
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


# --- A drill that passes ------------------------------------------------------------------------------------


def test_drill_restores_the_newest_backup_and_a_random_moment(stack, vault, drill):
    status, told, _errors = drill()
    assert status == 0
    assert vault.order("recover db_drill", "promote db_drill") == ["recover db_drill", "promote db_drill"] * 2
    assert [options[0] for options in vault.targets] == ["--type=lsn", "--type=time"]
    assert told.splitlines()[-1].startswith(
        f"The restore drill passed at {shown(NOON)}: 20260101-110000I, 42 "
    )


def test_drill_is_recorded_with_its_numbers(stack, vault, drill):
    vault.wrong["pages"] = lambda: vault.sleep(40)
    drill()
    [done] = read_drills(stack)
    assert (done.at, done.passed, done.reason) == (shown(NOON), True, "")
    assert done.backup == "20260101-110000I"
    assert done.rows == sum(ROWS.values())
    assert done.rpo_seconds == 3.5
    assert done.rto_seconds == pytest.approx(41, abs=1)
    assert FIRST <= done.moment <= done.at


def test_each_recovered_database_is_checked_and_then_its_stopped_files(vault, drill):
    drill()
    steps = ["amcheck", "stop db_drill", "checksums"]
    assert vault.order(*steps) == steps * 2


def test_rows_are_compared_at_the_position_where_they_were_counted(vault, drill):
    drill()
    steps = ["count db", "close", "recover db_drill", "count db_drill", "pages"]
    assert vault.order(*steps)[:5] == steps
    assert "--target=0/B000028" in vault.targets[0]


def test_record_names_the_backup_that_was_restored(stack, vault, drill):
    """Another backup may end while the drill begins."""
    vault.backups.append(backup("incr", vault.ago(minutes=1), "later", position="0/F000000"))
    drill()
    assert read_drills(stack)[0].backup == "20260101-110000I"


def test_recoveries_stay_on_the_timeline_of_the_database_that_runs(vault, drill):
    drill()
    assert all("--target-timeline=current" in options for options in vault.targets)


def test_random_moment_lies_in_the_window(vault, drill):
    chosen = set()
    for _ in range(10):
        vault.targets.clear()
        assert drill()[0] == 0
        [moment] = [one.removeprefix("--target=") for one in vault.targets[1] if one.startswith("--target=")]
        assert vault.ago(days=1) < datetime.datetime.fromisoformat(moment) <= NOON
        chosen.add(moment)
    assert len(chosen) > 1, "the moments are not random"


def test_backup_that_has_just_ended_has_no_moment_to_restore(stack, vault, drill):
    vault.backups = [backup("full", vault.time)]
    assert drill()[0] == 0
    [done] = read_drills(stack)
    assert (done.passed, done.moment) == (True, "")


def test_blog_on_the_recovered_database_gets_secrets_of_its_own(stack, vault, drill, values):
    seen = {}

    def look():
        directory = stack.in_service / "drill"
        seen.update({path.name: path.read_text() for path in directory.iterdir()})

    vault.wrong["pages"] = look
    assert drill()[0] == 0
    assert {"app_secret_key", "db_app_password"} <= seen.keys() <= set(SECRETS)
    assert not set(seen.values()) & set(values().values())


def test_blog_that_is_still_starting_is_waited_for(vault, drill):
    answers = iter([failure("connection refused")] * 3)

    def starting():
        if error := next(answers, None):
            raise error

    vault.wrong["pages"] = starting
    assert drill()[0] == 0
    assert vault.events.count("pages") == 4


def test_drill_never_touches_the_database_that_runs(vault, drill):
    drill()
    assert vault.order("stop db", "start db", "promote db", "recover db_restore") == []
    assert vault.serving() == "the database of before"


# --- A drill that fails -------------------------------------------------------------------------------------


def test_other_numbers_of_rows_fail_the_drill_and_are_named(stack, vault, drill):
    vault.restored = {"post": 11, "comment": 30, "draft": 1}
    status, _told, errors = drill()
    assert status == 1
    [done] = read_drills(stack)
    assert done.passed is False
    assert "draft: 1 instead of None; post: 11 instead of 12" in done.reason
    assert "comment" not in done.reason
    assert "The restore drill failed." in errors
    assert "post: 11 instead of 12" in errors


def test_missing_table_fails_the_drill(stack, vault, drill):
    vault.restored = {"post": 12}
    assert drill()[0] == 1
    assert "comment: None instead of 30" in read_drills(stack)[0].reason


STEPS = ["recover db_drill", "start db_drill", "count db_drill", "promote db_drill"]
STEPS += ["start flask_drill", "amcheck", "checksums", "close", "info"]


@pytest.mark.parametrize("event", STEPS)
def test_failure_of_any_step_is_recorded_and_leaves_nothing(stack, vault, drill, event):
    vault.wrong[event] = failure(f"no {event} today")
    assert drill()[0] == 1
    [done] = read_drills(stack)
    assert done.passed is False
    assert f"no {event} today" in done.reason
    assert vault.left() == NOTHING


def test_blog_that_does_not_answer_fails_the_drill(stack, vault, drill):
    vault.wrong["pages"] = failure("HTTP Error 503")
    assert drill()[0] == 1
    assert "The blog does not work on the recovered database." in read_drills(stack)[0].reason
    assert vault.left() == NOTHING


def test_error_that_nobody_expected_fails_the_drill(stack, vault, drill):
    vault.wrong["amcheck"] = OSError(28, "No space left on device")
    assert drill()[0] == 1
    assert read_drills(stack)[0].reason == "No space left on device"


def test_failure_at_the_random_moment_fails_the_drill(stack, vault, drill):
    restored = []

    def second_time():
        restored.append(True)
        if len(restored) == 2:
            raise failure("requested timeline is not a child")

    vault.wrong["recover db_drill"] = second_time
    assert drill()[0] == 1
    assert "requested timeline" in read_drills(stack)[0].reason
    assert vault.left() == NOTHING


def test_drill_without_a_backup_fails_with_a_remedy(stack, vault, drill):
    vault.backups, vault.code = [], 2
    status, _told, errors = drill()
    assert status == 1
    assert "There is no backup: `systemctl start slipway-backup@full` makes one." in errors


def test_drill_before_the_backups_of_this_version_have_begun_fails_with_a_remedy(vault, drill):
    vault.running = "18"
    vault.live.mkdir(parents=True)
    status, _told, errors = drill()
    assert status == 1
    assert "this version of Postgres have not begun: run upgrade_database.yml again." in errors
    assert vault.order("recover db_drill") == []


def test_drill_of_a_repository_that_cannot_be_used_fails_with_the_reason(stack, vault, drill):
    vault.backups, vault.code = [], 99
    vault.repository_message = "[CryptoError] unable to load info file"
    assert drill()[0] == 1
    assert read_drills(stack)[0].reason == "[CryptoError] unable to load info file"


def test_drill_without_space_fails_before_anything_changes(stack, vault, engine, drill):
    engine.space = 98 * 10**6 - 1
    status, _told, errors = drill()
    assert status == 1
    assert "This needs 98 MB for copies of the database" in errors
    assert read_drills(stack)[0].passed is False
    assert vault.events == ["info"]
    assert vault.left() == NOTHING


def test_drill_needs_no_more_space_than_it_says(vault, engine, drill):
    engine.space = 98 * 10**6
    assert drill()[0] == 0


# --- What a drill leaves ------------------------------------------------------------------------------------


def test_drill_that_passed_leaves_nothing(vault, drill):
    drill()
    assert vault.left() == NOTHING
    assert vault.containers == {"db": "running"}


def test_second_restore_does_not_begin_with_the_files_of_the_first(vault, drill):
    left = []
    vault.wrong["recover db_drill"] = lambda: left.append(sorted(vault.containers))
    drill()
    assert left == [["db"], ["db"]]


def test_remains_of_a_killed_drill_are_removed_first(stack, vault, drill):
    vault.containers |= {"db_drill": "running", "flask_drill": "exited"}
    vault.volumes.add("slipway_drill")
    write_copies(stack, "drill", {"db_app_password": "of the killed drill"})
    assert drill()[0] == 0
    assert vault.events[:2] == ["remove flask_drill", "remove db_drill"], (
        "flask_drill uses the network of db_drill"
    )
    assert vault.left() == NOTHING


def test_drill_that_is_killed_leaves_no_record(stack, vault, drill):
    vault.wrong["amcheck"] = Killed()
    with pytest.raises(Killed):
        drill()
    assert read_drills(stack) == []


# --- Other operations ---------------------------------------------------------------------------------------


def test_drill_waits_for_another_time_while_another_operation_is_under_way(stack, vault, engine, drill):
    with lock(engine, "anna"):
        status, told, errors = drill()
    assert status == 75
    assert "Another operation is under way: anna" in told
    assert errors == ""
    assert read_drills(stack) == []
    assert vault.events == []


MOMENTS = ["info", "count db", "close", "recover db_drill", "start db_drill", "position db_drill"]
MOMENTS += ["count db_drill", "promote db_drill", "start flask_drill", "pages", "amcheck", "checksums"]


@pytest.mark.parametrize("event", MOMENTS)
def test_signal_ends_the_drill_at_any_moment_without_a_record(stack, vault, drill, event):
    def end():
        vault.wrong.clear()
        terminate()

    vault.wrong[event] = end
    status, told, _errors = drill()
    assert status == 75
    assert "The drill was ended" in told
    assert read_drills(stack) == []
    assert vault.left() == NOTHING


def test_signal_during_the_removal_of_remains_ends_the_drill_too(stack, vault, drill):
    vault.containers["db_drill"] = "running"

    def end():
        vault.wrong.clear()
        terminate()

    vault.wrong["remove db_drill"] = end
    assert drill()[0] == 75
    assert read_drills(stack) == []
    assert vault.left() == NOTHING


def test_second_signal_does_not_interrupt_the_removal(stack, vault, drill):
    vault.wrong |= {"amcheck": terminate, "remove db_drill": terminate}
    assert drill()[0] == 75
    assert vault.left() == NOTHING


def test_drill_describes_itself_so_that_others_can_end_it(vault, engine, drill):
    holders = []
    vault.wrong["amcheck"] = lambda: holders.append(engine.settings.lock.read_text())
    assert drill()[0] == 0
    assert holders
    assert all(holder.startswith(DRILL) for holder in holders)
    assert engine.settings.lock.read_text() == ""


def test_drill_goes_on_after_the_connection_of_the_operator_has_ended(stack, vault, drill, monkeypatch):
    def write(text):
        raise BrokenPipeError(32, "Broken pipe")

    gone = io.StringIO()
    gone.write = write
    monkeypatch.setattr(sys, "stdout", gone)
    drill()
    [done] = read_drills(stack)
    assert (done.passed, done.reason) == (True, "")


def test_drill_runs_in_a_unit(main, vault, started):
    with pytest.raises(Killed):
        main("drill")
    [command] = started
    assert command[0] == "systemd-run"
    assert command[-2:] == ["drill", "--in-unit"]
    assert vault.events == []


# --- The record ---------------------------------------------------------------------------------------------


def test_record_keeps_the_last_hundred_drills(stack, vault, drill):
    for number in range(100):
        drills.save(stack, Drill(FIRST, backup=f"{number}"))
    drill()
    kept = read_drills(stack)
    assert len(kept) == 100
    assert [kept[0].backup, kept[-1].backup] == ["1", "20260101-110000I"]


WRONG_TYPE = json.dumps([asdict(Drill(FIRST)) | {"rows": "many"}])
NO_TIME = json.dumps([asdict(Drill(FIRST)) | {"at": "x"}])


@pytest.mark.parametrize(
    "text", ["", "{}[", "{}", "null", "1", "[1]", '[{"at": 1}]', "\xff", WRONG_TYPE, NO_TIME]
)
def test_damaged_record_counts_as_no_drill(stack, vault, drill, text):
    (stack.state / "drills.json").write_text(text, encoding="latin-1")
    assert read_drills(stack) == []
    drill()
    assert len(read_drills(stack)) == 1


def test_status_says_how_the_last_drill_went(stack, vault, drill):
    assert drills.sentence(stack) == ""
    drill()
    words = drills.sentence(stack)
    assert words.startswith(f"passed at {shown(NOON)}: 20260101-110000I, 42 rows; lost 4 s, took ")
    vault.restored = {}
    drill()
    assert drills.sentence(stack).startswith(f"failed at {shown(NOON)}: The restored tables have other ")


def test_metrics_are_those_of_the_last_good_drill(stack, vault, drill):
    assert drills.metrics(stack) == {}
    drill()
    before = drills.metrics(stack)
    vault.time += datetime.timedelta(hours=1)
    vault.restored = {}
    drill()
    assert drills.metrics(stack) == before
    [(_words, at)] = [value for name, value in before.items() if "passed_timestamp" in name]
    assert at == shown(NOON)


def test_differences_are_named_in_the_order_of_the_tables():
    told = drills.differences({"b": 1, "a": 2, "c": 3}, {"a": 1, "b": 2, "c": 3})
    assert told == "a: 1 instead of 2; b: 2 instead of 1"


def test_drill_before_the_first_release_fails_with_a_remedy(stack, vault, engine, drill):
    engine.images.clear()
    stack.set_slots({})
    assert drill()[0] == 1
    assert "No release is in service yet" in read_drills(stack)[0].reason
