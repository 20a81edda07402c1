"""A database that is recovered in a container of its own."""

import pytest
from backup_fakes import LAST, ROWS, failure

from slipway import pgbackrest, recovered
from slipway.pgbackrest import Target
from slipway.recovered import Recovered, close_segment, require_space, rows, rows_now, segment_of
from slipway.shell import Failure

TARGET = Target("time", "2026-01-01 11:00:00+00:00")


@pytest.fixture
def said():
    """What was said of the progress."""
    return []


@pytest.fixture
def database(stack, vault):
    return Recovered(stack, "db_drill")


def test_backup_is_restored_before_the_database_starts(vault, database, said):
    database.recover(LAST, TARGET, said.append)
    assert vault.order("recover db_drill", "start db_drill") == ["recover db_drill", "start db_drill"]
    assert vault.containers["db_drill"] == "running"


@pytest.mark.parametrize("last", ["00000001000000000000000B", "0000001F000000000000000B"])
def test_recovery_needs_no_history_file_if_it_stays_on_the_timeline_of_its_backup(
    vault, database, said, last
):
    for one in vault.backups:
        one["archive"]["stop"] = last
    database.recover(last, TARGET, said.append)
    [options] = vault.targets
    assert "--target-timeline=current" in options


def test_recovery_with_a_target_stops_there_and_waits(vault, database, said):
    database.recover(LAST, Target("lsn", "0/B000028"), said.append)
    [options] = vault.targets
    assert {"--type=lsn", "--target=0/B000028", "--target-action=pause"} <= set(options)


def test_recovery_without_a_target_reads_the_whole_archive(vault, database, said):
    database.recover(LAST, None, said.append)
    [options] = vault.targets
    assert "--type=standby" in options


def test_time_of_the_last_recovered_change_is_known(vault, database, said):
    database.recover(LAST, TARGET, said.append)
    assert database.at == "2026-01-01T11:59:30Z"


def test_database_that_does_not_answer_yet_is_waited_for(vault, database, said):
    answers = iter([failure("the database system is starting up")] * 5)

    def starting():
        if error := next(answers, None):
            raise error

    vault.wrong["position db_drill"] = starting
    database.recover(LAST, TARGET, said.append)
    assert vault.events.count("position db_drill") == 6


def test_database_that_never_answers_is_a_failure(vault, database, said):
    vault.wrong["position db_drill"] = failure("the database system is starting up")
    with pytest.raises(Failure, match="starting up"):
        database.recover(LAST, TARGET, said.append)
    assert vault.ticks >= recovered.START_SECONDS


def test_database_that_ends_is_a_failure_with_its_log(vault, database, said):
    def end():
        vault.containers["db_drill"] = "exited"
        raise failure("is not running")

    vault.wrong["position db_drill"] = end
    with pytest.raises(Failure, match=r"did not recover\.\n(.*\n)*.*slipway-db_drill-1 is exited"):
        database.recover(LAST, TARGET, said.append)


def test_database_whose_container_is_gone_is_a_failure(vault, database, said):
    def vanish():
        vault.containers.pop("db_drill")
        raise failure("is not running")

    vault.wrong["position db_drill"] = vanish
    with pytest.raises(Failure, match="did not recover"):
        database.recover(LAST, TARGET, said.append)


def test_end_of_the_archive_is_reached_when_the_last_segment_was_read(vault, database, said):
    positions = iter(["0/9000100", "0/9000100", "0/A000000", "0/B000100"])

    def go_on():
        vault.position = next(positions, vault.position)
        vault.sleep(30)  # longer than STILL_SECONDS, but there is more to read

    vault.wrong["position db_drill"] = go_on
    database.recover(LAST, None, said.append)
    assert vault.position == "0/B000100"


def test_recovery_tells_its_progress(vault, database, said):
    vault.position = "0/9000100"

    def go_on():
        if vault.ticks > 15:
            vault.position = "0/B000100"

    vault.wrong["position db_drill"] = go_on
    database.recover(LAST, None, said.append)
    assert "recovered the changes until 2026-01-01T11:59:30Z" in said


def test_recovery_that_cannot_go_on_ends_as_a_failure(vault, database, said):
    """A segment is missing in the archive, so the standby waits for it, and never comes to the last one."""
    vault.position = "0/9000100"

    def wait():
        vault.sleep(60)
        assert vault.ticks < 86400, "the recovery still waits after a day"

    vault.wrong["position db_drill"] = wait
    with pytest.raises(Failure):
        database.recover(LAST, None, said.append)


def test_promoted_database_accepts_changes(vault, database):
    database.start()
    database.promote()
    # Before the checkpoint, pg_control has the former timeline, and a backup fails.
    assert vault.events == ["start db_drill", "promote db_drill", "checkpoint db_drill"]


def test_promotion_that_does_not_end_is_a_failure(vault, database, monkeypatch):
    monkeypatch.setattr(database, "query", lambda statement: "f")
    with pytest.raises(Failure, match="did not end its recovery"):
        database.promote()


def test_stopped_database_has_no_container(vault, database, said):
    database.recover(LAST, TARGET, said.append)
    database.stop()
    assert vault.containers == {"db": "running"}


@pytest.mark.parametrize(
    ("position", "segment"),
    [
        ("0/B000028", "000000000000000B"),
        ("0/FF000000", "00000000000000FF"),
        ("1/0", "0000000100000000"),
        ("1F/A000000", "0000001F0000000A"),
        ("0/28", "0000000000000000"),
        ("", "0000000000000000"),
    ],
)
def test_position_belongs_to_a_segment_of_16_mb(position, segment):
    assert segment_of(position) == segment


def test_rows_are_counted_by_table(vault, database):
    database.start()
    assert rows(database.query) == ROWS


def test_database_without_tables_has_no_rows():
    assert rows(lambda statement: "") == {}


def test_rows_belong_to_a_position_in_the_log(stack, vault):
    assert rows_now(stack) == (Target("lsn", "0/B000028"), ROWS)


def test_rows_are_counted_again_while_a_long_transaction_locks_a_table(stack, vault):
    locked = iter([failure("canceling statement due to lock timeout")] * 3)

    def wait():
        if error := next(locked, None):
            raise error

    vault.wrong["count db"] = wait
    assert rows_now(stack)[1] == ROWS
    assert vault.events == ["count db"] * 4


def test_tables_that_are_never_free_are_a_failure(stack, vault):
    vault.wrong["count db"] = failure("canceling statement due to lock timeout")
    with pytest.raises(Failure, match="lock timeout"):
        rows_now(stack)


def test_changes_until_now_are_archived(stack, vault):
    assert close_segment(stack) == LAST


def test_segment_that_does_not_reach_the_archive_is_a_failure(stack, vault):
    run = vault.engine.run
    vault.engine.run = lambda *command, **options: (
        "f\n" if "last_archived_wal" in command[-1] else run(*command, **options)
    )
    with pytest.raises(Failure, match=f"The segment {LAST} was not archived within"):
        close_segment(stack)


def test_segment_that_is_archived_later_is_waited_for(stack, vault):
    answers, run = iter(["f\n", "f\n", "t\n"]), vault.engine.run
    vault.engine.run = lambda *command, **options: (
        next(answers) if "last_archived_wal" in command[-1] else run(*command, **options)
    )
    assert close_segment(stack) == LAST


# --- Space --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("copies", "megabytes"), [(1, 98), (3, 160)])
def test_space_for_copies_and_a_reserve_is_required(stack, vault, engine, copies, megabytes):
    repository = pgbackrest.inspect(stack)
    engine.space = megabytes * 10**6
    require_space(stack, repository, copies)
    engine.space -= 1
    with pytest.raises(Failure, match=f"This needs {megabytes} MB .* has {megabytes - 1} MB of free space"):
        require_space(stack, repository, copies)


def test_space_is_required_where_the_engine_has_its_volumes(stack, vault, engine):
    engine.full = engine.settings.engine
    with pytest.raises(Failure, match="/var/lib/docker has 0 MB"):
        require_space(stack, pgbackrest.inspect(stack), 1)
