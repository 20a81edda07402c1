"""The recovery of a database from a backup, in the container of any service that can run the database."""

import json
import time
from collections.abc import Callable

from slipway import containers, pgbackrest
from slipway.host import time_of
from slipway.pgbackrest import Repository, Target
from slipway.settings import SPARE_DISK
from slipway.shell import Failure
from slipway.stack import PSQL, Stack

# How long a recovering database may take until it answers: it must first recover to the end of the backup.
START_SECONDS = 3600
# How long it may stay at the same position without having reached its target.
STUCK_SECONDS = 60
# How long the last segment of the log may take to be archived.
ARCHIVE_SECONDS = 30
# How long the position must stay the same before the end of the archive counts as reached.
STILL_SECONDS = 3
POSITION = """
    SELECT json_build_object(
        'position', pg_last_wal_replay_lsn(), 'paused', pg_get_wal_replay_pause_state() = 'paused',
        'at', extract(epoch FROM pg_last_xact_replay_timestamp()))
"""
# The number of rows of each table.
COUNT = """
    SELECT json_object_agg(relname, (xpath('/row/c/text()', query_to_xml(
        format('SELECT count(*) AS c FROM public.%I', relname), false, true, '')))[1]::text::bigint)
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""
# Count while no table changes, so that the position belongs to these numbers. Give up sooner than Postgres
# looks for deadlocks (1 s), so that it never ends a transaction of the blog instead of this one.
COUNT_NOW = f"""
    SET LOCAL lock_timeout = '500ms';
    DO $$ BEGIN
        EXECUTE (SELECT format('LOCK TABLE %s IN SHARE MODE', string_agg(oid::regclass::text, ', '))
                 FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace);
    END $$;
    SELECT json_build_object('position', pg_current_wal_insert_lsn(), 'rows', ({COUNT}))
"""
# How long the tables may be in use by long transactions.
FREE_SECONDS = 20


class Recovered:
    """A database that is recovered in the container of a service.

    Attributes:
        service: the service in compose.yml: `db`, `db_restore` or `db_drill`.
        at: when the last transaction that was recovered ended, as in RFC 3339; empty if there was none.
    """

    def __init__(self, stack: Stack, service: str) -> None:
        self.stack, self.service, self.at = stack, service, ""

    def recover(self, last: str, target: Target | None, say: Callable[[str], object]) -> str:
        """Restore a backup, start the database, and wait until it has recovered all that was asked for.

        Returns the label of the backup.

        Args:
            last: the last archived segment, whose timeline the recovery follows.
            target: where to stop; None for the end of the archive.
            say: gets a sentence about the progress.
        """
        say("restoring the files of the backup")
        label = pgbackrest.restore(self.stack, self.service, int(last[:8], 16), target)
        say("recovering the changes since the backup")
        self.start()
        self.wait(target, last, say)
        return label

    def start(self) -> None:
        """Start the database."""
        self.stack.compose("up", "--detach", "--no-deps", "--force-recreate", self.service)

    def wait(self, target: Target | None, last: str, say: Callable[[str], object]) -> None:
        """Wait until the database has recovered up to its target, or to the end of the last segment.

        Raises:
            Failure: the recovery makes no progress, or the database stopped, for example because the archive
                ends before the target.
        """
        began = told = since = time.monotonic()
        before = ""
        while True:
            self.stack.host.sleep(0.3)
            now = time.monotonic()
            try:
                found = json.loads(self.query(POSITION))
            except Failure:
                self.expect_running()
                if now - began > START_SECONDS:
                    raise
                continue
            position = found["position"] or ""
            self.at = time_of(found["at"]) if found["at"] else ""
            if position != before:
                before, since = position, now
            at_end = segment_of(position) >= last[8:]
            if found["paused"] if target else (at_end and now - since > STILL_SECONDS):
                return
            if now - since > STUCK_SECONDS:
                where = self.at or "the end of the backup"
                raise Failure(
                    f"The recovery has stopped at {where}, before its end: a part of the log is missing or "
                    "damaged. `slipway backup verify` shows more."
                )
            if now - told > 10:
                told = now
                say(f"recovered the changes until {self.at or 'the end of the backup'}")

    def expect_running(self) -> None:
        """Raise Failure with the last lines of the log unless the container runs."""
        found = containers.inspect(self.stack.host, *containers.of_service(self.stack.host, self.service)[:1])
        if not found or found[0]["State"]["Status"] != "running":
            words = [containers.state_and_log(self.stack.host, one) for one in found]
            raise Failure("\n".join(["The database did not recover.", *words]))

    def query(self, statement: str) -> str:
        """Run one SQL statement as the superuser, and return the result."""
        return self.stack.compose("exec", "-T", self.service, *PSQL, f"--command={statement}").strip()

    def promote(self) -> None:
        """End the recovery, so that the database accepts changes."""
        if self.query("SELECT pg_promote(true, 300)") != "t":
            raise Failure("The recovered database did not end its recovery within 300 s.")
        # Until then, pg_control has the former timeline, and a backup fails.
        self.query("CHECKPOINT")

    def run(self, *command: str) -> str:
        """Run a command in the database's container."""
        return self.stack.compose("exec", "-T", self.service, *command)

    def stop(self) -> None:
        """Stop the database, and remove its container; the files stay."""
        self.stack.compose("rm", "--stop", "--force", self.service)


def segment_of(position: str) -> str:
    """Return the digits of the segment that has a position in the log, without those of the timeline."""
    bytes_before = pgbackrest.offset(position or "0/0")
    return f"{bytes_before >> 32:08X}{(bytes_before & 0xFFFFFFFF) >> 24:08X}"


def require_space(stack: Stack, repository: Repository, copies: float) -> None:
    """Raise Failure unless the disk has space for more copies of the database.

    Postgres would stop if the disk became full.
    """
    place = stack.host.settings.engine
    need, free = repository.megabytes * copies + SPARE_DISK // 10**6, stack.host.free(place) // 10**6
    if free < need:
        raise Failure(
            f"This needs {need:.0f} MB for copies of the database, but {place} has {free} MB of free space. "
            "Free some space, then try again; `slipway restore --forget` removes former databases."
        )


def rows(query: Callable[[str], str]) -> dict[str, int]:
    """Return the number of rows of each table of the blog."""
    counts: dict[str, int] = json.loads(query(COUNT) or "{}")
    return counts


def rows_now(stack: Stack) -> tuple[Target, dict[str, int]]:
    """Return the position in the log, and the number of rows of each table at exactly this position.

    Raises:
        Failure: the tables are never free of long transactions.
    """
    deadline = time.monotonic() + FREE_SECONDS
    while True:
        try:
            found = json.loads(stack.query(COUNT_NOW))
            return Target("lsn", found["position"]), found["rows"]
        except Failure:
            if time.monotonic() > deadline:
                raise
        stack.host.sleep(0.5)


def close_segment(stack: Stack) -> str:
    """Archive the changes until now; return the name of the last archived segment.

    Raises:
        Failure: the database does not run, or the segment does not reach the archive.
    """
    # A recovery up to a time ends at the first transaction after it, so there must be one.
    stack.query("SELECT pg_current_xact_id()")
    point = "pg_create_restore_point('slipway')"
    last = stack.query(f"SELECT pg_walfile_name(p) FROM {point} p, LATERAL pg_switch_wal() s")
    deadline = time.monotonic() + ARCHIVE_SECONDS
    while stack.query(f"SELECT coalesce(last_archived_wal >= '{last}', false) FROM pg_stat_archiver") != "t":
        if time.monotonic() > deadline:
            raise Failure(
                f"The segment {last} was not archived within {ARCHIVE_SECONDS} s: see `slipway logs db`."
            )
        stack.host.sleep(0.2)
    return last
