"""Restore drills: the newest backup, and a random moment, are restored into a throwaway container.

In both, all tables and indexes, and the checksums of all pages, are checked. The newest backup must also have
the right numbers of rows, and the blog must answer requests with it.
"""

import datetime
import json
import random
import signal
import time
from argparse import Namespace
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from slipway import pgbackrest
from slipway.files import write
from slipway.host import age, moment, seconds_of, time_of
from slipway.json_types import from_json
from slipway.lock import DRILL, Busy, lock
from slipway.pgbackrest import Target
from slipway.recovered import Recovered, close_segment, require_space, rows, rows_now
from slipway.release import image_in_service
from slipway.settings import DAY
from slipway.shell import Failure, describe, printable, say
from slipway.stack import Stack
from slipway.throwaway import BLOG, DATABASE, admit_blog, remove, throwaway
from slipway.unit import exec_in_unit
from slipway.verification import read_verification

# More than the week between two drills: backup_drill in roles/backup/defaults/main.yml.
OVERDUE_DAYS = 8
KEPT = 100
FULL_COMMAND = "`systemctl start slipway-backup@full` makes one"
UPGRADE_AGAIN = "run upgrade_database.yml again"
# The pages that must answer 200. A Host header is required.
PAGES = """
import sys, urllib.request
for path in ("/readyz", "/"):
    request = urllib.request.Request("http://127.0.0.1:8000" + path, headers={"Host": sys.argv[1]})
    print(path, urllib.request.urlopen(request, timeout=10).status)
"""
PAGES_SECONDS = 60
EXPOSED = """
    SELECT CASE WHEN timestamp > since THEN round(extract(epoch FROM clock_timestamp() - since), 1) ELSE 0 END
    FROM pg_last_committed_xact(),
         (SELECT coalesce(last_archived_time, stats_reset) AS since FROM pg_stat_archiver) archived
"""
# The exit status of a drill that another operation ended; slipway-drill.service repeats it (EX_TEMPFAIL).
AGAIN = 75


@dataclass
class Drill:
    """One drill, as in the record of drills.

    Attributes:
        at: when it began, as in RFC 3339.
        passed: whether everything was as expected.
        reason: why it failed; empty if it passed.
        backup: the label of the backup that was restored.
        moment: the random moment that was restored too; empty if there was none yet.
        rpo_seconds: for how long changes had waited to be archived, when the drill began.
        rto_seconds: how long it took from the beginning of the restore until the blog answered.
        rows: the number of rows that were compared.
    """

    at: str
    passed: bool = False
    reason: str = ""
    backup: str = ""
    moment: str = ""
    rpo_seconds: float = 0
    rto_seconds: float = 0
    rows: int = 0

    def __post_init__(self) -> None:
        moment(self.at)  # raises ValueError


def read_drills(stack: Stack) -> list[Drill]:
    """Return the drills, oldest first; none if the record is missing or damaged."""
    try:
        found = json.loads((stack.state / "drills.json").read_text())
        return [from_json(Drill, one) for one in found]
    except (OSError, ValueError, TypeError):
        return []


def save(stack: Stack, drill: Drill) -> None:
    """Add a drill to the record."""
    kept = [*read_drills(stack), drill][-KEPT:]
    write(stack.state / "drills.json", json.dumps([asdict(one) for one in kept], indent=1) + "\n")


def problem(stack: Stack, since: str) -> str:
    """Return a sentence if the last drill failed or is overdue; else an empty string.

    Args:
        stack: the stack.
        since: since when there are backups, as in RFC 3339; empty if there are none.
    """
    done = read_drills(stack)
    if done and not done[-1].passed:
        first_line = done[-1].reason.partition("\n")[0]
        return f"The last restore drill failed at {done[-1].at}: {first_line}"
    last = done[-1].at if done else since
    if last and age(stack.host, last) > OVERDUE_DAYS * DAY:
        words = (
            f"The last restore drill was at {last}"
            if done
            else f"There is no drill of the backups since {last}"
        )
        return f"{words}: see `systemctl status slipway-drill.timer`."
    return ""


def sentence(stack: Stack) -> str:
    """Return what the status says about drills; empty without any."""
    done = read_drills(stack)
    if not done:
        return ""
    last = done[-1]
    if not last.passed:
        return f"failed at {last.at}: {last.reason}"
    return (
        f"passed at {last.at}: {last.backup}, {last.rows} rows; lost {last.rpo_seconds:.0f} s, took "
        f"{last.rto_seconds:.0f} s"
    )


def metrics(stack: Stack) -> dict[str, tuple[str, Any]]:
    """Return the metrics of drills: a description and a value, by name."""
    good = [one for one in read_drills(stack) if one.passed]
    if not good:
        return {}
    return {
        "slipway_drill_passed_timestamp_seconds": ("When the last good restore drill was.", good[-1].at),
        "slipway_drill_rpo_seconds": ("How long changes had waited to be archived.", good[-1].rpo_seconds),
        "slipway_drill_rto_seconds": ("How long it took until the blog answered.", good[-1].rto_seconds),
    }


class Attempt:
    """A drill under way."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.drill = stack, Drill(stack.host.now())
        self.started = time.monotonic()

    def say(self, words: str) -> None:
        """Print what happens, with the seconds since the beginning."""
        say(f"{time.monotonic() - self.started:6.1f} s  {words}")

    def restore_newest(self, database: Recovered) -> None:
        """Restore everything that is archived, and compare it with the database that runs."""
        stack, drill = self.stack, self.drill
        repository = pgbackrest.inspect(stack)
        if not repository.backups:
            raise Failure(repository.problem or f"There is no backup: {FULL_COMMAND}.")
        if repository.is_other:
            raise Failure(f"The backups of this version of Postgres have not begun: {UPGRADE_AGAIN}.")
        require_space(stack, repository, 1)
        drill.rpo_seconds = exposed_seconds(stack)
        target, wanted = rows_now(stack)
        last = close_segment(stack)
        began = time.monotonic()
        drill.backup = database.recover(last, target, self.say)
        self.say("comparing the rows with those of the database that runs")
        restored = rows(database.query)
        if restored != wanted:
            raise Failure(f"The restored tables have other numbers of rows. {differences(wanted, restored)}")
        drill.rows = sum(restored.values())
        database.promote()
        self.request_pages(database)
        drill.rto_seconds = round(time.monotonic() - began, 1)
        self.check_files(database)

    def restore_moment(self, database: Recovered) -> None:
        """Restore a random moment of the window."""
        stack = self.stack
        oldest = pgbackrest.inspect(stack).backups[0].at
        first, latest = seconds_of(max(oldest, read_verification(stack).since)) + 1, seconds_of(self.drill.at)
        if latest <= first:
            return
        chosen = datetime.datetime.fromtimestamp(random.uniform(first, latest), datetime.UTC)
        text = chosen.isoformat(sep=" ", timespec="milliseconds")
        self.say(f"restoring the moment {text}")
        database.recover(close_segment(stack), Target("time", text), self.say)
        self.drill.moment = time_of(chosen.timestamp())
        database.promote()
        self.check_files(database)

    def request_pages(self, database: Recovered) -> None:
        """Run the blog on the recovered database, and request its pages."""
        stack = self.stack
        self.say("requesting pages of the blog on the recovered database")
        admit_blog(stack, database)
        images = {"tool": image_in_service(stack)}
        stack.compose("up", "--detach", "--no-deps", "--force-recreate", BLOG, images=images)
        ask = ("exec", "-T", BLOG, "python3", "-c", PAGES, stack.config["host"].partition(":")[0])
        deadline = time.monotonic() + PAGES_SECONDS
        while True:
            try:
                stack.compose(*ask, images=images)
                break
            except Failure as failure:
                if time.monotonic() > deadline:
                    raise Failure(f"The blog does not work on the recovered database. {failure}") from None
            stack.host.sleep(0.5)
        stack.compose("rm", "--stop", "--force", BLOG, images=images)

    def check_files(self, database: Recovered) -> None:
        """Check every index and table, and the checksum of every page; the database is stopped then."""
        self.say("checking tables and indexes (amcheck)")
        database.run(
            *(
                "pg_amcheck",
                "--username=postgres",
                "--database=blog",
                "--install-missing",
                "--heapallindexed",
            ),
        )
        database.stop()
        self.say("checking the checksums of all pages (pg_checksums)")
        self.stack.compose("run", "--rm", "--no-deps", "-T", DATABASE, "pg_checksums", "--check")


def differences(wanted: dict[str, int], restored: dict[str, int]) -> str:
    """Return the tables that have another number of rows than wanted."""
    tables = sorted(
        name for name in wanted.keys() | restored.keys() if wanted.get(name) != restored.get(name)
    )
    return "; ".join(f"{name}: {restored.get(name)} instead of {wanted.get(name)}" for name in tables)


def exposed_seconds(stack: Stack) -> float:
    """Return for how long changes have waited to be archived: they would be lost with the host now."""
    return float(stack.query(EXPOSED) or 0)


class Ended(BaseException):
    """Another operation began, or somebody stopped the unit. No handler of failures must catch it."""


def end_on_signal(number: int, frame: object) -> NoReturn:
    """End the drill; further signals must not end the removal of its remains."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Ended("The drill was ended, because another operation began. It has no result.")


def command_drill(stack: Stack, options: Namespace) -> int:
    if not options.in_unit:
        exec_in_unit("slipway-drill", options.arguments)
    try:
        with lock(stack.host, DRILL, other="Another operation"):
            drill = run(stack)
    except (Busy, Ended) as failure:
        print(failure, flush=True)
        return AGAIN
    if not drill.passed:
        raise Failure(f"The restore drill failed. {drill.reason}")
    say(f"The restore drill {sentence(stack)}.")
    return 0


def run(stack: Stack) -> Drill:
    """Restore the newest backup and a random moment, check both, and record the result."""
    attempt = Attempt(stack)
    signal.signal(signal.SIGTERM, end_on_signal)
    try:
        for restore in (attempt.restore_newest, attempt.restore_moment):
            with throwaway(stack) as database:
                restore(database)
        attempt.drill.passed = True
    except Ended:
        remove(stack)
        raise
    except Exception as failure:
        attempt.drill.reason = printable(describe(failure))
    save(stack, attempt.drill)
    return attempt.drill
