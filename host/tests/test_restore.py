"""Restores of the database."""

import io
import sys

import pytest
from backup_fakes import BEFORE, FIRST, SECOND, backup, failure, once
from fakes import Killed
from ward import NOON, shown

from slipway import cli, generations, restore
from slipway.lock import lock

HOUR_AGO = "2026-01-01 11:00:00+00"


# --- The time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-22 10:00:00+00", "2026-11-22 10:00:00+00:00"),
        ("2026-11-22T10:00:00Z", "2026-11-22 10:00:00+00:00"),
        ("2026-11-22 10:00:00", "2026-11-22 10:00:00+00:00"),
        ("2026-11-22 10:00", "2026-11-22 10:00:00+00:00"),
        ("2026-11-22 10:00:00.25+01:00", "2026-11-22 10:00:00.250000+01:00"),
    ],
)
def test_time_is_read_and_is_in_utc_without_a_zone(text, time):
    assert restore.parse(text) == time


@pytest.mark.parametrize(
    "text", ["yesterday", "10:00", "2026-13-01", "2026-11-22", "2026-11-22 10:00 Berlin", " "]
)
def test_text_that_is_no_time_is_refused_with_an_example(run_restore, vault, text):
    status, _told, errors = run_restore("--to", text)
    assert status == 1
    assert f'"{text}" is not a time. Write a day and a time of day, like "2026-11-22 10:00:00+00".' in errors
    assert vault.events == []


@pytest.mark.parametrize(
    "text",
    [
        "2025-12-31 11:59:59+00",
        "2025-12-31 12:00:00+00",
        "2025-12-31 12:30:00+01",
        "2026-01-01 12:00:01+00",
        "2026-01-01 12:30:00",
    ],
)
def test_time_outside_of_the_window_is_refused_with_the_window(run_restore, vault, text):
    status, _told, errors = run_restore("--to", text)
    assert status == 1
    assert f"choose a time from 2025-12-31T12:00:00Z until now ({shown(NOON)})" in errors
    assert vault.serving() == BEFORE
    assert vault.order("recover db_restore", "stop db") == []


@pytest.mark.parametrize("text", ["2025-12-31 12:00:01+00", "2026-01-01 13:00:00+01"])
def test_times_at_the_ends_of_the_window_can_be_restored(run_restore, vault, text):
    assert run_restore("--to", text)[0] == 0
    assert vault.serving() == FIRST


def test_window_begins_with_the_oldest_full_backup(run_restore, vault):
    vault.backups = [backup("full", vault.ago(days=days)) for days in (14, 7, 1)]
    assert run_restore("--to", "2025-12-20 00:00:00")[0] == 0


# --- What is needed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "megabytes"), [([], 98), (["--into"], 160)], ids=["", "into"])
def test_restore_without_space_is_refused_with_a_remedy(
    run_restore, vault, engine, tmp_path, arguments, megabytes
):
    engine.space = megabytes * 10**6 - 1
    status, _told, errors = run_restore(*arguments, *[str(tmp_path / "old") for _ in arguments])
    assert status == 1
    assert (
        f"This needs {megabytes} MB for copies of the database, but /var/lib/docker has {megabytes - 1} MB"
    ) in errors
    assert "`slipway restore --forget`" in errors
    assert vault.events == ["info"]


@pytest.mark.parametrize(("arguments", "megabytes"), [([], 98), (["--into"], 160)], ids=["", "into"])
def test_restore_needs_no_more_space_than_it_says(run_restore, vault, engine, tmp_path, arguments, megabytes):
    engine.space = megabytes * 10**6
    assert run_restore(*arguments, *[str(tmp_path / "old") for _ in arguments])[0] == 0


def test_former_databases_can_be_removed_and_brought_back_without_space(run_restore, vault, engine):
    run_restore()
    engine.space = 0
    assert run_restore("--undo")[0] == 0
    assert run_restore("--forget")[0] == 0


def test_repository_without_a_backup_cannot_be_restored(run_restore, vault):
    vault.backups, vault.code = [], 2
    status, _told, errors = run_restore()
    assert status == 1
    assert "The repository has no backup." in errors


def test_repository_that_cannot_be_used_is_named_with_the_reason(run_restore, vault):
    vault.backups, vault.code = [], 99
    vault.repository_message = "[CryptoError] unable to load info file"
    status, _told, errors = run_restore()
    assert status == 1
    assert "[CryptoError] unable to load info file" in errors


def test_restore_is_refused_while_another_operation_is_under_way(run_restore, vault, engine):
    with lock(engine, "bert"):
        status, _told, errors = run_restore()
    assert status == 1
    assert "Another operation is under way: bert" in errors
    assert vault.serving() == BEFORE


# --- The question -------------------------------------------------------------------------------------------


@pytest.fixture
def answer(monkeypatch):
    """A function that makes an operator at a terminal type a line."""

    def type_line(text):
        terminal = io.StringIO(f"{text}\n")
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", terminal)

    return type_line


def test_restore_without_a_terminal_needs_yes(main, vault, started, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("blog.example.org\n"))
    assert main("restore") == 1
    told = capsys.readouterr()
    assert "The database becomes what it was at the end of the archive." in told.out
    assert "Nothing was changed. To go on without a question, add --yes." in told.err
    assert started == []


@pytest.mark.parametrize("text", ["", "yes", "blog"])
def test_other_answer_than_the_name_of_the_host_changes_nothing(main, vault, started, answer, capsys, text):
    answer(text)
    assert main("restore") == 1
    assert "Nothing was changed." in capsys.readouterr().err
    assert started == []


def test_end_of_the_input_changes_nothing(main, vault, started, monkeypatch, capsys):
    terminal = io.StringIO("")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main("restore") == 1
    assert capsys.readouterr().err == "slipway: Nothing was changed.\n"
    assert started == []


def test_name_of_the_host_starts_the_restore_in_a_unit_that_does_not_ask(main, vault, started, answer):
    answer("blog.example.org")
    with pytest.raises(Killed):
        main("restore", "--to", HOUR_AGO)
    [command] = started
    assert command[0] == "systemd-run"
    assert {"restore", HOUR_AGO, "--yes", "--in-unit"} <= set(command)


def test_question_says_that_later_changes_are_taken_out_of_service(main, vault, started, capsys):
    main("restore", "--to", HOUR_AGO)
    assert "Everything that was written since then is taken out of service." in capsys.readouterr().out


def test_impossible_restore_is_refused_before_the_question(main, vault, started, answer, capsys):
    answer("blog.example.org")
    assert main("restore", "--to", "2027-01-01 00:00") == 1
    assert "cannot be restored" in capsys.readouterr().err
    assert started == []


def test_backups_of_another_major_version_are_refused(main, vault, started, answer, capsys):
    answer("blog.example.org")
    vault.databases = ["15"]
    assert main("restore") == 1
    said = capsys.readouterr().err
    assert (
        "The backups are of PostgreSQL 15, whose files PostgreSQL 17 cannot read. Nothing was changed."
        in said
    )
    assert started == []


@pytest.mark.parametrize("arguments", [["--yes"], ["--undo"]])
def test_restore_with_yes_and_its_undoing_are_not_questions(main, vault, started, capsys, arguments):
    with pytest.raises(Killed):
        main("restore", *arguments)
    assert len(started) == 1


def test_unit_knows_who_restores(main, vault, started, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "bert")
    with pytest.raises(Killed):
        main("restore", "--yes")
    [command] = started
    assert "--by=bert" in command


# --- A restore that succeeds --------------------------------------------------------------------------------


def test_restored_database_serves_and_the_former_one_is_kept(run_restore, vault):
    status, told, _errors = run_restore()
    assert status == 0
    assert vault.serving() == FIRST
    assert vault.formers() == [BEFORE]
    assert vault.left() == []
    assert vault.containers == {"db": "running"}
    assert told.splitlines()[-1] == (
        "The database is restored as of the end of the archive. A full backup begins."
    )


def test_database_stops_only_after_the_other_one_is_recovered(run_restore, vault):
    run_restore()
    steps = ["close", "recover db_restore", "count db_restore", "stop db_restore", "stop db", "start db"]
    assert vault.order(*steps) == steps


def test_restored_database_accepts_changes(stack, run_restore, vault):
    run_restore()
    assert vault.events.count("promote db") == 1
    assert generations.is_writable(stack)


def test_restore_of_a_time_stops_there(run_restore, vault):
    status, told, _errors = run_restore("--to", HOUR_AGO)
    assert status == 0
    [options] = vault.targets
    assert {"--type=time", "--target=2026-01-01 11:00:00+00:00"} <= set(options)
    assert "The database is restored as of 2026-01-01 11:00:00+00:00." in told


def test_restore_says_how_much_it_recovered(run_restore, vault):
    _status, told, _errors = run_restore()
    assert "recovered 42 rows, until 2026-01-01T11:59:30Z" in told


def test_full_backup_begins_after_a_restore(run_restore, vault):
    run_restore()
    assert vault.started == ["slipway-backup@full.service"]


def test_backup_that_is_under_way_or_has_failed_begins_again_after_a_restore(run_restore, vault):
    run_restore()
    steps = ["systemctl reset-failed", "systemctl restart"]
    assert vault.order(*steps) == steps


def test_backup_that_cannot_be_started_does_not_fail_the_restore(run_restore, vault):
    vault.wrong["systemctl restart"] = failure("no such unit")
    status, told, _errors = run_restore()
    assert status == 0
    assert "The database is restored" in told
    assert "Make a full backup now, `slipway backup run full`" in told


def test_roles_of_the_restored_database_are_set(run_restore, vault, engine):
    run_restore()
    assert engine.endings == ["COMMIT"]


def test_older_schema_is_migrated(run_restore, vault, engine):
    engine.plan["pending"] = ["0002"]
    _status, told, _errors = run_restore()
    assert [event for event in engine.events if event in ("schema", "migrate")] == ["schema", "migrate"]
    assert "migrating the schema: 0002" in told


def test_database_is_restored_before_the_first_release(stack, run_restore, vault, engine):
    engine.images.clear()
    stack.set_slots({})
    assert run_restore()[0] == 0
    assert vault.serving() == FIRST


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stopped", "read-only"])
def test_database_that_does_not_accept_changes_is_restored_from_the_archive(run_restore, vault, is_stopped):
    if is_stopped:
        vault.containers["db"] = "exited"
    else:
        (vault.live / "standby.signal").touch()
    assert run_restore()[0] == 0
    assert "close" not in vault.events
    assert vault.serving() == FIRST


def test_new_host_does_not_wait_until_its_own_database_is_archived(run_restore, vault):
    vault.foreign = True
    assert run_restore()[0] == 0
    assert "close" not in vault.events
    assert vault.serving() == FIRST


def test_newest_timeline_is_followed_while_the_database_does_not_run(run_restore, vault):
    vault.containers["db"] = "exited"
    # A restore, and its undoing, each began a timeline after the last backup.
    vault.histories = {2: "1\t0/9000000\tno reason\n", 3: "1\t0/B000000\tno reason\n"}
    vault.segments += ["00000002000000000000000F", "00000003000000000000000B"]
    assert run_restore()[0] == 0
    assert "--target-timeline=3" in vault.targets[0]


def test_changes_that_cannot_be_archived_do_not_prevent_a_restore(run_restore, vault):
    vault.wrong["close"] = failure("no space left on device")
    status, told, _errors = run_restore()
    assert status == 0
    assert "restoring only what is archived: " in told
    assert vault.serving() == FIRST


def test_two_restores_in_a_row_keep_two_former_databases(run_restore, vault):
    run_restore()
    assert run_restore()[0] == 0
    assert vault.serving() == SECOND
    assert vault.formers() == [BEFORE, FIRST]


# --- A restore that fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event", ["recover db_restore", "start db_restore", "count db_restore", "stop db_restore"]
)
def test_failure_before_the_exchange_leaves_the_database_in_service(stack, run_restore, vault, event):
    vault.wrong[event] = failure(f"no {event} today")
    status, _told, errors = run_restore()
    assert status == 1
    assert f"no {event} today" in errors
    assert vault.serving() == BEFORE
    assert "stop db" not in vault.events
    assert not stack.maintenance_flag.exists()
    assert vault.started == []


@pytest.mark.parametrize(
    "event", ["recover db_restore", "start db_restore", "count db_restore", "stop db_restore"]
)
def test_failure_before_the_exchange_leaves_nothing_of_the_restored_database(run_restore, vault, event):
    vault.wrong[event] = failure(f"no {event} today")
    run_restore()
    assert vault.left() == []
    assert vault.formers() == []


def test_database_that_ends_its_recovery_with_an_error_is_not_put_into_service(run_restore, vault):
    def end():
        vault.containers["db_restore"] = "exited"
        raise failure("is not running")

    vault.wrong["position db_restore"] = end
    status, _told, errors = run_restore("--to", HOUR_AGO)
    assert status == 1
    assert "The database did not recover." in errors
    assert vault.serving() == BEFORE
    assert vault.left() == []


# --- Former databases ---------------------------------------------------------------------------------------


def former_names(vault):
    return sorted(path.name for path in vault.live.parent.glob("former-*"))


def test_undo_brings_the_former_database_back_and_keeps_the_present_one(stack, run_restore, vault):
    run_restore()
    [former] = former_names(vault)
    status, told, _errors = run_restore("--undo")
    assert status == 0
    assert f"The database of {former} serves again. A full backup begins." in told
    assert vault.serving() == BEFORE
    assert vault.formers() == [FIRST]
    assert vault.containers["db"] == "running"
    assert not stack.maintenance_flag.exists()


def test_undo_of_an_undo_brings_the_restored_database_back(run_restore, vault):
    run_restore()
    run_restore("--undo")
    assert run_restore("--undo")[0] == 0
    assert vault.serving() == FIRST
    assert vault.formers() == [BEFORE]


def test_undo_takes_the_newest_of_several_former_databases(run_restore, vault):
    run_restore()
    run_restore()
    run_restore("--undo")
    assert vault.serving() == FIRST
    assert vault.formers() == [BEFORE, SECOND]


def test_full_backup_begins_after_an_undo(run_restore, vault):
    run_restore()
    vault.started.clear()
    run_restore("--undo")
    assert vault.started == ["slipway-backup@full.service"]


def test_undo_without_a_former_database_is_refused(run_restore, vault):
    status, _told, errors = run_restore("--undo")
    assert status == 1
    assert "There is no former database on this host. Former databases: none." in errors
    assert vault.events == []


def test_undo_takes_the_former_database_that_is_named(run_restore, vault):
    run_restore()
    run_restore()
    [first, second] = former_names(vault)
    status, told, _errors = run_restore("--undo", first)
    assert status == 0
    assert f"The database of {first} serves again." in told
    assert vault.serving() == BEFORE
    assert vault.formers() == [FIRST, SECOND]
    assert first not in former_names(vault)
    assert second in former_names(vault)


@pytest.mark.parametrize("name", ["former-20251201T000000Z", "a", "restored", "../17/a", "/"])
def test_undo_of_an_unknown_database_changes_nothing(run_restore, vault, name):
    run_restore()
    vault.events.clear()
    assert run_restore("--undo", name)[0] == 1
    assert vault.events == []
    assert vault.serving() == FIRST
    assert vault.formers() == [BEFORE]


def test_undo_of_an_unknown_database_is_refused_with_the_known_ones(run_restore, vault):
    for name in ("former-20251201T000000Z", "former-20251202T000000Z"):
        vault.keep(name)
    _status, _told, errors = run_restore("--undo", "former-20251203T000000Z")
    assert (
        "There is no former database former-20251203T000000Z on this host. Former databases: "
        "former-20251201T000000Z, former-20251202T000000Z."
    ) in errors


def test_forget_removes_the_former_databases_only(run_restore, vault):
    run_restore()
    run_restore()
    status, told, _errors = run_restore("--forget")
    assert status == 0
    assert told == "Former databases removed: 2.\n"
    assert vault.formers() == []
    assert vault.serving() == SECOND
    assert run_restore("--forget")[1] == "Former databases removed: 0.\n"


@pytest.mark.parametrize("arguments", [["--undo", "--forget"], ["--undo", "--into", "old"]])
def test_undo_excludes_other_ways_to_restore(main, vault, arguments):
    with pytest.raises(SystemExit):
        main("restore", *arguments)


@pytest.mark.parametrize("arguments", [["--undo"], ["--undo", "former-20251201T000000Z"], ["--forget"]])
def test_time_is_refused_for_an_undo_and_a_removal(run_restore, vault, arguments):
    former = vault.keep("former-20251201T000000Z")
    status, _told, errors = run_restore("--to", HOUR_AGO, *arguments)
    assert status == 1
    assert "--to is for a restore, not for --undo or --forget. Nothing was changed." in errors
    assert former.exists()
    assert vault.events == []


def test_time_with_an_undo_is_refused_before_the_unit_starts(main, vault, started):
    assert main("restore", "--to", HOUR_AGO, "--undo") == 1
    assert started == []


def test_unit_knows_which_former_database_was_named(main, vault, started):
    with pytest.raises(Killed):
        main("restore", "--undo", "former-20251201T000000Z")
    [command] = started
    assert command[command.index("--undo") + 1] == "former-20251201T000000Z"


@pytest.mark.parametrize("arguments", [["--yes"], ["--undo"]])
def test_argument_of_the_unit_is_not_taken_for_the_name_of_a_database(main, vault, started, arguments):
    with pytest.raises(Killed):
        main("restore", *arguments)
    [command] = started
    options = cli.parser().parse_args(command[command.index("restore") :])
    assert options.undo == ("" if arguments == ["--undo"] else None)
    assert options.in_unit


# --- Only files ---------------------------------------------------------------------------------------------


def test_posts_and_a_dump_are_written_without_a_change_of_the_database(run_restore, vault, tmp_path):
    status, told, _errors = run_restore("--to", HOUR_AGO, "--into", str(tmp_path / "old"))
    assert status == 0
    assert (tmp_path / "old/posts/a.md").read_text() == "a restored post"
    assert (tmp_path / "old/blog.dump").read_text() == "a dump"
    assert str(tmp_path / "old") in told
    assert vault.serving() == BEFORE
    assert vault.left() == []
    assert vault.order("stop db", "start db") == []
    assert vault.started == []


def test_dump_is_readable_by_its_owner_only(run_restore, vault, tmp_path):
    run_restore("--into", str(tmp_path / "old"))
    assert (tmp_path / "old/blog.dump").stat().st_mode & 0o777 == 0o600


def test_dump_has_the_database_as_it_was_before_its_migration(run_restore, vault, tmp_path):
    run_restore("--into", str(tmp_path / "old"))
    steps = ["promote db_drill", "dump db_drill", "flask migrate", "flask export"]
    assert vault.order(*steps) == steps


def test_failed_export_leaves_no_containers(run_restore, vault, tmp_path):
    vault.wrong["flask export"] = failure("no export")
    status, _told, errors = run_restore("--into", str(tmp_path / "old"))
    assert status == 1
    assert "no export" in errors
    assert vault.left() == []


@pytest.mark.parametrize("step", ["flask migrate", "flask export"])
def test_failed_export_can_be_repeated_in_the_same_directory(run_restore, vault, tmp_path, step):
    vault.wrong[step] = once(failure("it failed"))
    assert run_restore("--into", str(tmp_path / "old"))[0] == 1
    assert run_restore("--into", str(tmp_path / "old"))[0] == 0


def test_directory_with_other_files_is_refused(run_restore, vault, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/letter").touch()
    status, _told, errors = run_restore("--into", str(tmp_path / "old"))
    assert status == 1
    assert "contains other files" in errors
    assert vault.left() == []


# --- The status and the webhook -----------------------------------------------------------------------------


def test_status_names_the_former_databases_and_the_ways_to_go_on(stack, run_restore, vault):
    assert restore.sentences(stack) == []
    run_restore()
    [sentence] = restore.sentences(stack)
    assert sentence.startswith("former-")
    [former] = former_names(vault)
    assert f"`slipway restore --undo {former}` brings it back" in sentence
    assert "`slipway restore --forget` removes all of them" in sentence


def test_status_names_the_former_databases_while_the_database_does_not_run(stack, run_restore, vault):
    run_restore()
    vault.containers["db"] = "exited"
    assert len(restore.sentences(stack)) == 1


def test_host_without_the_role_backup_says_nothing_of_restores(stack, vault):
    del stack.config["backup_repository"]
    assert restore.sentences(stack) == []


def test_webhook_is_told_of_a_restore(stack, run_restore, receiver):
    stack.config["webhook_url"] = receiver.url
    run_restore("--to", HOUR_AGO)
    [(_path, _token, body)] = receiver.got
    assert body["restore"] == {
        "at": shown(NOON),
        "by": "anna",
        "to": "2026-01-01 11:00:00+00:00",
        "message": "The database is restored as of 2026-01-01 11:00:00+00:00.",
    }


def test_failing_webhook_does_not_affect_the_restore(stack, run_restore, vault):
    stack.config["webhook_url"] = "http://127.0.0.1:1/"
    assert run_restore()[0] == 0
    assert vault.serving() == FIRST
