"""Whether the backups are current, and who is told if they are not."""

import datetime
import fcntl
import json
import socket
import threading
from dataclasses import replace

import pytest
from backup_fakes import backup, failure
from ward import NOON, shown

from slipway import backups, restic
from slipway.backups import Record, examine, read_record
from slipway.verification import Verification, read_verification

GOOD_DRILL = {"passed": True, "reason": "", "backup": "20251231-120000F", "moment": ""}
MISSING = "000000010000000000000004"
GAP = ["000000010000000000000003", "000000010000000000000005"]  # the archived segments around a gap
GOOD_DRILL |= {"rpo_seconds": 3.5, "rto_seconds": 41.2, "rows": 42}


@pytest.fixture
def verified(stack, vault):
    """A function that records a verification of some days ago, which found nothing."""

    def record(days=0, **values):
        found = {"at": shown(vault.ago(days=days)), "damage": "", "gap": "", "since": ""} | values
        (stack.state / "backup_files.json").write_text(json.dumps(found))

    record()
    return record


@pytest.fixture
def drilled(stack, vault, verified):
    """A function that records a drill of some days ago."""

    def record(days=1, **values):
        drill = GOOD_DRILL | {"at": shown(vault.ago(days=days))} | values
        (stack.state / "drills.json").write_text(json.dumps([drill]))

    record()
    return record


@pytest.fixture
def problems(stack, drilled):
    """A function that returns the problems that a check finds, by kind."""
    return lambda: examine(stack).problems


# --- Problems -----------------------------------------------------------------------------------------------


def test_current_backups_have_no_problem(problems):
    assert problems() == {}


def test_check_tells_what_can_be_restored(stack, vault, drilled):
    record = examine(stack)
    assert record.newest["label"] == vault.backups[-1]["label"]
    assert record.oldest == "2025-12-31T12:00:00Z"
    assert record.archived == "2026-01-01T11:59:40Z"
    assert record.checked == shown(NOON)


@pytest.mark.parametrize(("seconds", "kinds"), [(120, set()), (121, {"lag"})])
def test_changes_that_wait_for_more_than_two_minutes_are_a_problem(vault, problems, seconds, kinds):
    vault.archiver["waiting"] = seconds
    assert problems().keys() == kinds


def test_failing_archive_is_a_problem(vault, problems):
    vault.archiver["failing"] = True
    assert problems().keys() == {"archive"}


def test_archive_without_a_segment_since_the_start_of_the_database_is_no_problem(stack, vault, drilled):
    vault.archiver["archived"] = None
    record = examine(stack)
    assert record.problems == {}
    assert record.archived == ""


@pytest.mark.parametrize(("seconds", "kinds"), [(60, set()), (61, {"clock"})])
def test_clock_behind_the_archive_is_a_problem(vault, problems, seconds, kinds):
    vault.archiver["archived"] = vault.ago(seconds=-seconds).timestamp()
    assert problems().keys() == kinds


def test_clock_behind_the_last_backup_is_a_problem(vault, problems):
    vault.backups.append(backup("incr", vault.ago(seconds=-61)))
    assert problems().keys() == {"clock"}


@pytest.mark.parametrize("code", [0, 2])
def test_repository_without_a_backup_is_a_problem(vault, problems, code):
    vault.backups, vault.code = [], code
    assert problems() == {
        "full": "There is no backup: `systemctl start slipway-backup@full` makes one.",
    }


def test_first_backup_under_way_is_no_problem(vault, problems):
    vault.backups, vault.code, vault.is_busy = [], 2, True
    assert problems() == {}


@pytest.mark.parametrize(("ago", "kinds"), [({"days": 8}, set()), ({"days": 8, "seconds": 1}, {"full"})])
def test_full_backup_is_overdue_after_eight_days(vault, problems, ago, kinds):
    vault.backups[0] = backup("full", vault.ago(**ago))
    assert problems().keys() == kinds


def test_any_full_backup_counts_not_only_the_oldest(vault, problems):
    vault.backups = [backup("full", vault.ago(days=days)) for days in (15, 8, 1)]
    assert problems() == {}


@pytest.mark.parametrize(("ago", "kinds"), [({"hours": 30}, set()), ({"hours": 30, "seconds": 1}, {"any"})])
def test_backup_is_overdue_after_thirty_hours(vault, problems, ago, kinds):
    vault.backups[1:] = [backup("diff", vault.ago(**ago))]
    vault.backups[0] = backup("full", vault.ago(days=3))
    assert problems().keys() == kinds


def test_damaged_pages_in_the_newest_backup_are_a_problem(vault, problems):
    vault.backups[-1] = backup("incr", vault.ago(hours=1), label="20260101-110000I", damaged=True)
    [(kind, sentence)] = problems().items()
    assert kind == "pages"
    assert "20260101-110000I" in sentence


def test_repository_that_was_not_created_is_a_problem(vault, problems):
    vault.code = 1
    assert problems() == {"repository": "The repository was not created: `slipway backup prepare` does that."}


def test_repository_that_cannot_be_used_is_a_problem_with_the_reason(vault, problems):
    vault.backups, vault.code = [], 99
    vault.repository_message = "[CryptoError] unable to load info file"
    [(kind, sentence)] = problems().items()
    assert kind == "repository"
    assert "[CryptoError] unable to load info file" in sentence


@pytest.mark.parametrize("event", ["archiver", "info"])
def test_database_or_repository_that_does_not_answer_is_a_problem(vault, problems, event):
    vault.wrong[event] = failure("no route to host")
    [(kind, sentence)] = problems().items()
    assert kind == "reach"
    assert "no route to host" in sentence


def test_database_that_is_being_replaced_is_waited_for(vault, problems):
    def start():
        vault.wrong.clear()
        raise failure("is not running")

    vault.wrong["archiver"] = start
    assert problems() == {}


def test_failed_drill_is_a_problem_until_one_passes(problems, drilled):
    drilled(days=1, passed=False, reason="post: 11 instead of 12\nmore")
    assert problems() == {
        "drill": "The last restore drill failed at 2025-12-31T12:00:00Z: post: 11 instead of 12",
    }
    drilled(days=0)
    assert problems() == {}


def test_failed_drill_without_a_reason_is_a_problem_too(problems, drilled):
    drilled(passed=False, reason="")
    assert problems().keys() == {"drill"}


@pytest.mark.parametrize(("days", "kinds"), [(8, set()), (9, {"drill"})])
def test_drill_is_overdue_after_eight_days(problems, drilled, days, kinds):
    drilled(days=days)
    assert problems().keys() == kinds


@pytest.mark.usefixtures("verified")
@pytest.mark.parametrize(("days", "kinds"), [(7, set()), (9, {"drill"})])
def test_first_drill_is_overdue_eight_days_after_the_first_backup(stack, vault, days, kinds):
    vault.backups = [backup("full", vault.ago(days=days)), backup("full", vault.ago(hours=1))]
    assert examine(stack).problems.keys() == kinds


def test_read_only_database_is_a_problem(vault, problems):
    (vault.live / "standby.signal").touch()
    [(kind, sentence)] = problems().items()
    assert kind == "readonly"
    assert sentence.startswith("The database is read-only, because a restore was interrupted")


@pytest.mark.parametrize(("seconds", "kinds"), [(0, set()), (1, {"verify"})])
def test_files_that_were_not_verified_for_three_days_are_a_problem(vault, problems, verified, seconds, kinds):
    vault.backups.insert(0, backup("full", vault.ago(days=4)))
    verified(days=3)
    vault.time += datetime.timedelta(seconds=seconds)
    assert problems().keys() == kinds


@pytest.mark.parametrize(("seconds", "kinds"), [(0, set()), (1, {"verify"})])
def test_first_verification_is_overdue_three_days_after_the_first_backup(
    stack, vault, problems, seconds, kinds
):
    (stack.state / "backup_files.json").unlink()
    vault.backups.insert(0, backup("full", vault.ago(days=3, seconds=seconds)))
    found = problems()
    assert found.keys() == kinds
    assert all("The files were never verified" in sentence for sentence in found.values())


def test_repository_without_a_backup_has_no_files_to_verify(stack, vault, problems):
    (stack.state / "backup_files.json").unlink()
    vault.backups, vault.code = [], 2
    assert problems().keys() == {"full"}


@pytest.mark.parametrize(("megabytes", "kinds"), [(512, set()), (511, {"disk"})])
def test_disk_that_is_almost_full_is_a_problem(engine, problems, megabytes, kinds):
    engine.space = megabytes * 10**6
    found = problems()
    assert found.keys() == kinds
    assert all("The disk has only 511 MB of free space" in sentence for sentence in found.values())


@pytest.mark.parametrize("text", ["null", "[]", '{"waiting": 1}', "no JSON"])
def test_answer_of_another_form_is_a_problem_and_does_not_end_the_check(engine, problems, text):
    run = engine.run
    engine.run = lambda *command, **options: (
        f"{text}\n" if "pg_ls_archive_statusdir" in str(command[-1]) else run(*command, **options)
    )
    assert problems().keys() == {"reach"}


def test_several_problems_are_all_told(vault, problems):
    vault.archiver |= {"waiting": 500, "failing": True}
    vault.backups[-1] = backup("incr", vault.ago(hours=1), damaged=True)
    assert problems().keys() == {"lag", "archive", "pages"}


# --- The files of the host ----------------------------------------------------------------------------------


@pytest.fixture
def files(stack):
    """A function that records the last backup of the host's files, which go to another host."""
    stack.config["backup_files_repository"] = "sftp:slipway@backup.example.org:/backups/files"

    def record(at="", problem=""):
        restic.record(stack, restic.Outcome(at, problem))

    return record


def test_files_that_stay_on_this_host_need_no_backup(stack, problems):
    stack.config["backup_files_repository"] = ""
    assert problems() == {}


@pytest.mark.usefixtures("files", "drilled")
def test_backup_of_the_database_begins_one_of_the_files(main, vault):
    assert main("backup", "run", "incr") == 0
    assert vault.started == ["slipway-backup-files.service"]


@pytest.mark.usefixtures("files")
def test_files_get_some_hours_for_their_first_backup(vault, problems):
    assert problems() == {}
    vault.backups = [backup("full", vault.ago(hours=31))]
    assert "were never backed up" in problems()["files"]


@pytest.mark.parametrize(("hours", "kinds"), [(30, set()), (31, {"files"})])
def test_old_backup_of_files_is_a_problem(vault, problems, files, hours, kinds):
    files(at=shown(vault.ago(hours=hours)))
    assert problems().keys() == kinds


def test_failed_backup_of_files_is_a_problem_at_once(stack, vault, problems, files):
    files(at=shown(NOON), problem="wrong password")
    assert problems() == {
        "files": "Secrets, certificates and the ledger could not be backed up: wrong password"
    }


@pytest.mark.parametrize(("days", "kinds"), [(3, set()), (4, {"files"})])
def test_old_verification_of_files_is_a_problem(stack, vault, problems, files, days, kinds):
    restic.record(stack, restic.Outcome(shown(NOON), verified=shown(vault.ago(days=days))))
    assert problems().keys() == kinds


def test_damaged_backup_of_files_is_a_problem(stack, problems, files):
    restic.record(stack, restic.Outcome(shown(NOON), damage="a damaged file"))
    assert problems() == {
        "files": "The backups of secrets, certificates and the ledger are damaged: a damaged file"
    }


def test_status_and_metrics_tell_when_files_were_backed_up(stack, vault, files):
    files(at="2026-01-01T06:00:00Z")
    assert "secrets, certificates and the ledger backed up at 2026-01-01T06:00:00Z" in backups.sentences(
        stack
    )
    assert "slipway_backup_files_timestamp_seconds 1767247200.0" in list(backups.metrics(stack))


# --- The commands of the timers -----------------------------------------------------------------------------


def test_check_prints_the_problems_and_fails(main, stack, vault, drilled, capsys):
    assert main("backup", "check") == 0
    assert capsys.readouterr().out == ""
    vault.archiver["failing"] = True
    assert main("backup", "check") == 1
    assert capsys.readouterr().out == f"{read_record(stack).problems['archive']}\n"


def test_damage_is_a_problem_until_a_verification_finds_none(main, stack, vault, drilled, capsys):
    vault.verified = "stanza: blog\nstatus: error\n  checksum invalid: 1\n"
    assert main("backup", "verify") == 1
    assert read_record(stack).problems.keys() == {"damage"}
    assert "checksum invalid: 1" in read_record(stack).problems["damage"]
    assert main("backup", "check") == 1, "another check does not read the files"
    vault.verified = "stanza: blog\nstatus: ok\n"
    capsys.readouterr()
    assert main("backup", "verify") == 0
    assert "Every file of the repository is as it was written" in capsys.readouterr().out
    assert read_record(stack).problems == {}


def test_verification_is_recorded_with_its_time(main, stack, vault, drilled):
    (stack.state / "backup_files.json").unlink()
    main("backup", "verify")
    assert read_verification(stack) == Verification(at=shown(NOON))


def test_gap_in_the_archive_is_a_problem_until_there_is_a_full_backup_after_it(main, stack, vault, drilled):
    vault.segments = GAP
    assert main("backup", "verify") == 1
    assert MISSING in read_record(stack).problems["gap"]
    vault.backups.append(backup("full", vault.ago(minutes=1), segment=GAP[1]))
    assert main("backup", "verify") == 0


def test_moments_before_a_gap_are_not_offered(main, stack, vault, drilled):
    vault.segments = GAP
    vault.backups.append(backup("full", vault.ago(minutes=1), segment=GAP[1]))
    main("backup", "verify")
    assert read_record(stack).oldest == "2026-01-01T11:59:00Z"


def test_full_backup_ends_the_problem_of_a_gap_at_once(main, stack, vault, drilled):
    vault.segments = GAP
    main("backup", "verify")
    main("backup", "run", "full")
    assert read_record(stack).problems == {}
    assert read_record(stack).oldest == shown(NOON)


def test_incremental_backup_does_not_end_the_problem_of_a_gap(main, stack, vault, drilled):
    vault.segments = GAP
    main("backup", "verify")
    main("backup", "run", "incr")
    assert read_record(stack).problems.keys() == {"gap"}


def test_search_for_gaps_keeps_the_result_of_the_verification(main, stack, vault, drilled):
    vault.segments, vault.verified = GAP, "status: error\n  checksum invalid: 1\n"
    main("backup", "verify")
    vault.time += datetime.timedelta(hours=1)
    main("backup", "run", "full")
    found = read_verification(stack)
    assert found.at == shown(NOON)
    assert "checksum invalid: 1" in found.damage
    assert found.gap == ""


def test_incremental_backup_looks_for_gaps_only_if_one_was_known(main, vault, drilled):
    main("backup", "run", "incr")
    assert "repo-ls" not in vault.events


def test_full_backup_looks_for_gaps_since_it_ends_them(main, vault, drilled):
    main("backup", "run", "full")
    assert "repo-ls" in vault.events


@pytest.fixture(params=["waiting", "failing", "unreachable"])
def outage(request, vault):
    """A function that ends an outage of the archive; the outage begins before the test."""
    if request.param == "unreachable":
        vault.wrong["archiver"] = failure("is not running")
    else:
        vault.archiver[request.param] = 500 if request.param == "waiting" else True

    def end():
        vault.wrong.clear()
        vault.archiver |= {"waiting": 0, "failing": False}

    return end


def test_gap_is_found_by_the_first_check_after_an_outage_of_the_archive(main, stack, vault, drilled, outage):
    main("backup", "check")
    vault.segments = GAP
    outage()
    assert main("backup", "check") == 1
    assert MISSING in read_record(stack).problems["gap"]


def test_outage_without_a_gap_leaves_no_problem(main, stack, vault, drilled, outage):
    main("backup", "check")
    outage()
    assert main("backup", "check") == 0
    assert read_record(stack).problems == {}


def test_gaps_are_not_looked_for_during_an_outage(main, vault, drilled, outage):
    for _ in range(3):
        main("backup", "check")
    assert "repo-ls" not in vault.events


def test_gaps_are_looked_for_once_after_an_outage(main, vault, drilled, outage):
    main("backup", "check")
    outage()
    for _ in range(3):
        main("backup", "check")
    assert vault.events.count("repo-ls") == 1


def test_gaps_are_looked_for_by_the_next_check_if_the_first_one_after_an_outage_cannot(
    main, stack, vault, drilled, outage
):
    main("backup", "check")
    vault.segments = GAP
    outage()
    vault.wrong["repo-ls"] = failure("no route to host")
    main("backup", "check")
    vault.wrong.clear()
    main("backup", "check")
    assert read_record(stack).problems.keys() == {"gap"}


def test_gaps_are_not_looked_for_after_another_problem(main, vault, engine, drilled):
    engine.space = 0
    main("backup", "check")
    engine.space = 10**12
    main("backup", "check")
    assert "repo-ls" not in vault.events


def test_check_works_before_anything_else_after_a_boot(main, stack, vault, drilled):
    """The directory below /run does not exist then."""
    stack.host.settings.runtime.rmdir()
    assert main("backup", "check") == 0


def test_second_check_waits_for_the_first(main, stack, vault, drilled):
    seen = []

    def look():
        with (stack.host.settings.runtime / "backups.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                seen.append("locked")

    vault.wrong["info"] = look
    main("backup", "check")
    assert seen == ["locked"]


def test_backup_waits_for_a_database_that_is_starting(main, vault, drilled):
    answers = iter([failure("the database system is starting up")] * 5)

    def starting():
        if error := next(answers, None):
            raise error

    vault.wrong["archiver"] = starting
    assert main("backup", "run") == 0
    assert vault.events[:7] == [*["archiver"] * 6, "backup incr"]


def test_backup_of_a_database_that_never_answers_fails(main, vault, drilled, capsys):
    vault.wrong["archiver"] = failure("the database system is starting up")
    assert main("backup", "run") == 1
    assert "starting up" in capsys.readouterr().err
    assert "backup incr" not in vault.events
    assert vault.ticks >= backups.DATABASE_SECONDS


@pytest.mark.parametrize("kind", ["full", "diff", "incr"])
def test_backup_of_each_kind_is_made_and_shown(main, stack, vault, drilled, capsys, kind):
    assert main("backup", "run", kind) == 0
    assert vault.order(f"backup {kind}") == [f"backup {kind}"]
    label = vault.backups[-1]["label"]
    assert capsys.readouterr().out == f"{label}: 4.3 MB, ended {shown(NOON)}\n"
    assert read_record(stack).newest["label"] == label


def test_failed_backup_exits_with_its_reason(main, vault, capsys):
    vault.wrong["backup incr"] = failure("unable to acquire lock", 50)
    assert main("backup", "run") == 1
    assert "Another backup is under way" in capsys.readouterr().err


def test_list_shows_the_backups(main, vault, capsys):
    assert main("backup", "list") == 0
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        ["20251231-120000F", "full", "2025-12-31T12:00:00Z"],
        ["20260101-110000I", "incr", "2026-01-01T11:00:00Z"],
    ]
    assert main("backup", "list", "--json") == 0
    [first, _second] = json.loads(capsys.readouterr().out)
    assert first == {
        "label": "20251231-120000F",
        "kind": "full",
        "at": "2025-12-31T12:00:00Z",
        "megabytes": 4.3,
        "is_damaged": False,
        "timeline": 1,
        "segment": "000000010000000000000003",
        "position": "0/3000100",
    }


def test_list_says_that_there_is_no_backup_yet(main, vault, capsys):
    vault.backups, vault.code = [], 2
    assert main("backup", "list") == 0
    assert capsys.readouterr().out == "There is no backup yet.\n"


# --- Who is told --------------------------------------------------------------------------------------------


@pytest.fixture
def told(stack, drilled, receiver):
    """A function that returns the problems of each call of the webhook so far."""
    stack.config["webhook_url"] = receiver.url
    return lambda: [body["backup"]["problems"] for _path, _token, body in receiver.got]


def test_webhook_is_told_once_of_a_problem_and_once_of_its_end(main, stack, vault, told):
    main("backup", "check")
    assert told() == []
    vault.archiver["failing"] = True
    for _ in range(4):
        main("backup", "check")
    assert told() == [[read_record(stack).problems["archive"]]]
    vault.archiver["failing"] = False
    for _ in range(3):
        main("backup", "check")
    assert told()[1:] == [[]]


def test_webhook_is_not_told_of_a_problem_that_one_check_found(main, vault, told):
    for is_failing in (True, False, True, False):
        vault.archiver["failing"] = is_failing
        main("backup", "check")
    assert told() == []


def test_webhook_is_told_of_the_end_of_a_problem_by_the_first_check_without_it(main, vault, told):
    vault.archiver["failing"] = True
    for _ in range(2):
        main("backup", "check")
    vault.archiver["failing"] = False
    main("backup", "check")
    assert [len(problems) for problems in told()] == [1, 0]


def test_webhook_is_told_of_a_second_problem(main, vault, told):
    vault.archiver["failing"] = True
    for _ in range(2):
        main("backup", "check")
    vault.archiver["waiting"] = 500
    for _ in range(2):
        main("backup", "check")
    assert [len(problems) for problems in told()] == [1, 2]


def test_webhook_is_not_told_of_a_new_problem_together_with_a_known_one(main, stack, vault, told):
    vault.archiver["failing"] = True
    main("backup", "check")
    vault.archiver["waiting"] = 500
    main("backup", "check")
    assert told() == [[read_record(stack).problems["archive"]]]


def test_webhook_is_not_told_again_if_only_the_words_change(main, stack, vault, told):
    vault.backups = [backup("full", vault.ago(days=20))]
    for _ in range(2):
        main("backup", "check")
    before = read_record(stack).problems
    vault.backups = [backup("full", vault.ago(days=19))]
    for _ in range(2):
        main("backup", "check")
    assert read_record(stack).problems != before
    assert len(told()) == 1


def test_webhook_is_told_that_a_backup_solved_a_problem(main, vault, told):
    vault.backups = [backup("full", vault.ago(days=9))]
    for _ in range(2):
        main("backup", "check")
    main("backup", "run", "full")
    main("backup", "check")
    assert [len(problems) for problems in told()] == [2, 0]


def test_webhook_is_told_that_a_backup_found_damaged_pages(main, vault, told):
    main("backup", "check")
    vault.damaged = True
    main("backup", "run", "full")
    main("backup", "check")
    assert [len(problems) for problems in told()] == [1]


def test_failing_webhook_does_not_affect_the_check(main, stack, drilled, vault, capsys):
    stack.config["webhook_url"] = "http://127.0.0.1:1/"
    vault.archiver["failing"] = True
    for _ in range(2):
        assert main("backup", "check") == 1
    assert "The webhook request failed" in capsys.readouterr().out
    assert read_record(stack).problems.keys() == {"archive"}


def test_webhook_that_failed_is_told_by_the_next_check(main, vault, told, receiver):
    receiver.status, vault.archiver["failing"] = 500, True
    for _ in range(2):
        main("backup", "check")
    receiver.status = 200
    for _ in range(2):
        main("backup", "check")
    assert [len(problems) for problems in told()] == [1, 1]


def test_heartbeat_is_sent_only_without_problems(main, stack, vault, drilled, receiver):
    stack.config["backup_heartbeat_url"] = receiver.url.replace("hook", "beat")
    vault.archiver["failing"] = True
    main("backup", "check")
    assert receiver.got == []
    vault.archiver["failing"] = False
    main("backup", "check")
    main("backup", "check")
    assert [path for path, _token, _body in receiver.got] == ["/beat", "/beat"]


@pytest.mark.parametrize("status", [404, 500])
def test_heartbeat_that_is_refused_is_only_reported(main, stack, drilled, receiver, capsys, status):
    stack.config["backup_heartbeat_url"], receiver.status = receiver.url, status
    assert main("backup", "check") == 0
    assert "The heartbeat URL could not be requested" in capsys.readouterr().out


@pytest.fixture
def nonsense():
    """The URL of a server that does not answer in HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _address = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        thread.join()


def test_heartbeat_that_gets_no_http_answer_is_only_reported(main, stack, drilled, nonsense, capsys):
    stack.config["backup_heartbeat_url"] = nonsense
    assert main("backup", "check") == 0
    assert "The heartbeat URL could not be requested" in capsys.readouterr().out


# --- The record and the status ------------------------------------------------------------------------------


def test_host_without_a_check_has_an_empty_record(stack, vault):
    assert read_record(stack) == Record()


@pytest.mark.parametrize(
    "text", ["", "{}[", "{}", "null", "[1]", "\xff", '{"checked": 1}', '{"checked": "", "problems": []}']
)
def test_damaged_record_counts_as_no_check(main, stack, vault, drilled, text):
    (stack.state / "backups.json").write_text(text, encoding="latin-1")
    assert read_record(stack) == Record()
    assert main("backup", "check") == 0
    assert read_record(stack).checked == shown(NOON)


def test_record_survives_the_program(main, stack, vault, drilled):
    vault.archiver["failing"] = True
    for _ in range(2):
        main("backup", "check")
    assert read_record(stack) == replace(examine(stack), told=["archive"])


def test_host_without_the_role_backup_says_nothing_of_backups(stack, vault):
    del stack.config["backup_repository"]
    assert backups.sentences(stack) == []
    assert list(backups.metrics(stack)) == []


def test_status_says_which_backup_is_the_newest_and_since_when_it_can_be_restored(main, stack, drilled):
    main("backup", "check")
    assert backups.sentences(stack) == [
        "newest 20260101-110000I of 2026-01-01T11:00:00Z, restorable since 2025-12-31T12:00:00Z",
        "archived until 2026-01-01T11:59:40Z",
    ]


def test_status_names_each_problem(main, stack, vault, drilled):
    vault.archiver |= {"waiting": 500, "failing": True}
    main("backup", "check")
    assert backups.sentences(stack)[:-2] == [*read_record(stack).problems.values()]


def test_status_says_that_backups_are_on_this_host_only(main, stack, drilled):
    main("backup", "check")
    words = "The backups are on this host only, so they are lost together with it."
    assert words not in backups.sentences(stack)
    stack.config["backup_repository"] = "local"
    assert words in backups.sentences(stack)


def test_status_says_that_the_first_check_is_still_to_come(stack, vault):
    assert backups.sentences(stack) == [
        "The last check is still to come: see `systemctl status slipway-backup-check.timer`."
    ]


@pytest.mark.parametrize(("seconds", "is_told"), [(600, False), (601, True)])
def test_status_says_that_nothing_was_checked_for_ten_minutes(main, stack, vault, drilled, seconds, is_told):
    main("backup", "check")
    vault.time += datetime.timedelta(seconds=seconds)
    words = f"The last check is of {shown(NOON)}"
    assert any(sentence.startswith(words) for sentence in backups.sentences(stack)) is is_told


def test_metrics_have_times_in_seconds_since_the_epoch(main, stack, vault, drilled):
    vault.archiver["failing"] = True
    main("backup", "check")
    lines = [line for line in backups.metrics(stack) if not line.startswith("#")]
    values = {name: float(value) for name, value in (line.split() for line in lines)}
    assert values == {
        "slipway_backup_problems": 1,
        "slipway_backup_checked_timestamp_seconds": NOON.timestamp(),
        "slipway_backup_newest_timestamp_seconds": vault.ago(hours=1).timestamp(),
        "slipway_backup_archived_timestamp_seconds": vault.ago(seconds=20).timestamp(),
        "slipway_drill_passed_timestamp_seconds": vault.ago(days=1).timestamp(),
        "slipway_drill_rpo_seconds": 3.5,
        "slipway_drill_rto_seconds": 41.2,
    }


def test_each_metric_has_a_description_and_a_type(main, stack, vault, drilled):
    main("backup", "check")
    lines = list(backups.metrics(stack))
    for description, kind, value in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name = value.split()[0]
        assert description.startswith(f"# HELP {name} ")
        assert kind == f"# TYPE {name} gauge"


def test_metrics_before_the_first_check_have_the_number_of_problems_only(stack, vault):
    lines = [line for line in backups.metrics(stack) if not line.startswith("#")]
    assert lines == ["slipway_backup_problems 0"]


def test_metrics_of_backups_come_before_those_of_the_blog(main, vault, engine, drilled, capsys):
    main("backup", "check")
    engine.get = lambda *arguments, **options: (200, "requests 1\n")
    capsys.readouterr()
    assert main("metrics") == 0
    [*others, last] = capsys.readouterr().out.splitlines()
    assert "slipway_backup_problems 0" in others
    assert last == "requests 1"


@pytest.mark.parametrize("answer", [(503, ""), (None, "Connection refused")])
def test_metrics_of_backups_are_printed_while_the_blog_is_down(main, vault, engine, drilled, capsys, answer):
    main("backup", "check")
    engine.get = lambda *arguments, **options: answer
    capsys.readouterr()
    assert main("metrics") == 1
    assert "slipway_backup_problems 0" in capsys.readouterr().out.splitlines()


def test_metrics_of_backups_are_printed_before_the_first_release(main, stack, vault, engine, drilled, capsys):
    main("backup", "check")
    engine.images.clear()
    stack.set_slots({})
    capsys.readouterr()
    assert main("metrics") == 1
    assert "slipway_backup_problems 0" in capsys.readouterr().out.splitlines()


# --- The start of backups -----------------------------------------------------------------------------------


@pytest.fixture
def prepare(main, vault, capsys):
    """A function that prepares the backups, and returns whether it changed anything."""

    def call():
        assert main("backup", "prepare") == 0
        return json.loads(capsys.readouterr().out)["changed"]

    return call


def test_repository_is_created_and_checked_once_and_the_first_backup_begins_once(vault, engine, prepare):
    vault.backups, vault.code = [], 1
    assert prepare() is True
    assert vault.created == 1
    assert vault.order("stanza-create", "check") == ["stanza-create", "check"]
    assert vault.started == ["slipway-backup@full.service"]
    engine.unit = "activating"
    assert prepare() is False
    vault.backups, engine.unit = [backup("full", vault.time)], "inactive"
    assert prepare() is False
    assert vault.created == 1
    assert vault.started == ["slipway-backup@full.service"]


@pytest.mark.parametrize(
    ("begun", "begins"),
    [
        (b"# Ansible managed\nlocal\n", False),
        (b"# Ansible managed\nsftp://a.example.org/b\n", True),
        (b"", True),
        (b"\xff", True),
    ],
    ids=["the same", "another", "lost", "damaged"],
)
def test_full_backup_begins_in_a_repository_that_was_in_use_before(
    stack, vault, engine, prepare, begun, begins
):
    """The repository lacks the log that was archived elsewhere meanwhile."""
    stack.config["backup_repository"] = "local"
    vault.backups, engine.unit = [backup("full", vault.time)], "activating"
    (stack.directory / "backup").mkdir(parents=True)
    (stack.directory / "backup/begun").write_bytes(begun)
    assert prepare() is begins
    assert vault.started == ["slipway-backup@full.service"] * begins


def test_change_of_the_repository_that_failed_is_repeated(main, stack, vault, capsys):
    stack.config["backup_repository"] = "local"
    begun = stack.directory / "backup/begun"
    begun.parent.mkdir(parents=True)
    begun.write_text("# Ansible managed\nsftp://a.example.org/b\n")
    vault.foreign = True
    assert main("backup", "prepare") == 1
    vault.foreign = False
    capsys.readouterr()
    assert main("backup", "prepare") == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True
    assert vault.started == ["slipway-backup@full.service"]


def test_first_backup_that_failed_begins_again(vault, engine, prepare):
    vault.backups, vault.code, engine.unit = [], 2, "failed"
    assert prepare() is True
    assert vault.created == 0
    assert vault.started == ["slipway-backup@full.service"]


def test_failed_check_of_the_archive_begins_no_backup(main, vault, capsys):
    vault.backups, vault.code = [], 1
    vault.wrong["check"] = failure("WAL segment was not archived before the 60000ms timeout")
    assert main("backup", "prepare") == 1
    assert "WAL segment was not archived" in capsys.readouterr().err
    assert vault.started == []


@pytest.mark.parametrize("code", [1, 0], ids=["without a stanza", "with its backups"])
def test_repository_of_another_database_is_refused(main, vault, capsys, code):
    vault.code, vault.foreign = code, True
    assert main("backup", "prepare") == 1
    assert "The repository has the backups of another database" in capsys.readouterr().err
    assert vault.started == []


def test_repository_is_prepared_while_a_backup_is_under_way(vault, prepare):
    vault.wrong["stanza-create"] = failure("unable to acquire lock", 50)
    assert prepare() is False
    assert vault.started == []


def test_repository_that_cannot_be_used_fails_with_the_reason(main, vault, capsys):
    vault.backups, vault.code = [], 99
    vault.repository_message = "[CryptoError] unable to load info file"
    assert main("backup", "prepare") == 1
    assert "[CryptoError] unable to load info file" in capsys.readouterr().err
    assert vault.started == []
