"""Continuous backups of the database: their start, their timers' commands, and whether they are current."""

import contextlib
import http.client
import json
import time
import urllib.request
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from slipway import drills, generations, pgbackrest, restic
from slipway.files import write
from slipway.host import Host, age, check_moments, seconds_of, time_of
from slipway.json_types import from_json
from slipway.lock import lock
from slipway.notify import call_webhook
from slipway.settings import DAY, load
from slipway.shell import Failure, describe
from slipway.stack import Stack
from slipway.verification import look_for_gaps, read_verification, recording, verify

# A segment that waits longer than this to be archived is a problem: changes since then would be lost.
LAG_SECONDS = 120
# By default, there is a full backup each week, and a backup of any kind every six hours: backup_full,
# backup_diff and backup_incr in roles/backup/defaults/main.yml.
FULL_DAYS, ANY_HOURS = 8, 30
# The files are verified daily.
VERIFY_DAYS = 3
DISK_MB = 512
# Times may differ by this much before the clock counts as wrong.
CLOCK_SECONDS = 60
# A check each minute; this many seconds without one is a problem.
CHECK_SECONDS = 600
# How long a check waits for a database that is being replaced.
DATABASE_SECONDS = 30
FULL_UNIT = "slipway-backup@full.service"
# Problems during which the log is not archived.
BROKEN = {"lag", "archive", "reach"}
ARCHIVER = """
    SELECT json_build_object(
        'waiting', coalesce((SELECT extract(epoch FROM clock_timestamp() - min(modification))
                             FROM pg_ls_archive_statusdir() WHERE name ~ '[.]ready$'), 0),
        'archived', extract(epoch FROM last_archived_time),
        'failing', coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
        'readonly', pg_is_in_recovery())
    FROM pg_stat_archiver
"""


@dataclass
class Record:
    """The result of the last check.

    Attributes:
        checked: when the check ended, as in RFC 3339; empty if there was none.
        problems: a sentence for each problem, by its kind.
        newest: the newest backup, as `pgbackrest.Backup`; empty if there is none.
        oldest: the time from which on the database can be restored; empty if there is none.
        archived: when the last segment of the log was archived; empty if Postgres does not know it.
        told: the kinds of the problems that the webhook knows.
    """

    checked: str = ""
    problems: dict[str, str] = field(default_factory=dict)
    newest: dict[str, object] = field(default_factory=dict)
    oldest: str = ""
    archived: str = ""
    told: list[str] = field(default_factory=list)


def is_on(stack: Stack) -> bool:
    """Tell whether the role `backup` was used for this host."""
    return "backup_repository" in stack.config


def read_record(stack: Stack) -> Record:
    """Return the result of the last check; an empty one if there was none, or if the file is damaged."""
    with contextlib.suppress(OSError, ValueError):
        record = from_json(Record, json.loads((stack.state / "backups.json").read_text()))
        check_moments(record.checked, record.oldest, record.archived, str(record.newest.get("at", "")))
        return record
    return Record()


def save(stack: Stack, record: Record) -> None:
    """Write the record."""
    write(stack.state / "backups.json", json.dumps(vars(record), indent=1) + "\n")


def examine(stack: Stack) -> Record:
    """Look at the archive and the repository, and return what was found and what is wrong."""
    record = Record()
    try:
        found = wait_for_archiver(stack)
        record.archived = time_of(found["archived"]) if found["archived"] else ""
        record.problems |= archive_problems(found, stack)
        repository = pgbackrest.inspect(stack)
        record.newest = asdict(repository.backups[-1]) if repository.backups else {}
        record.oldest = next((one.at for one in repository.backups if one.kind == "full"), "")
        record.problems |= dict(repository_problems(stack, repository))
    except (Failure, ValueError, LookupError, TypeError) as failure:
        record.problems["reach"] = f"The archive or the repository cannot be read: {describe(failure)}"
    verified = read_verification(stack)
    record.oldest = max(record.oldest, verified.since)
    if verified.damage:
        record.problems["damage"] = f"Files of the repository are damaged: {verified.damage}"
    if verified.gap:
        record.problems["gap"] = (
            f"A part of the archive is missing, from the segment {verified.gap} on: make a full backup with "
            "`slipway backup run full`. Every moment after it can be restored again."
        )
    if record.oldest and age(stack.host, max(record.oldest, verified.at)) > VERIFY_DAYS * DAY:
        last = f"last verified at {verified.at}" if verified.at else "never verified"
        record.problems["verify"] = f"The files were {last}: see `journalctl -u slipway-backup-verify`."
    if (free := stack.host.free(stack.host.settings.engine) // 10**6) < DISK_MB:
        record.problems["disk"] = f"The disk has only {free} MB of free space: free some, or Postgres stops."
    if words := files_problem(stack, record):
        record.problems["files"] = words
    if words := drills.problem(stack, record.oldest):
        record.problems["drill"] = words
    record.checked = stack.host.now()
    return record


def wait_for_archiver(stack: Stack) -> dict[str, Any]:
    """Return the state of the archive; wait for the database, which may be being replaced."""
    deadline = time.monotonic() + DATABASE_SECONDS
    while True:
        try:
            answer: dict[str, Any] = json.loads(stack.query(ARCHIVER))
            return answer
        except Failure:
            if time.monotonic() > deadline:
                raise
        stack.host.sleep(1)


def archive_problems(found: dict[str, Any], stack: Stack) -> dict[str, str]:
    """Return what is wrong with the archive of the log."""
    problems = {}
    if found["waiting"] > LAG_SECONDS:
        problems["lag"] = (
            f"Changes of the database have waited for more than {LAG_SECONDS} s to be archived: see "
            "`slipway logs db`."
        )
    if found["failing"]:
        problems["archive"] = (
            "The last attempt to archive changes of the database failed: see `slipway logs db`."
        )
    if found["readonly"]:
        problems["readonly"] = (
            "The database is read-only, because a restore was interrupted: run `slipway restore` again, or "
            "`slipway restore --undo`."
        )
    if found["archived"] and age(stack.host, time_of(found["archived"])) < -CLOCK_SECONDS:
        problems["clock"] = (
            "The host's clock is behind the time of the last archived change: see `timedatectl`."
        )
    return problems


def repository_problems(stack: Stack, repository: pgbackrest.Repository) -> Iterator[tuple[str, str]]:
    """Yield the kind of each problem of the repository and its backups, and a sentence."""
    if repository.problem:
        yield "repository", f"The repository cannot be used: {repository.problem}."
        return
    if not repository.exists:
        yield "repository", "The repository was not created: `slipway backup prepare` does that."
        return
    if repository.is_other:
        yield "full", f"The backups of this version of Postgres have not begun: {drills.UPGRADE_AGAIN}."
        return
    if not repository.backups:
        if not repository.is_busy:
            yield "full", f"There is no backup: {drills.FULL_COMMAND}."
        return
    full = next((one for one in reversed(repository.backups) if one.kind == "full"), repository.backups[0])
    if age(stack.host, full.at) > FULL_DAYS * DAY:
        yield (
            "full",
            f"The last full backup is of {full.at}: see `systemctl status slipway-backup-full.timer`.",
        )
    newest = repository.backups[-1]
    if age(stack.host, newest.at) > ANY_HOURS * 3600:
        yield "any", f"The last backup is of {newest.at}: see `systemctl list-timers 'slipway-backup*'`."
    if age(stack.host, newest.at) < -CLOCK_SECONDS:
        yield (
            "clock",
            f"The host's clock is behind the last backup, which is of {newest.at}: see `timedatectl`.",
        )
    if newest.is_damaged:
        yield "pages", f"The database had damaged pages in the backup {newest.label}: see `slipway logs db`."


def files_problem(stack: Stack, record: Record) -> str:
    """Return what is wrong with the backups of the host's files; empty if nothing is.

    The first backup of the files follows the first one of the database.
    """
    if not restic.is_on(stack.config) or not record.newest:
        return ""
    outcome = restic.read_outcome(stack)
    # Damage may be the reason why a backup fails.
    if outcome.damage:
        return f"The backups of secrets, certificates and the ledger are damaged: {outcome.damage}"
    if outcome.problem:
        return f"Secrets, certificates and the ledger could not be backed up: {outcome.problem}"
    if outcome.verified and age(stack.host, outcome.verified) > VERIFY_DAYS * DAY:
        return (
            "The backups of secrets, certificates and the ledger were last verified at "
            f"{outcome.verified}: see `journalctl -u slipway-backup-verify`."
        )
    if age(stack.host, outcome.at or str(record.newest["at"])) > ANY_HOURS * 3600:
        last = f"were last backed up at {outcome.at}" if outcome.at else "were never backed up"
        return f"Secrets, certificates and the ledger {last}: see `systemctl list-timers 'slipway-backup*'`."
    return ""


def send_heartbeat(stack: Stack) -> None:
    """Request the heartbeat URL, if there is one; print a failure, which is no problem of the backups."""
    url = stack.config.get("backup_heartbeat_url")
    if not url:
        return
    try:
        urllib.request.urlopen(url, timeout=stack.host.settings.webhook_seconds).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"The heartbeat URL could not be requested: {describe(error)}", flush=True)


def look(stack: Stack) -> Record:
    """Examine the backups, record the result, and call the webhook if problems have begun or ended.

    The webhook is told only of what two checks in a row have found, because the database may be restarting.
    """
    with recording(stack):
        record, before = examine(stack), read_record(stack)
        if before.problems.keys() & BROKEN and not record.problems.keys() & BROKEN:
            # pgBackRest may have dropped a part of the log meanwhile.
            look_for_gaps(stack, read_verification(stack))
            record = examine(stack)
        record.told = sorted(record.problems.keys() & {*before.problems, *before.told})
        if record.told != before.told:
            told = [record.problems[kind] for kind in record.told]
            try:
                call_webhook(stack, "backup", {"at": record.checked, "problems": told})
            except Failure as failure:
                record.told = before.told
                print(f"{failure} This does not affect the backups.", flush=True)
        save(stack, record)
    return record


def sentences(stack: Stack) -> list[str]:
    """Return what the status says about the backups."""
    if not is_on(stack):
        return []
    record = read_record(stack)
    told = list(record.problems.values())
    if not record.checked or age(stack.host, record.checked) > CHECK_SECONDS:
        last = f"is of {record.checked}" if record.checked else "is still to come"
        told.append(f"The last check {last}: see `systemctl status slipway-backup-check.timer`.")
    if stack.config.get("backup_repository") == "local":
        told.append("The backups are on this host only, so they are lost together with it.")
    if newest := record.newest:
        told.append(f"newest {newest.get('label')} of {newest.get('at')}, restorable since {record.oldest}")
    if record.archived:
        told.append(f"archived until {record.archived}")
    if restic.is_on(stack.config) and (at := restic.read_outcome(stack).at):
        told.append(f"secrets, certificates and the ledger backed up at {at}")
    return told


def metrics(stack: Stack) -> Iterator[str]:
    """Yield the metrics of the backups, in the text format of Prometheus."""
    if not is_on(stack):
        return
    record = read_record(stack)
    values = {
        "slipway_backup_problems": ("Problems of the backups.", len(record.problems)),
        "slipway_backup_checked_timestamp_seconds": ("When the backups were last checked.", record.checked),
        "slipway_backup_newest_timestamp_seconds": ("When the newest backup ended.", record.newest.get("at")),
        "slipway_backup_archived_timestamp_seconds": ("When changes were last archived.", record.archived),
        "slipway_backup_files_timestamp_seconds": (
            "When the secrets, the certificates and the ledger were last backed up.",
            restic.read_outcome(stack).at if restic.is_on(stack.config) else "",
        ),
        **drills.metrics(stack),
    }
    for name, (words, value) in values.items():
        if value not in ("", None):
            yield f"# HELP {name} {words}"
            yield f"# TYPE {name} gauge"
            yield f"{name} {seconds_of(value) if isinstance(value, str) else value}"


def start_full(stack: Stack) -> None:
    """Begin a full backup, instead of one that is under way."""
    # Several restores in a row would otherwise reach the unit's limit of starts.
    stack.host.output("systemctl", "reset-failed", FULL_UNIT)
    stack.host.run("systemctl", "restart", "--no-block", FULL_UNIT)


def is_full_under_way(stack: Stack) -> bool:
    """Tell whether a full backup is being made."""
    return stack.host.output("systemctl", "is-active", FULL_UNIT).strip() == "activating"


def command_prepare(stack: Stack, options: Namespace) -> int:
    before = pgbackrest.inspect(stack)
    if before.problem:
        raise Failure(f"The repository cannot be used: {before.problem}.")
    if before.is_other and generations.formers_of_other_versions(stack):
        raise Failure(
            "The repository has no backups of this version of Postgres, because an upgrade or its undoing "
            f"did not end: {drills.UPGRADE_AGAIN}."
        )
    # The last line of this file is the repository in which backups have begun (roles/backup/tasks/begin.yml).
    begun = stack.directory / "backup/begun"
    former = begun.read_text(errors="replace").splitlines()[-1:] if begun.exists() else None
    is_other = former not in (None, [stack.config["backup_repository"]])
    if is_other:
        # If this run fails, the next one prepares the repository again.
        write(begun, "")
    # This also checks that an existing repository belongs to this database.
    pgbackrest.create(stack)
    if not before.exists:
        pgbackrest.check(stack)
    # After a change to another repository, always begin a full backup: if it was in use before, it lacks what
    # was archived elsewhere meanwhile. A backup that is under way may go to the former repository.
    begins = is_other or not (before.backups or is_full_under_way(stack))
    if begins:
        start_full(stack)
    print(json.dumps({"changed": begins or not before.exists}))
    return 0


def command_run(stack: Stack, options: Namespace) -> int:
    wait_for_archiver(stack)
    pgbackrest.backup(stack, options.kind)
    # A full backup after a gap ends that problem, and moments are restorable from this backup on.
    with recording(stack):
        if options.kind == "full" or read_verification(stack).gap:
            look_for_gaps(stack, read_verification(stack))
    restic.begin(stack)
    if newest := look(stack).newest:
        print(f"{newest['label']}: {newest['megabytes']} MB, ended {newest['at']}")
    return 0


def command_check(stack: Stack, options: Namespace) -> int:
    after = look(stack)
    for sentence in after.problems.values():
        print(sentence)
    if not after.problems:
        send_heartbeat(stack)
    return bool(after.problems)


def command_verify(stack: Stack, options: Namespace) -> int:
    found = verify(stack)
    if restic.is_on(stack.config) and restic.read_outcome(stack).at:
        restic.verify(stack)
    if not (found.damage or found.gap):
        print("Every file of the repository is as it was written, and the archive has no gap.")
    return command_check(stack, options)


def command_files(stack: Stack, options: Namespace) -> int:
    if not restic.is_on(stack.config):
        raise Failure("The repository is on this host, which has these files.")
    restic.backup(stack)
    return 0


def command_restore_files(host: Host, options: Namespace) -> int:
    config = load(host.settings.configuration)
    with lock(host, "a restore of files", other="Another operation"):
        changed = restic.is_on(config) and (
            restic.restore_media(host, config)
            if options.media
            else restic.restore(host, config, options.given)
        )
    print(json.dumps({"changed": changed}))
    return 0


def command_list(stack: Stack, options: Namespace) -> int:
    repository = pgbackrest.inspect(stack)
    if repository.problem:
        raise Failure(f"The repository cannot be used: {repository.problem}.")
    if options.json:
        print(json.dumps([asdict(one) for one in repository.backups]))
        return 0
    for one in repository.backups:
        print(f"{one.label:<34} {one.kind:<5} {one.at}  {one.megabytes:>9.1f} MB")
    if not repository.backups:
        print("There is no backup yet.")
    return 0
