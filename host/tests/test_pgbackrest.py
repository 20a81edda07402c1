"""The backup engine: its output, its exit statuses, and gaps in the archive."""

import pytest
from backup_fakes import LAST, backup, failure

from slipway import pgbackrest
from slipway.pgbackrest import Target
from slipway.shell import CommandFailure, Failure


@pytest.mark.parametrize(
    ("segments", "gaps"),
    [
        pytest.param([], [], id="no segment"),
        pytest.param(["000000010000000000000003"], [], id="one segment"),
        pytest.param([f"0000000100000000000000{one}" for one in ("09", "0A", "0B")], [], id="no gap"),
        pytest.param(
            ["000000010000000000000003", "000000010000000000000006"],
            ["000000010000000000000004"],
            id="two segments are missing",
        ),
        pytest.param(
            ["000000010000000000000003", "000000010000000000000005", "000000010000000000000007"],
            ["000000010000000000000004", "000000010000000000000006"],
            id="two gaps",
        ),
        pytest.param(
            ["000000010000000000000004", "000000010000000000000003"], [], id="the list is not in order"
        ),
        pytest.param(["0000000100000000000000FF", "000000010000000100000000"], [], id="the log ends with FF"),
        pytest.param(
            ["0000000100000000000000FF", "000000010000000100000001"],
            ["000000010000000100000000"],
            id="the first segment of a log is missing",
        ),
        pytest.param(
            ["00000001000000FF000000FE", "000000010000010000000000"],
            ["00000001000000FF000000FF"],
            id="the last segment of a log is missing",
        ),
        pytest.param(
            ["000000010000000000000005", "000000020000000000000009"], [], id="a timeline begins elsewhere"
        ),
        pytest.param(
            ["000000010000000000000005", "000000020000000000000005", "000000020000000000000007"],
            ["000000020000000000000006"],
            id="a gap in the second timeline",
        ),
    ],
)
def test_gap_in_the_archive_is_named_by_its_first_missing_segment(segments, gaps):
    assert pgbackrest.missing(segments) == gaps


def test_archived_segments_are_listed_without_other_files(stack, vault):
    vault.segments.reverse()
    assert pgbackrest.archived(stack, pgbackrest.inspect(stack)) == ["00000001000000000000000A", LAST]


def test_last_archived_segment_is_that_of_the_newest_timeline(stack, vault):
    vault.segments += ["000000030000000000000004", "00000002000000000000000F"]
    assert pgbackrest.last_archived(stack) == "000000030000000000000004"


@pytest.fixture
def upgraded(vault):
    """A repository that also has the archive and the backups of a former version."""
    vault.databases, vault.running = ["17", "18"], "18"
    vault.former_files = [
        "17-1/0000000500000000/000000050000000000000030-" + "6e0f" * 10 + ".zst",
        "17-1/00000005.history",
        "17-1",
    ]
    vault.backups = [
        backup("full", vault.ago(days=1), "of-17"),
        backup("full", vault.ago(hours=1), "of-18") | {"database": {"id": 2, "repo-key": 1}},
    ]


def test_archive_of_a_former_version_is_passed_over(stack, vault, upgraded):
    assert pgbackrest.last_archived(stack) == LAST
    assert pgbackrest.lineage(stack, pgbackrest.inspect(stack), 5) == {}


def test_backups_of_a_former_version_are_passed_over(stack, vault, upgraded):
    found = pgbackrest.inspect(stack)
    assert [one.label for one in found.backups] == ["of-18"]
    assert found.major == "18"


def test_host_with_the_former_version_sees_its_own_backups(stack, vault, upgraded):
    """So a host that is lost before the new version has a backup can be recovered with the former one."""
    vault.running = "17"
    found = pgbackrest.inspect(stack)
    assert ([one.label for one in found.backups], found.major) == (["of-17"], "17")
    assert pgbackrest.last_archived(stack).startswith("00000005")


def test_backups_from_before_an_upgrade_that_was_undone_count(stack, vault, upgraded):
    vault.databases, vault.running = ["17", "18", "17"], "17"
    found = pgbackrest.inspect(stack)
    assert [one.label for one in found.backups] == ["of-17"]
    assert found.archives == ["17-1", "17-3"]


def test_archive_without_a_segment_is_a_failure(stack, vault):
    vault.segments.clear()
    with pytest.raises(Failure, match="The archive has no segment of the log"):
        pgbackrest.last_archived(stack)


# --- The backup that a recovery begins with -----------------------------------------------------------------

# Timeline 2 was begun by a restore to a moment at 0/5000000.
HISTORY = "1\t0/5000000\tbefore 2026-01-01 11:20:00+00\n\n"


@pytest.fixture
def timelines(vault):
    """Backups before and after a restore: one of the common past, one of the abandoned future, one since."""
    vault.histories = {2: HISTORY}
    vault.backups = [
        backup("full", vault.ago(minutes=50), "past", timeline=1, position="0/4000000"),
        backup("full", vault.ago(minutes=40), "abandoned", timeline=1, position="0/6000000"),
        backup("full", vault.ago(minutes=20), "since", timeline=2, position="0/7000000"),
    ]
    return vault


@pytest.mark.parametrize(
    ("timeline", "minutes", "label"),
    [
        pytest.param(2, None, "since", id="the end of the archive"),
        pytest.param(2, 10, "since", id="after the newest backup"),
        pytest.param(2, 30, "past", id="before the newest backup"),
        pytest.param(1, None, "abandoned", id="the restore was undone"),
        pytest.param(1, 10, "abandoned", id="a moment after the restore was undone"),
    ],
)
def test_recovery_begins_with_the_newest_backup_of_its_past(stack, timelines, timeline, minutes, label):
    target = minutes and Target("time", timelines.ago(minutes=minutes).isoformat(sep=" "))
    assert pgbackrest.choose(stack, timeline, target or None).label == label


@pytest.mark.parametrize(("position", "label"), [("0/8000000", "since"), ("0/6800000", "past")])
def test_backup_that_ended_after_the_position_of_a_drill_is_passed_over(stack, timelines, position, label):
    """A backup may end while the drill begins."""
    assert pgbackrest.choose(stack, 2, Target("lsn", position)).label == label


def test_moment_before_every_backup_of_its_past_is_refused(stack, timelines):
    with pytest.raises(Failure, match="No backup leads to"):
        pgbackrest.choose(stack, 2, Target("time", timelines.ago(minutes=60).isoformat(sep=" ")))


# --- The state of the repository ----------------------------------------------------------------------------


def test_backups_are_read_from_the_information(stack, vault):
    found = pgbackrest.inspect(stack)
    assert (found.exists, found.problem, found.is_busy) == (True, "", False)
    assert [one.kind for one in found.backups] == ["full", "incr"]
    first = found.backups[0]
    assert first.label == "20251231-120000F"
    assert first.at == "2025-12-31T12:00:00Z", "the end of the backup, not its beginning"
    assert first.megabytes == 4.3
    assert first.is_damaged is False
    assert found.megabytes == 31, "the size of the database, not of its backup"


def test_backup_of_damaged_pages_is_known(stack, vault):
    vault.backups[-1]["error"] = True
    assert [one.is_damaged for one in pgbackrest.inspect(stack).backups] == [False, True]


@pytest.mark.parametrize(
    ("code", "exists", "backups"),
    [(0, True, 2), (1, False, 0), (2, True, 0), (3, False, 0)],
    ids=["ok", "no stanza", "no backup", "no data of the stanza"],
)
def test_code_of_the_stanza_tells_whether_the_repository_exists(stack, vault, code, exists, backups):
    vault.code = code
    if code == 2:
        vault.backups.clear()
    found = pgbackrest.inspect(stack)
    assert found.exists is exists
    assert len(found.backups) == backups
    assert found.problem == ""


def test_problem_of_the_repository_is_in_the_words_of_the_backup_engine(stack, vault):
    vault.code, vault.repository_message = 99, "[CryptoError] unable to load info file\x1b[2J"
    vault.backups.clear()
    found = pgbackrest.inspect(stack)
    assert found.problem == "[CryptoError] unable to load info file\\x1b[2J"
    assert found.backups == []


def test_backup_under_way_is_known(stack, vault):
    vault.is_busy = True
    assert pgbackrest.inspect(stack).is_busy is True


# --- Exit statuses ------------------------------------------------------------------------------------------


def test_repository_of_another_database_is_refused_with_a_remedy(stack, vault):
    vault.wrong["stanza-create"] = failure("do not match the database", 28)
    with pytest.raises(Failure, match=r"backups of another database.*`slipway restore`") as caught:
        pgbackrest.create(stack)
    assert not isinstance(caught.value, CommandFailure)


def test_repository_is_accepted_while_a_backup_is_under_way(stack, vault):
    vault.wrong["stanza-create"] = failure("unable to acquire lock", 50)
    pgbackrest.create(stack)
    assert vault.events == ["stanza-create"]


def test_second_backup_is_refused_while_one_is_under_way(stack, vault):
    vault.wrong["backup incr"] = failure("unable to acquire lock", 50)
    with pytest.raises(Failure, match="Another backup is under way"):
        pgbackrest.backup(stack, "incr")


WRITERS = [
    ("stanza-create", pgbackrest.create),
    ("check", pgbackrest.check),
    ("backup full", lambda stack: pgbackrest.backup(stack, "full")),
]


@pytest.mark.parametrize(("event", "call"), WRITERS)
def test_other_failures_keep_the_output_of_the_command(stack, vault, event, call):
    vault.wrong[event] = failure("unable to connect to s3.example.org", 49)
    with pytest.raises(CommandFailure, match=r"s3\.example\.org"):
        call(stack)


# --- Verification -------------------------------------------------------------------------------------------


def test_good_repository_without_a_gap_has_no_damage(stack, vault):
    assert pgbackrest.verify(stack) == ""


def test_gap_is_found_even_if_all_files_are_good(stack, vault):
    vault.segments.insert(0, "000000010000000000000003")
    [(segment, later)] = pgbackrest.gaps(stack)
    assert segment == "000000010000000000000004"
    assert later is None


def test_damaged_files_are_named_without_the_lines_of_good_ones(stack, vault):
    vault.verified = """stanza: blog
status: error
  archiveId: 17-1, total WAL checked: 5, total valid WAL: 4
    missing: 0, checksum invalid: 1, size invalid: 0, other: 0
  backup: 20260101-000000F, status: valid, total files checked: 979, total valid files: 979
"""
    damage = pgbackrest.verify(stack)
    assert "status: error" in damage
    assert "checksum invalid: 1" in damage
    assert "20260101-000000F" not in damage


def test_damage_is_named_after_many_good_backups(stack, vault):
    good = "  backup: 2026010{}-000000F, status: valid, total files checked: 9, total valid files: 9\n"
    good += "    missing: 0, checksum invalid: 0, size invalid: 0, other: 0\n"
    bad = "  backup: 20260109-000000F, status: invalid, total files checked: 9, total valid files: 8\n"
    lines = "".join(good.format(day) for day in range(1, 9))
    vault.verified = f"status: error\n{lines}{bad}    missing: 10, checksum invalid: 0\n"
    assert pgbackrest.verify(stack).split("; ") == [
        "status: error",
        "backup: 20260109-000000F, status: invalid, total files checked: 9, total valid files: 8",
        "missing: 10, checksum invalid: 0",
    ]


def test_damage_has_no_control_characters(stack, vault):
    vault.verified = "status: error\n  \x1b[2J error\n"
    assert "\x1b" not in pgbackrest.verify(stack)


@pytest.mark.parametrize("text", ["", "\n", "stanza: blog\n"])
def test_verification_without_a_result_is_not_a_good_one(stack, vault, text):
    vault.verified = text
    assert pgbackrest.verify(stack) != ""


def test_word_ok_elsewhere_is_not_a_good_verification(stack, vault):
    vault.verified = "stanza: blog\nstatus: error\n  backup: 20260101-000000F, status: ok\n"
    assert pgbackrest.verify(stack) != ""


# --- The container ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["exited", None], ids=["stopped", "without a container"])
def test_repository_can_be_read_while_the_database_does_not_run(stack, vault, state):
    vault.containers = {"db": state} if state else {}
    assert len(pgbackrest.inspect(stack).backups) == 2
    assert pgbackrest.last_archived(stack) == LAST


@pytest.mark.parametrize("state", ["exited", None], ids=["stopped", "without a container"])
@pytest.mark.parametrize(("event", "call"), WRITERS)
def test_command_that_writes_never_runs_in_another_container(stack, vault, event, call, state):
    vault.containers = {"db": state} if state else {}
    with pytest.raises(CommandFailure, match=r'service "db" is not running'):
        call(stack)
    assert vault.events == []
