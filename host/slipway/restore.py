"""Restore the database from the backups: on this host, in place of the database that runs.

The recovered database is built in the volume of the database that runs, in another directory. After that, the
database stops, and the two directories change places in one step. The former directory stays until somebody
removes it.
"""

import contextlib
import datetime
import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path

from slipway import backups, containers, generations, pgbackrest
from slipway.host import moment, seconds_of
from slipway.lock import is_held, lock
from slipway.notify import call_webhook
from slipway.pgbackrest import RESTORE_SERVICE, Target
from slipway.recovered import Recovered, close_segment, require_space, rows
from slipway.release import image_in_service
from slipway.shell import Failure, say
from slipway.stack import Stack
from slipway.throwaway import BLOG, admit_blog, throwaway
from slipway.transfer import export_place
from slipway.unit import exec_in_unit


def parse(text: str) -> str:
    """Return a time as Postgres reads it; a time without a zone is in UTC.

    Raises:
        Failure: it is no time, or a day alone: the rest may have been lost at a space on a command line.
    """
    try:
        when = moment(text)
        if ":" not in text:
            raise ValueError
    except ValueError:
        raise Failure(
            f'"{text}" is not a time. Write a day and a time of day, like "2026-11-22 10:00:00+00".'
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).isoformat(sep=" ")


def plan(stack: Stack, until: str, copies: int = 1) -> list[str]:
    """Return sentences about what a restore would do; raise Failure if it is not possible.

    copies: how many times the space of the database is needed.
    """
    repository = pgbackrest.inspect(stack)
    major = containers.environment(generations.container(stack))["PG_MAJOR"]
    there = [repository.major] if repository.backups else repository.others
    if there and major not in there:
        raise Failure(
            f"The backups are of PostgreSQL {there[-1]}, whose files PostgreSQL {major} cannot read. "
            f"Nothing was changed. Choose the base with PostgreSQL {there[-1]} again (images_base, or "
            "the entry postgres in bases.lock.yml) and an empty stack_db_volume, run site.yml, and restore "
            "there. Then choose the present base again, and run upgrade_database.yml."
        )
    if not repository.backups:
        raise Failure(repository.problem or "The repository has no backup.")
    oldest = next(one for one in repository.backups if one.kind == "full").at
    # The present time, and that of a backup, are cut to the second.
    if until and not seconds_of(oldest) + 1 <= seconds_of(until) < seconds_of(stack.host.now()) + 1:
        raise Failure(
            f"{until} cannot be restored: choose a time from {oldest} until now ({stack.host.now()})."
        )
    require_space(stack, repository, copies)
    return [
        f"The database becomes what it was at {until or 'the end of the archive'}.",
        *(["Everything that was written since then is taken out of service."] if until else []),
        "Readers get a maintenance page for some seconds.",
        "The present database is kept: `slipway restore --undo` brings it back.",
    ]


def restore(stack: Stack, until: str) -> str:
    """Put a recovered database into service; return a sentence.

    Raises:
        Failure: the former database still serves, or serves again, unless the message says something else.
    """
    directory, target = generations.in_service(stack), Target("time", until) if until else None
    generations.end_interrupted(stack, directory)
    generations.remove_remains(stack, directory)
    plan(stack, until)
    last = last_segment(stack)
    database, live = Recovered(stack, RESTORE_SERVICE), Recovered(stack, "db")

    def finish() -> None:
        live.wait(target, last, say)
        live.promote()

    try:
        database.recover(last, target, say)
        count = sum(rows(database.query).values())
        say(f"recovered {count} rows, until {database.at or 'the end of the backup'}")
        database.stop()
        generations.mark(directory.with_name(generations.RESTORED))
        generations.replace(stack, directory, directory.with_name(generations.RESTORED), finish)
    finally:
        with contextlib.suppress(Failure, OSError):
            generations.remove_remains(stack, directory)
    return f"The database is restored as of {until or 'the end of the archive'}."


def last_segment(stack: Stack) -> str:
    """Archive what the database has changed, if that is possible; return the last archived segment."""
    if generations.is_writable(stack) and archives(stack):
        try:
            return close_segment(stack)
        except Failure as failure:
            say(f"restoring only what is archived: {failure}")
    return pgbackrest.last_archived(stack)


def archives(stack: Stack) -> bool:
    """Tell whether the repository belongs to the database that runs, not to one on a lost host."""
    system = stack.query("SELECT system_identifier FROM pg_control_system()")
    return system == str(pgbackrest.inspect(stack).system)


def extract(stack: Stack, until: str, directory: Path) -> str:
    """Write a dump and an export of a recovered database to a directory; return a sentence."""
    plan(stack, until, copies=3)
    images, target = {"tool": image_in_service(stack)}, Target("time", until) if until else None
    with throwaway(stack) as database, export_place(stack, directory) as place:
        database.recover(last_segment(stack), target, say)
        database.promote()
        dump, owner = directory / "blog.dump", directory.stat()
        dump.unlink(missing_ok=True)
        with os.fdopen(os.open(dump, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            command = ("pg_dump", "--username=postgres", "--format=custom", "blog")
            stack.compose("exec", "-T", database.service, *command, into=file)
        try:
            admit_blog(stack, database)
            run = ("run", "--rm", "--no-deps", "-T")
            # The schema may be older than the release in service.
            migrator = "DATABASE_URL=postgresql://blog_migrator@127.0.0.1:5432/blog"
            stack.compose(*run, f"--env={migrator}", BLOG, "flask", "migrate", images=images)
            stack.compose(
                *run, f"--volume={place}:/export", BLOG, "flask", "export", "/export", images=images
            )
        except BaseException:
            dump.unlink()  # the next attempt refuses a directory with other files
            raise
    return f"{directory} has posts and pages for `slipway import`, and blog.dump for pg_restore."


def undo(stack: Stack, name: str) -> str:
    """Put a former database back into service, and keep the present one in its place; return a sentence.

    Args:
        stack: the stack.
        name: the name of its directory. If it is empty, end an interrupted restore that had not replaced the
            database; otherwise take the newest.
    """
    directory = generations.in_service(stack)
    is_from_before = generations.end_interrupted(stack, directory)
    kept = {path.name: path for path in generations.formers(directory)}
    if is_from_before and not name:
        if generations.is_writable(stack):
            generations.remove_remains(stack, directory)
            return "The interrupted restore had not replaced the database, which serves again."
        raise Failure(
            "The interrupted restore had not replaced the database, which accepts no changes: run `slipway "
            f"restore` again, or `--undo` with a name. Former databases: {', '.join(kept) or 'none'}."
        )
    generations.remove_remains(stack, directory)
    if not kept or (name and name not in kept):
        asked = f"no former database {name}" if name else "no former database"
        raise Failure(f"There is {asked} on this host. Former databases: {', '.join(kept) or 'none'}.")
    chosen = kept[name or max(kept)]
    generations.begin_timeline(stack, chosen)
    generations.replace(stack, directory, chosen, Recovered(stack, "db").promote)
    return f"The database of {chosen.name} serves again."


def forget(stack: Stack) -> str:
    """Remove the former databases; return a sentence."""
    directory = generations.in_service(stack)
    generations.remove_remains(stack, directory)
    kept = [former for version in generations.versions(directory) for former in generations.formers(version)]
    for one in kept:
        shutil.rmtree(one)
    return f"Former databases removed: {len(kept)}."


def sentences(stack: Stack) -> list[str]:
    """Return what the status says about former databases and an interrupted restore."""
    told = []
    what = "" if is_held(stack.host) else generations.interrupted(stack)
    if what == generations.RESTORE:
        told.append(
            "A restore was interrupted, and readers get the maintenance page: run `slipway restore` again, "
            "or `slipway restore --undo`."
        )
    elif what:
        told.append(
            "An upgrade of the database was interrupted, and readers get the maintenance page: run "
            "upgrade_database.yml again."
        )
    if not backups.is_on(stack):
        return told
    with contextlib.suppress(Failure, OSError):
        directory = generations.in_service(stack)
        told += [
            f"{one.name} is a database from before a restore: `slipway restore --undo {one.name}` brings it "
            "back, `slipway restore --forget` removes all of them."
            for one in generations.formers(directory)
        ]
        told += [
            f"{one.parent.name}/{one.name} is the database from before an upgrade: upgrade_database.yml "
            "brings it back with `-e upgrade_undo=true`, `slipway restore --forget` removes it."
            for one in generations.formers_of_other_versions(stack)
        ]
    return told


def ask(stack: Stack, until: str) -> None:
    """Print what would happen; raise Failure unless the operator types the host's name."""
    print("\n".join(plan(stack, until)), flush=True)
    name = stack.config["host"]
    if not sys.stdin.isatty():
        raise Failure("Nothing was changed. To go on without a question, add --yes.")
    try:
        typed = input(f"Type {name} to go on: ").strip()
    except EOFError:
        typed = ""
    if typed != name:
        raise Failure("Nothing was changed.")


def command_restore(stack: Stack, options: Namespace) -> int:
    until = parse(options.to) if options.to else ""
    if until and (options.forget or options.undo is not None):
        raise Failure("--to is for a restore, not for --undo or --forget. Nothing was changed.")
    if options.into or options.forget:
        with lock(stack.host, f"a restore by {options.by}", other="Another operation"):
            print(extract(stack, until, options.into.resolve()) if options.into else forget(stack))
        return 0
    if not options.in_unit:
        if options.undo is None and not options.yes:
            ask(stack, until)
        exec_in_unit("slipway-restore", [*options.arguments, "--yes", f"--by={options.by}"])
    with lock(stack.host, f"a restore by {options.by}", other="Another operation"):
        message = restore(stack, until) if options.undo is None else undo(stack, options.undo)
    say(f"{message} {begin_backup(stack)}")
    with contextlib.suppress(Failure):
        told = {"at": stack.host.now(), "by": options.by, "to": until, "message": message}
        call_webhook(stack, "restore", told)
    return 0


def begin_backup(stack: Stack) -> str:
    """Begin a full backup, because earlier ones are on another timeline; return a sentence."""
    try:
        backups.start_full(stack)
    except Failure as failure:
        return f"Make a full backup now, `slipway backup run full`, because none could be started: {failure}"
    return "A full backup begins."
