"""The directories of databases in the volume: which one serves, which are kept, and which are removed."""

import io
import sys

import pytest
from backup_fakes import BEFORE, FIRST, MARKER, SECOND, failure, once
from fakes import Killed

from slipway import files, generations, restore
from slipway.lock import lock
from slipway.shell import Failure

OLDER = "former-20251201T000000Z"


def nth(number, error):
    """Return a function that raises an exception at one of its calls: `number` counts from 1."""
    calls = []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise error

    return call


@pytest.fixture
def exchanges(monkeypatch):
    """A function that makes one exchange of two directories fail: `number` counts from 1."""

    def fail(number):
        before = nth(number, OSError(22, "Invalid argument"))

        def exchange(one, other):
            before()
            files.exchange(one, other)

        monkeypatch.setattr(generations, "exchange", exchange)

    return fail


# --- The directory in service -------------------------------------------------------------------------------


def test_directory_in_service_is_found_in_the_volume_of_the_container(stack, vault):
    assert generations.in_service(stack) == vault.live


def test_directory_in_service_is_found_while_the_database_does_not_run(stack, vault):
    vault.containers["db"] = "exited"
    assert generations.in_service(stack) == vault.live


def test_host_without_a_container_of_the_database_needs_site_yml(stack, vault):
    vault.containers.clear()
    with pytest.raises(Failure, match=r"run site\.yml first"):
        generations.in_service(stack)


@pytest.fixture(params=["directory", "parent"])
def link(request, vault, tmp_path):
    """A link out of the volume, in place of the directory in service or of its parent."""
    path = vault.live if request.param == "directory" else vault.live.parent
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    return path


@pytest.mark.parametrize("arguments", [[], ["--undo"], ["--forget"]])
def test_link_in_place_of_the_directory_is_refused(run_restore, vault, link, arguments):
    status, _told, errors = run_restore(*arguments)
    assert status == 1
    assert f"{link} is a link, which a compromised database may have made" in errors
    assert vault.order("recover db_restore", "timeline", "stop db") == []


def test_status_says_nothing_of_directories_behind_a_link(stack, vault, link):
    vault.keep(OLDER)
    assert restore.sentences(stack) == []


def test_mark_does_not_follow_a_link_out_of_the_volume(run_restore, vault, tmp_path):
    """The database in service can write to the directory of the restored one."""
    place = vault.live.with_name("restored") / MARKER
    vault.wrong["stop db_restore"] = lambda: place.symlink_to(tmp_path / "outside")
    run_restore()
    assert not (tmp_path / "outside").exists()


# --- Former databases ---------------------------------------------------------------------------------------


def test_former_databases_are_listed_oldest_first(vault):
    for name in ("former-20260101T000000Z", OLDER, "former-20251231T235959Z"):
        vault.keep(name)
    assert [path.name for path in generations.formers(vault.live)] == [
        OLDER,
        "former-20251231T235959Z",
        "former-20260101T000000Z",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "former-",
        "former-copy",
        "former-20251201",
        f"{OLDER}.bak",
        f"my-{OLDER}",
        f"{OLDER}\n",
        "formerly-20251201T000000Z",
        "b",
    ],
)
def test_directory_with_a_name_of_another_form_is_neither_listed_nor_removed(run_restore, vault, name):
    other = vault.keep(name)
    assert generations.formers(vault.live) == []
    assert run_restore("--forget")[0] == 0
    assert run_restore()[0] == 0
    assert other.exists()


@pytest.mark.parametrize("name", [MARKER, "PG_VERSION"])
def test_link_named_like_a_former_database_is_neither_listed_nor_followed(run_restore, vault, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / name).touch()
    vault.live.with_name(OLDER).symlink_to(outside)
    assert generations.formers(vault.live) == []
    assert run_restore("--undo")[0] == 1
    assert run_restore("--forget")[0] == 0
    assert run_restore()[0] == 0
    assert (outside / name).exists()


def test_database_that_was_not_in_service_yet_is_no_former_one(vault):
    vault.keep(OLDER, is_marked=True)
    assert generations.formers(vault.live) == []


def test_two_databases_that_were_replaced_in_one_second_have_different_names(vault, run_restore, engine):
    engine.new_id = lambda taken: f"20260101T00000{len(taken)}Z"
    run_restore()
    assert run_restore()[0] == 0
    assert vault.formers() == [BEFORE, FIRST]


# --- The remains of a killed restore ------------------------------------------------------------------------


def test_remains_of_a_killed_restore_are_removed_first(run_restore, vault):
    vault.containers["db_restore"] = "running"
    vault.keep("restored")
    assert run_restore()[0] == 0
    assert vault.events.index("remove db_restore") < vault.events.index("recover db_restore")
    assert vault.left() == []


@pytest.fixture(params=["restored", OLDER])
def remains(request, vault):
    """The directory that a killed restore left: still named `restored`, or marked and renamed to former-…."""
    return vault.keep(request.param, "a half restored database", is_marked=request.param == OLDER)


def test_remains_are_removed_before_the_space_is_checked(run_restore, vault, engine, remains):
    engine.free = lambda path: 0 if remains.exists() else 10**12
    assert run_restore()[0] == 0
    assert vault.serving() == FIRST


@pytest.mark.parametrize("arguments", [[], ["--undo"], ["--forget"]])
def test_remains_are_removed_whatever_is_done(run_restore, vault, remains, arguments):
    run_restore(*arguments)
    assert not remains.exists()


@pytest.fixture
def killed(run_restore, vault):
    """A function that kills a restore at an event, so that it removes nothing; later restores are whole."""

    def kill(event):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generations, "remove_remains", lambda stack, directory: None)
            vault.wrong[event] = Killed()
            with pytest.raises(Killed):
                run_restore()
        vault.wrong.clear()

    return kill


@pytest.mark.parametrize("former", [False, True])
def test_undo_of_a_restore_that_was_killed_early_keeps_the_database(run_restore, vault, remains, former):
    """A former database may be of an earlier restore, and much older."""
    if former:
        vault.keep("former-20251130T000000Z", "an older database")
    assert run_restore("--undo")[0] == 0
    assert vault.serving() == BEFORE
    assert not remains.exists()


@pytest.mark.parametrize("event", ["stop db", "start db"])
def test_undo_of_a_killed_restore_brings_the_database_from_before_back(
    stack, run_restore, vault, killed, event
):
    vault.keep("former-20251130T000000Z", "an older database")
    killed(event)
    vault.containers["db"] = "exited"
    for flag in (stack.maintenance_flag, stack.restore_flag):
        flag.touch()
    assert run_restore("--undo")[0] == 0
    assert vault.serving() == BEFORE
    assert vault.containers["db"] == "running"
    assert not stack.maintenance_flag.exists()


def test_undo_says_what_to_do_if_the_database_from_before_does_not_start(run_restore, vault, killed):
    killed("stop db")
    vault.containers["db"] = "exited"
    vault.keep("former-20251130T000000Z", "an older database")
    vault.wrong["start db"] = failure("damaged files")
    for _attempt in range(2):
        status, _told, errors = run_restore("--undo")
        assert status == 1
        assert "run `slipway restore` again, or `--undo` with a name. Former databases: former-2" in errors
    vault.wrong.clear()
    assert run_restore("--undo")[0] == 0
    assert vault.serving() == BEFORE
    assert vault.left() == []


def test_former_databases_are_not_removed_with_the_remains(run_restore, vault, engine, remains):
    former = vault.keep("former-20251130T000000Z", "an older database")
    engine.space = 0
    assert run_restore()[0] == 1
    assert former.exists()


EVENTS = ["recover db_restore", "stop db_restore", "stop db", "start db", "position db", "promote db"]


@pytest.mark.parametrize("event", EVENTS)
def test_database_of_before_has_a_name_whenever_the_restore_is_killed(run_restore, vault, event):
    vault.wrong[event] = Killed()
    with pytest.raises(Killed):
        run_restore()
    assert BEFORE in [vault.serving(), *vault.formers()]


@pytest.mark.parametrize("event", EVENTS)
def test_next_restore_succeeds_whenever_the_one_before_was_killed(run_restore, vault, killed, event):
    killed(event)
    assert run_restore()[0] == 0
    assert vault.serving() == SECOND
    assert BEFORE in vault.formers()
    assert vault.left() == []


# --- A failure before the exchange --------------------------------------------------------------------------


def test_database_runs_again_if_the_directories_cannot_change_places(run_restore, vault, exchanges):
    exchanges(1)
    status, _told, errors = run_restore()
    assert status == 1
    assert "Invalid argument" in errors
    assert vault.serving() == BEFORE
    assert vault.containers["db"] == "running"
    assert vault.formers() == []
    assert vault.left() == []


def test_database_runs_on_if_it_cannot_be_stopped(run_restore, vault):
    vault.wrong["stop db"] = failure("no stop")
    status, _told, errors = run_restore()
    assert status == 1
    assert "no stop" in errors
    assert vault.serving() == BEFORE
    assert vault.containers["db"] == "running"
    assert vault.left() == []


def test_database_is_stopped_when_an_engine_that_restarts_answers_again(run_restore, vault, engine):
    run, pending = engine.run, [failure("Cannot connect to the Docker daemon")] * 3

    def restarting(*command, **options):
        if pending and command[:2] == ("docker", "version"):
            raise pending.pop()
        if pending and command[-2:] == ("stop", "db"):
            raise pending[0]
        return run(*command, **options)

    engine.run = restarting
    assert run_restore()[0] == 0
    assert vault.serving() == FIRST


def test_undo_that_cannot_exchange_the_directories_keeps_the_former_database(run_restore, vault, exchanges):
    former = vault.keep(OLDER, "an older database")
    exchanges(1)
    assert run_restore("--undo")[0] == 1
    assert vault.serving() == BEFORE
    assert (former / "name").read_text() == "an older database"


def test_former_database_is_kept_if_the_exchange_cannot_be_flushed_to_disk(run_restore, vault, monkeypatch):
    """The exchange comes before the flush, so the former database already has a name former-…."""

    def sync(path):
        if path == vault.live.parent:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(generations, "sync", sync)
    assert run_restore()[0] == 1
    assert BEFORE in [vault.serving(), *vault.formers()]


# --- A failure after the exchange ---------------------------------------------------------------------------


def end_of(vault):
    def end():
        vault.containers["db"] = "exited"
        raise failure("is not running")

    return end


AFTER = {
    "database": lambda vault, engine: vault.wrong.update({"start db": once(failure("no start"))}),
    "recovery": lambda vault, engine: vault.wrong.update({"position db": end_of(vault)}),
    "promotion": lambda vault, engine: vault.wrong.update({"promote db": once(failure("no promotion"))}),
    "roles": lambda vault, engine: engine.wrong.update({"roles": failure("no roles")}),
    "schema": lambda vault, engine: engine.wrong.update({"schema": failure("no schema")}),
    "blog": lambda vault, engine: engine.wrong.update({"ready": 503}),
}


@pytest.fixture(params=AFTER.values(), ids=AFTER)
def fails_late(request, vault, engine):
    """Make a step after the exchange fail; the fault ends before the directories are exchanged back."""
    request.param(vault, engine)
    vault.wrong["timeline"] = engine.wrong.clear


@pytest.mark.usefixtures("fails_late")
def test_failure_after_the_exchange_brings_the_former_database_back(stack, run_restore, vault):
    status, _told, errors = run_restore()
    assert status == 1
    assert "The former database serves again, because the other one failed" in errors
    assert vault.serving() == BEFORE
    assert vault.containers["db"] == "running"
    assert generations.is_writable(stack)
    assert not stack.maintenance_flag.exists()
    assert vault.started == [], "no backup is made of a database that was not replaced"


@pytest.mark.usefixtures("fails_late")
def test_failed_restored_database_is_not_offered_as_the_former_one(run_restore, vault):
    run_restore()
    assert vault.formers() == []
    assert vault.left() == []


@pytest.mark.usefixtures("fails_late")
def test_former_database_of_a_failed_undo_keeps_its_name(run_restore, vault):
    former = vault.keep(OLDER, "an older database")
    vault.wrong.pop("position db", None)  # an undo does not wait for a position
    run_restore("--undo")
    there = former if former.exists() else vault.live
    assert (there / "name").read_text() == "an older database"


def test_database_that_is_put_back_begins_another_timeline(run_restore, vault):
    vault.wrong["promote db"] = once(failure("no promotion"))
    run_restore()
    steps = ["stop db", "timeline", "start db", "promote db"]
    assert vault.order(*steps)[-4:] == steps


def test_second_restore_that_fails_keeps_the_former_databases_of_the_first(run_restore, vault):
    run_restore()
    vault.wrong["promote db"] = once(failure("no promotion"))
    assert run_restore()[0] == 1
    assert vault.serving() == FIRST
    assert vault.formers() == [BEFORE]


SECOND_FAILURES = {
    "stop": lambda vault, exchanges: vault.wrong.update({"stop db": nth(2, failure("no stop"))}),
    "timeline": lambda vault, exchanges: vault.wrong.update({"timeline": failure("no timeline")}),
    "exchange": lambda vault, exchanges: exchanges(2),
    "start": lambda vault, exchanges: vault.wrong.update({"start db": nth(2, failure("no start"))}),
}


@pytest.fixture(params=SECOND_FAILURES.values(), ids=SECOND_FAILURES)
def fails_twice(request, vault, exchanges):
    """Make the promotion of the restored database fail, then also a step of putting the former one back."""
    vault.wrong["promote db"] = once(failure("no promotion"))
    request.param(vault, exchanges)


@pytest.mark.usefixtures("fails_twice")
def test_second_failure_never_removes_the_former_database(run_restore, vault):
    status, _told, errors = run_restore()
    assert status == 1
    assert "The other database failed: " in errors
    assert "The former one could not be put back: " in errors
    assert BEFORE in [vault.serving(), *vault.formers()]


@pytest.mark.usefixtures("fails_twice")
def test_undo_after_a_second_failure_brings_the_former_database_back(run_restore, vault):
    run_restore()
    vault.wrong.clear()
    run_restore("--undo")
    assert vault.serving() == BEFORE


@pytest.mark.usefixtures("fails_twice")
def test_second_failure_never_names_the_former_database_restored(run_restore, vault, monkeypatch):
    monkeypatch.setattr(generations, "remove_remains", lambda stack, directory: None)
    run_restore()
    restored = vault.live.with_name("restored") / "name"
    assert not restored.exists() or restored.read_text() == FIRST


@pytest.mark.usefixtures("fails_twice")
def test_second_failure_of_an_undo_loses_neither_database(run_restore, vault):
    vault.keep(OLDER, "an older database")
    assert run_restore("--undo")[0] == 1
    assert sorted([vault.serving(), *vault.formers()]) == ["an older database", BEFORE]


def stop_database(vault):
    vault.containers["db"] = "exited"


def make_read_only(vault):
    (vault.live / "standby.signal").touch()


@pytest.mark.parametrize("prepare", [stop_database, make_read_only], ids=["stopped", "read-only"])
def test_former_database_that_did_not_answer_before_is_not_put_back(run_restore, vault, prepare):
    prepare(vault)
    vault.wrong["promote db"] = failure("no promotion")
    status, _told, errors = run_restore()
    assert status == 1
    assert "The other database is in service, but there is a problem: " in errors
    assert "The former one did not answer before, so it was not put back." in errors
    assert vault.serving() == FIRST
    assert vault.formers() == [BEFORE]
    assert vault.left() == []


# --- Timelines ----------------------------------------------------------------------------------------------


def test_undo_begins_another_timeline_before_the_exchange_and_ends_in_a_promotion(run_restore, vault):
    vault.keep(OLDER)
    run_restore("--undo")
    steps = ["timeline", "stop db", "start db", "promote db"]
    assert vault.order(*steps) == steps


def test_database_begins_its_timeline_as_a_standby_at_the_end_of_its_own_log(stack, vault):
    former = vault.keep(OLDER)
    (former / "postgresql.auto.conf").write_text("recovery_target_time = '2026-01-01'\n")
    generations.begin_timeline(stack, former)
    assert (former / "standby.signal").exists()
    assert (former / "postgresql.auto.conf").read_text().splitlines() == [
        "recovery_target_time = '2026-01-01'",
        "recovery_target = ''",
        "recovery_target_lsn = ''",
        "recovery_target_time = ''",
        "recovery_target_timeline = 'current'",
        """restore_command = 'pgbackrest --stanza=blog archive-get %f "%p"'""",
    ]


def test_failure_to_begin_a_timeline_leaves_the_database_in_service(stack, run_restore, vault):
    vault.keep(OLDER, "an older database")
    vault.wrong["timeline"] = failure("no space left on device")
    status, _told, errors = run_restore("--undo")
    assert status == 1
    assert "no space left on device" in errors
    assert vault.serving() == BEFORE
    assert "stop db" not in vault.events
    assert not stack.maintenance_flag.exists()


def test_no_mark_is_left_in_the_database_in_service(run_restore, vault):
    run_restore()
    assert not (vault.live / MARKER).exists()


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stopped", "read-only"])
def test_only_a_database_that_accepts_changes_is_writable(stack, vault, is_stopped):
    assert generations.is_writable(stack)
    if is_stopped:
        stop_database(vault)
    else:
        make_read_only(vault)
    assert not generations.is_writable(stack)


# --- Maintenance --------------------------------------------------------------------------------------------


@pytest.fixture
def flags(stack, vault):
    """Whether the maintenance page was shown when the database stopped and started."""
    seen = []
    for event in ("stop db", "start db"):
        vault.wrong[event] = lambda: seen.append(stack.maintenance_flag.exists())
    return seen


def test_readers_get_the_maintenance_page_while_the_database_is_away(stack, run_restore, flags):
    assert run_restore()[0] == 0
    assert flags == [True, True]
    assert not stack.maintenance_flag.exists()


def test_maintenance_page_of_an_operator_stays(stack, run_restore, flags):
    stack.maintenance_flag.touch()
    assert run_restore()[0] == 0
    assert flags == [True, True]
    assert stack.maintenance_flag.exists()


@pytest.mark.parametrize("is_on", [True, False])
def test_maintenance_page_is_as_before_after_a_failure(stack, run_restore, vault, is_on):
    if is_on:
        stack.maintenance_flag.touch()
    vault.wrong["promote db"] = once(failure("no promotion"))
    assert run_restore()[0] == 1
    assert stack.maintenance_flag.exists() is is_on


def test_maintenance_page_is_not_shown_while_the_backup_is_recovered(stack, run_restore, vault):
    seen = []
    vault.wrong["recover db_restore"] = lambda: seen.append(stack.maintenance_flag.exists())
    run_restore()
    assert seen == [False]


@pytest.fixture
def interrupted(stack, vault):
    """A restore that was killed while readers got the maintenance page."""
    stack.maintenance_flag.touch()
    stack.restore_flag.touch()


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("arguments", [[], ["--undo"]])
def test_maintenance_page_of_an_interrupted_restore_goes_off_after_the_next(
    stack, run_restore, vault, arguments
):
    vault.keep(OLDER)
    assert run_restore(*arguments)[0] == 0
    assert not stack.maintenance_flag.exists()
    assert not stack.restore_flag.exists()


def test_maintenance_page_of_an_operator_stays_after_a_restore_that_followed_an_interrupted_one(
    stack, run_restore, interrupted
):
    run_restore()
    stack.maintenance_flag.touch()
    assert run_restore()[0] == 0
    assert stack.maintenance_flag.exists()


@pytest.mark.usefixtures("interrupted")
def test_maintenance_page_stays_that_an_operator_switched_off_and_on_after_an_interruption(
    main, stack, run_restore
):
    main("maintenance", "off")
    main("maintenance", "on")
    assert run_restore()[0] == 0
    assert stack.maintenance_flag.exists()


@pytest.mark.usefixtures("interrupted")
def test_status_says_that_a_restore_was_interrupted(stack):
    [sentence] = restore.sentences(stack)
    assert sentence.startswith("A restore was interrupted, and readers get the maintenance page")


@pytest.mark.usefixtures("interrupted")
def test_status_says_nothing_of_an_interruption_while_a_restore_is_under_way(stack, engine):
    with lock(engine, "a restore by anna"):
        assert restore.sentences(stack) == []


@pytest.mark.usefixtures("vault")
def test_status_says_nothing_of_an_interruption_while_an_operator_shows_the_maintenance_page(stack):
    stack.maintenance_flag.touch()
    assert restore.sentences(stack) == []


# --- The operator -------------------------------------------------------------------------------------------


def test_restore_goes_on_after_the_connection_of_the_operator_has_ended(run_restore, vault, monkeypatch):
    def write(text):
        raise BrokenPipeError(32, "Broken pipe")

    gone = io.StringIO()
    gone.write = write
    monkeypatch.setattr(sys, "stdout", gone)
    assert run_restore()[0] == 0
    assert vault.serving() == FIRST
