"""The backup engine, pgBackRest. It runs in containers of the database's image, and no other module knows it.

`pgbackrest info` and `pgbackrest verify` exit with 0 whatever they find, so this module reads their output.
"""

import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slipway import containers
from slipway.host import seconds_of, time_of
from slipway.shell import CommandFailure, Failure, printable
from slipway.stack import Stack

KINDS = ("full", "diff", "incr")
# Without warnings between the lines of the output.
QUIET = ("--log-level-console=off", "--log-level-stderr=error")
ARCHIVE = "archive/blog"
# The codes of a stanza (the backups of one database) in the output of `info`.
OK, NO_STANZA, NO_BACKUP, OTHER = 0, {1, 3}, 2, 99
# Exit statuses: the repository has the backups of another database; another backup is under way.
ANOTHER_DATABASE, LOCKED = 28, 50
# Such as 17-1/0000000100000000/000000010000000000000003-6e0f….zst
SEGMENT = re.compile(r"/([0-9A-F]{24})-[0-9a-f]{40}\b")
# A line of the output of `verify` about something that is not as it was written.
WRONG = re.compile(r"status: (?!valid\b|ok\b)|(missing|invalid|other): [1-9]|mismatch")
# The last eight digits of a segment's name are less than this number, because a segment has 16 MB. After the
# highest value, they begin at 0 again, and the eight digits before them go up by one.
SEGMENTS = 0x100
# An interrupted run may have left files in the service's directory.
RESTORE = """
    find "$PGDATA" -mindepth 1 -delete 2>/dev/null || true
    mkdir -p -m 0700 "$PGDATA"
    exec pgbackrest --stanza=blog "$@" restore
"""
# How a recovering database gets a segment. The command that pgBackRest writes by default names the directory,
# which gets another name later. This one gets the directory from the environment of the container.
RESTORE_COMMAND = 'pgbackrest --stanza=blog archive-get %f "%p"'
# The service in compose.yml that restores in the database's volume.
RESTORE_SERVICE = "db_restore"


@dataclass(frozen=True)
class Backup:
    """A backup in the repository.

    Attributes:
        label: its name.
        kind: full, diff or incr.
        at: when it ended, as in RFC 3339. The database can be restored as it was then, or later.
        megabytes: the size that it adds to the repository.
        is_damaged: whether the database had damaged pages when the backup was made.
        timeline: the timeline of the database.
        segment: the segment of the log at its beginning.
        position: the position in the log at its end.
    """

    label: str
    kind: str
    at: str
    megabytes: float
    is_damaged: bool
    timeline: int
    segment: str
    position: str


@dataclass(frozen=True)
class Target:
    """Where a recovery stops.

    Attributes:
        kind: time or lsn (a position in the log).
        value: the time or the position, as Postgres reads it.
    """

    kind: str
    value: str


@dataclass(frozen=True)
class Repository:
    """The state of the repository.

    Attributes:
        exists: whether it was created.
        backups: the complete backups of its database, oldest first.
        archives: the directories of the archive of its database.
        problem: why it cannot be used; empty if it can.
        is_busy: whether a backup is under way.
        megabytes: the size of the database in the newest backup.
        system: the system identifier of its database; 0 if there is none yet.
        major: the major version of Postgres of its database, such as 17; empty if there is none yet.
        is_other: whether the newest database of the repository is not that of the image's version, so that
            the repository takes no backups of it.
        others: the major versions of which there are backups besides its database's.

    After an upgrade to another major version, the repository has several databases. Its database is then the
    newest one of the version that the image of the database has, or else the newest one.
    """

    exists: bool
    backups: list[Backup]
    archives: list[str]
    problem: str
    is_busy: bool
    megabytes: int
    system: int
    major: str
    is_other: bool
    others: list[str]


def run(stack: Stack, *arguments: str, read: bool = True) -> str:
    """Run a command of pgBackRest in the database's container.

    read: whether the command only reads: then a container for a restore can run it if the database is down.
    """
    where: tuple[str, ...] = ("exec", "-T", "db")
    if read and not containers.of_service(stack.host, "db", "--filter=status=running"):
        where = ("run", "--rm", "--no-deps", "-T", RESTORE_SERVICE)
    return stack.compose(*where, "pgbackrest", "--stanza=blog", *arguments)


def inspect(stack: Stack) -> Repository:
    """Return the state of the repository.

    Raises:
        Failure: the repository cannot be reached.
    """
    [found] = json.loads(run(stack, *QUIET, "--output=json", "info"))
    code, words = found["status"]["code"], found["status"]["message"]
    if code == OTHER:
        # With a wrong passphrase, the message contains a whole file, unreadable and long.
        words = "; ".join(printable(one["status"]["message"][:200]) for one in found["repo"])
    container = containers.inspect(stack.host, *containers.of_service(stack.host, "db")[:1])
    major = containers.environment(container[0]).get("PG_MAJOR") if container else None
    databases = own_databases(found["db"], major)
    newest: dict[str, Any] = databases[-1] if databases else {"system-id": 0, "version": ""}
    numbers = [one["id"] for one in databases]
    used = {one["database"]["id"] for one in found["backup"]}
    own = [one for one in found["backup"] if one["database"]["id"] in numbers]
    backups = [
        Backup(
            one["label"],
            one["type"],
            time_of(one["timestamp"]["stop"]),
            round(one["info"]["repository"]["delta"] / 10**6, 1),
            bool(one.get("error")),
            int(one["archive"]["stop"][:8], 16),
            one["archive"]["start"],
            one["lsn"]["stop"],
        )
        for one in own
    ]
    usable = code in {OK, NO_BACKUP, *NO_STANZA}
    is_busy = found["status"].get("lock", {}).get("backup", {}).get("held", False)
    size = own[-1]["info"]["size"] if own else 0
    return Repository(
        exists=code not in NO_STANZA,
        backups=backups,
        archives=[f"{one['version']}-{one['id']}" for one in databases],
        problem="" if usable else words,
        is_busy=is_busy,
        megabytes=size // 10**6,
        system=newest["system-id"],
        major=newest["version"],
        is_other=bool(major and found["db"])
        and (newest["version"], found["db"][-1]["id"]) != (major, numbers[-1]),
        others=sorted({one["version"] for one in found["db"] if one["id"] in used.difference(numbers)}),
    )


def own_databases(listed: list[dict[str, Any]], major: str | None) -> list[dict[str, Any]]:
    """Return the entries of one database. It has more than one if an upgrade was undone.

    Args:
        listed: the entries of all databases, from the output of `info`.
        major: the major version of the database; if it has no entry, the newest database is meant.
    """
    if not listed:
        return []
    newest = next((one for one in reversed(listed) if one["version"] == major), listed[-1])
    return [one for one in listed if all(one[name] == newest[name] for name in ("version", "system-id"))]


def create(stack: Stack) -> None:
    """Create the repository for this database; raise Failure if it has the backups of another one."""
    try:
        run(stack, "stanza-create", read=False)
    except CommandFailure as failure:
        if failure.status == LOCKED:
            return  # a backup is under way, which has checked the same
        if failure.status != ANOTHER_DATABASE:
            raise
        raise Failure(
            "The repository has the backups of another database than the one that runs. Nothing was changed. "
            "To bring that database back, run `slipway restore`, then site.yml. To begin anew, move its "
            "backups elsewhere."
        ) from None


def upgrade(stack: Stack) -> None:
    """Let the repository also have the backups of a database of another major version, if it does not yet."""
    run(stack, "stanza-upgrade", read=False)


def check(stack: Stack) -> None:
    """Archive a segment now; raise Failure if it does not reach the repository within a minute."""
    run(stack, "check", read=False)


def backup(stack: Stack, kind: str) -> None:
    """Make a backup of a kind, and remove backups that retention no longer keeps."""
    try:
        run(stack, f"--type={kind}", "backup", read=False)
    except CommandFailure as failure:
        if failure.status == LOCKED:
            raise Failure(
                "Another backup is under way: see `systemctl list-units 'slipway-backup*'`."
            ) from None
        raise


def verify(stack: Stack) -> str:
    """Read every file of the repository; return what is wrong with them, or an empty string."""
    text = run(stack, *QUIET, "--output=text", "--verbose", "verify")
    if re.search(r"^\s*status: ok$", text, re.MULTILINE):
        return ""
    lines = [line.strip() for line in text.splitlines() if WRONG.search(line)]
    return printable("; ".join(lines[:5]) or text.strip()[:500] or "pgbackrest verify printed nothing")


def gaps(stack: Stack) -> list[tuple[str, Backup | None]]:
    """Return each gap of the archive: its first missing segment, and the first full backup after it."""
    repository = inspect(stack)
    full = [one for one in repository.backups if one.kind == "full"]
    return [
        (gap, next((one for one in full if one.segment[:8] >= gap[:8] and one.segment[8:] > gap[8:]), None))
        for gap in missing(archived(stack, repository))
    ]


def archive_files(stack: Stack, repository: Repository) -> list[str]:
    """Return the paths of all files in the archive of the repository's database, relative to `ARCHIVE`."""
    listed: dict[str, object] = json.loads(
        run(stack, *QUIET, "--output=json", "--recurse", "repo-ls", ARCHIVE)
    )
    return sorted(name for name in listed if name.partition("/")[0] in repository.archives)


def archived(stack: Stack, repository: Repository) -> list[str]:
    """Return the names of the archived segments, in order."""
    files = archive_files(stack, repository)
    return sorted({found[1] for name in files if (found := SEGMENT.search(f"/{name}"))})


def last_archived(stack: Stack) -> str:
    """Return the last archived segment of the newest timeline; raise Failure if there is none.

    Every restore, and its undoing, begin a timeline with a higher number.
    """
    segments = archived(stack, inspect(stack))
    if not segments:
        raise Failure("The archive has no segment of the log.")
    return segments[-1]


def lineage(stack: Stack, repository: Repository, timeline: int) -> dict[int, str]:
    """Return the timelines that a timeline comes from, each with the position at which it was left."""
    files = archive_files(stack, repository)
    name = next((name for name in files if name.endswith(f"/{timeline:08X}.history")), "")
    if not name:
        return {}
    lines = run(stack, *QUIET, "repo-get", f"{ARCHIVE}/{name}").splitlines()
    return {
        int(number): position for number, position, *_reason in (line.split("\t") for line in lines if line)
    }


def choose(stack: Stack, timeline: int, target: Target | None) -> Backup:
    """Return the newest backup from which a target can be recovered.

    A restore begins another timeline. So a backup may be older than the target, but not lead to it.

    Raises:
        Failure: there is none.
    """
    repository = inspect(stack)
    past = lineage(stack, repository, timeline)
    for one in reversed(repository.backups):
        if target and is_after(one, target):
            continue
        if one.timeline == timeline or offset(one.position) <= offset(past.get(one.timeline, "0/0")):
            return one
    raise Failure(f"No backup leads to {target.value if target else 'the end of the archive'}.")


def is_after(backup: Backup, target: Target) -> bool:
    """Tell whether a backup ended after a target. A database recovers at least until its backup's end."""
    if target.kind == "time":
        # The time of a backup is cut to the second.
        return seconds_of(backup.at) + 1 > seconds_of(target.value)
    return offset(backup.position) > offset(target.value)


def offset(position: str) -> int:
    """Return a position in the log, such as 1A/2B000000, in bytes."""
    log, _slash, rest = position.partition("/")
    return (int(log, 16) << 32) + int(rest, 16)


def missing(segments: Iterable[str]) -> list[str]:
    """Return the first missing segment of each gap. Each timeline is a sequence of its own."""
    names = sorted(segments)
    return [
        following(before)
        for before, after in itertools.pairwise(names)
        if before[:8] == after[:8] and following(before) != after
    ]


def following(segment: str) -> str:
    """Return the name of the segment after a segment, on the same timeline."""
    log, number = int(segment[8:16], 16), int(segment[16:], 16) + 1
    return f"{segment[:8]}{log + number // SEGMENTS:08X}{number % SEGMENTS:08X}"


def restore(stack: Stack, service: str, timeline: int, target: Target | None = None) -> str:
    """Restore the newest suitable backup into the directory of a service, which must not run.

    The database in it is a standby: it recovers up to the target, and then waits. Returns the backup's label.

    Args:
        stack: the stack.
        service: the service, as in compose.yml.
        timeline: the timeline to follow, since earlier restores may have left others.
        target: where to stop; None for the end of the archive.
    """
    how = ["--type=standby"]
    if target:
        how = [f"--type={target.kind}", f"--target={target.value}", "--target-action=pause"]
    chosen = choose(stack, timeline, target)
    # Postgres accepts the number of a timeline only if the repository has its history. The repository lacks
    # the history of a timeline that began before the repository was in use.
    followed = "current" if chosen.timeline == timeline else timeline
    arguments = (
        *how,
        f"--target-timeline={followed}",
        f"--set={chosen.label}",
        f"--recovery-option=restore_command={RESTORE_COMMAND}",
    )
    command = ("run", "--rm", "--no-deps", "-T", service, "bash", "-euc", RESTORE, "restore", *arguments)
    stack.compose(*command)
    return chosen.label
