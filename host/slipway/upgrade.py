"""Move the database to another major version of Postgres.

The former version still serves while the move is rehearsed on a database that was restored from the backups.
Then the blog's logins end, the database is copied by pg_dump into a directory beside its own, and both are
compared, row by row. Only then does the new version serve. The former directory stays.

At any moment, the directory that compose.yml uses has a whole database. So after a kill, one of the two can
be started, and the next run of this program does that first (`begin`).
"""

import contextlib
import json
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from slipway import backups, containers, drills, generations, pgbackrest
from slipway.containers import environment
from slipway.database import reconcile_roles, scram_verifier, start_database
from slipway.database_copy import Copy
from slipway.files import rewrite_managed, sync
from slipway.generations import MARKER, MOUNT
from slipway.host import wait_until
from slipway.lock import lock
from slipway.recovered import close_segment, require_space
from slipway.restore import begin_backup
from slipway.shell import Failure, describe, say
from slipway.stack import Stack
from slipway.throwaway import REHEARSAL, throwaway
from slipway.unit import exec_in_unit

# The service in compose.yml that runs the copy beside the database in service, and its directory.
COPY, COPIED = "db_upgrade", "upgraded"
BACKUP_UNITS = "slipway-backup@*.service"
SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE usename IN ('blog_app_blue', 'blog_app_green', 'blog_migrator')
"""
SESSIONS_SECONDS = 10
OTHER_DATABASES = """
    SELECT string_agg(datname, ', ') FROM pg_database
    WHERE NOT datistemplate AND datname NOT IN ('blog', 'postgres')
"""


@dataclass(frozen=True)
class Version:
    """A version of Postgres, as an image has it.

    Attributes:
        major: such as 17.
        directory: the directory of its database on this host.
    """

    major: str
    directory: Path


class Upgrade:
    """A move of the database to the version of Postgres in another compose.yml.

    Attributes:
        text: the other compose.yml.
        old, new: the version in service, and the other one.
        copied: the directory of the copy, until it serves.
    """

    def __init__(self, stack: Stack, text: str) -> None:
        self.stack, self.text, self.file = stack, text, stack.directory / "compose.yml"
        directory = generations.in_service(stack)
        settings = environment(generations.container(stack))
        self.old = Version(settings["PG_MAJOR"], directory)
        project: dict[str, Any] = json.loads(
            stack.compose("--file", "-", "config", "--format=json", stdin=text)
        )
        image = project["services"]["db"]["image"]
        [found] = json.loads(stack.host.run("docker", "image", "inspect", image))
        settings = environment(found)
        # PGDATA is a directory of its major version in the volume, such as 17/a.
        volume = directory.parents[1]
        self.new = Version(settings["PG_MAJOR"], volume / Path(settings["PGDATA"]).relative_to(MOUNT))
        if self.new.directory.parent.is_symlink():
            raise Failure(
                f"{self.new.directory.parent} is a link, which a compromised database may have made."
            )
        self.copied = self.new.directory.with_name(COPIED)

    def is_needed(self) -> bool:
        """Tell whether the version in service is another one."""
        return self.old.major != self.new.major

    def check(self) -> None:
        """Raise Failure unless the database can be moved."""
        stack, old, new = self.stack, self.old.major, self.new.major
        if int(new) < int(old):
            raise Failure(
                f"The database is of PostgreSQL {old}, and the image has {new}: Postgres cannot read a "
                "database of a later version. `-e upgrade_undo=true` puts the database from before an "
                "upgrade back."
            )
        if not backups.is_on(stack):
            raise Failure(
                "This host has no backups, so an upgrade cannot be rehearsed: remove the variable "
                "stack_backups, run site.yml with the former image, and wait for the first drill "
                "(playbooks/drill.yml)."
            )
        done = drills.read_drills(stack)
        red = drills.problem(stack, backups.read_record(stack).oldest)
        if red or not done:
            raise Failure(
                f"{red or 'There was no restore drill yet.'} Upgrade only after a good drill: "
                "playbooks/drill.yml. Nothing was changed."
            )
        if not generations.is_writable(stack):
            raise Failure("The database does not accept changes: see `slipway status`. Nothing was changed.")
        if names := stack.query(OTHER_DATABASES):
            raise Failure(
                f"Only the database `blog` would be copied, but there are others: {names}. "
                "Nothing was changed."
            )

    # --- The steps ------------------------------------------------------------------------------------------

    def rehearse(self) -> None:
        """Copy a database that is restored from the newest backup, and say how many seconds the copy took."""
        stack = self.stack
        repository = pgbackrest.inspect(stack)
        if not repository.backups:
            raise Failure(repository.problem or f"There is no backup: {drills.FULL_COMMAND}.")
        require_space(stack, repository, 2)
        with throwaway(stack) as database:
            database.recover(close_segment(stack), None, say)
            database.promote()
            # The file may be newer than what was archived.
            password = scram_verifier(stack.secret("db_superuser_password"))
            database.query(f"ALTER ROLE postgres PASSWORD '{password}'")
            copy = Copy(stack, self.text, REHEARSAL, "127.0.0.1")
            say(f"rehearsing the copy from PostgreSQL {self.old.major} to {self.new.major}")
            began = time.monotonic()
            copy.start()
            count = copy.fill(database.query)
            seconds = time.monotonic() - began
            copy.check_backups()
            say(f"rehearsed: {count} rows are the same, {seconds:.0f} s")

    def run(self) -> float:
        """Copy the database, and put the copy into service; return for how many seconds readers waited.

        Raises:
            Failure: the former database serves, unless the message says something else.
        """
        copy = Copy(self.stack, self.text, COPY, "db")
        try:
            copy.start()
            generations.mark(self.copied)
            with self.service(is_undo=False) as began:
                say("copying the database")
                count = copy.fill(self.stack.query)
                say(f"{count} rows are the same")
                copy.stop()
                self.switch(self.copied, answered=True)
            return time.monotonic() - began
        finally:
            with contextlib.suppress(Failure, OSError):
                remove_copies(self.stack, self.old.directory)

    def undo(self) -> float:
        """Put the newest database of the other version back; return for how many seconds readers waited."""
        place = self.new.directory
        # A run that was killed may have left it under the name of a database in service.
        keep_formers(self.stack, self.old.directory)
        kept = generations.formers(place) if place.parent.exists() else []
        if not kept:
            raise Failure(
                f"There is no former database of PostgreSQL {self.new.major} on this host. "
                "Nothing was changed."
            )
        with self.service(is_undo=True) as began:
            self.switch(kept[-1], answered=generations.is_writable(self.stack))
        return time.monotonic() - began

    @contextlib.contextmanager
    def service(self, is_undo: bool) -> Iterator[float]:
        """Show the maintenance page and end all changes of the database during the block; yield the time.

        If the block fails, the blog can log in again to the database that serves then.

        is_undo: whether to go on if the database does not answer.
        """
        began = time.monotonic()
        with generations.maintenance(self.stack, generations.UPGRADE):
            say("readers get the maintenance page")
            try:
                if not is_undo or generations.is_writable(self.stack):
                    self.end_changes()
                yield began
            except BaseException:
                with contextlib.suppress(Failure):
                    reconcile_roles(self.stack)
                raise

    def end_changes(self) -> None:
        """End the blog's logins, and archive everything until then."""
        stack = self.stack
        # A backup needs the database that is about to stop.
        stack.host.output("systemctl", "stop", BACKUP_UNITS)
        reconcile_roles(stack, ())
        if not wait_until(lambda: stack.query(SESSIONS) == "0", SESSIONS_SECONDS):
            raise Failure(f"The blog's sessions did not end within {SESSIONS_SECONDS} s.")
        try:
            close_segment(stack)
        except Failure as failure:
            say(f"not everything is archived: {failure}")

    def switch(self, directory: Path, answered: bool) -> None:
        """Put the database in a directory into service, with the other image; keep the former one.

        Args:
            directory: the directory.
            answered: whether the former one answered; if it did not, it is not put back after a failure.
        """
        stack, before = self.stack, self.file.read_text()
        say(f"starting PostgreSQL {self.new.major}")
        try:
            stack.compose("rm", "--stop", "--force", "db")
            directory.rename(self.new.directory)
            sync(self.new.directory.parent)
            self.write(self.text)
            (self.new.directory / MARKER).unlink(missing_ok=True)
            start_database(stack)
            generations.make_ready(stack)
        except Exception as failure:
            if answered:
                self.put_back(directory, before, failure)
            with contextlib.suppress(Failure, OSError):
                keep_formers(stack, generations.in_service(stack))
            raise Failure(
                f"PostgreSQL {self.new.major} was to serve, but there is a problem: {describe(failure)}\n"
                "The former version did not answer before, so it was not put back."
            ) from None

    def put_back(self, directory: Path, text: str, failure: Exception) -> NoReturn:
        """Put the former version back into service, with its compose.yml; then raise Failure."""
        stack = self.stack
        say(f"it does not serve: {describe(failure)}")
        try:
            stack.compose("rm", "--stop", "--force", "db")
            self.write(text)
            if not directory.exists():
                self.new.directory.rename(directory)
            start_database(stack)
            generations.make_ready(stack)
        except Exception as second:
            raise Failure(
                f"PostgreSQL {self.new.major} failed: {describe(failure)}\n"
                f"The former database could not be put back: {describe(second)}\n"
                f"It is in {self.old.directory}. Run upgrade_database.yml again."
            ) from None
        raise Failure(
            f"PostgreSQL {self.old.major} serves again, because {self.new.major} failed: {describe(failure)}"
        ) from None

    def write(self, text: str) -> None:
        """Write compose.yml."""
        if self.file.read_text() != text:
            rewrite_managed(self.file, text, self.stack.state / "files.json")


def remove_copies(stack: Stack, directory: Path) -> None:
    """Remove copies that never served, and their containers.

    directory: that of the database in service.
    """
    for service in (COPY, REHEARSAL):
        if found := containers.of_service(stack.host, service):
            stack.host.run("docker", "rm", "--force", *found)
    for version in generations.versions(directory):
        copies = [version.with_name(COPIED), version.with_name(f"{COPIED}.init")]
        if version != directory and (version / MARKER).exists():
            copies.append(version)
        for path in copies:
            if path.exists():
                shutil.rmtree(path)


def keep_formers(stack: Stack, directory: Path) -> None:
    """Rename the directories of other versions, which served until an upgrade or its undoing."""
    for other in generations.versions(directory):
        if other != directory and other.exists():
            other.rename(generations.new_former(stack, other))
            sync(other.parent)


def begin(stack: Stack) -> None:
    """Go on from where an earlier run was killed: start the database that compose.yml names, and tidy up."""
    if containers.of_service(stack.host, "db"):
        remove_copies(stack, generations.in_service(stack))  # the disk may be full
    start_database(stack)
    directory = generations.in_service(stack)
    (directory / MARKER).unlink(missing_ok=True)
    remove_copies(stack, directory)
    keep_formers(stack, directory)
    if generations.is_writable(stack):
        generations.make_ready(stack)
    if generations.interrupted(stack) == generations.UPGRADE:
        generations.end_maintenance(stack)


def must_begin_backups(stack: Stack) -> bool:
    """Tell whether an upgrade or its undoing ended before the backups of the version that serves began."""
    if not backups.is_on(stack) or not generations.formers_of_other_versions(stack):
        return False
    repository = pgbackrest.inspect(stack)
    return repository.is_other or not (repository.backups or backups.is_full_under_way(stack))


def begin_backups(stack: Stack) -> str:
    """Let the repository have the backups of the version that serves; return a sentence.

    Raises:
        Failure: the repository cannot be used now.
    """
    if not backups.is_on(stack):
        return ""
    try:
        if not pgbackrest.inspect(stack).exists:
            return "site.yml begins the backups."
        stack.host.output("systemctl", "stop", BACKUP_UNITS)
        pgbackrest.upgrade(stack)
    except Failure as failure:
        raise Failure(
            f"The database serves, but its backups could not begin: {failure}\n"
            "Run upgrade_database.yml again."
        ) from None
    return begin_backup(stack)


def command_upgrade(stack: Stack, options: Namespace) -> int:
    if not options.in_unit:
        exec_in_unit("slipway-upgrade", options.arguments)
    text = sys.stdin.read()
    with lock(stack.host, f"an upgrade of the database by {options.by}", other="Another operation"):
        try:
            begin(stack)
        except Failure as failure:
            if not options.undo:
                raise Failure(
                    f"{failure}\nIf the database does not start after an upgrade, `-e upgrade_undo=true` and "
                    "the former images put the former one back."
                ) from None
            say(f"the present database does not serve: {failure}")
        upgrade, seconds, told = Upgrade(stack, text), None, ""
        if not upgrade.is_needed():
            if must_begin_backups(stack):
                told = begin_backups(stack)
            elif options.undo:
                raise Failure(
                    f"PostgreSQL {upgrade.old.major} serves, and the images have the same version. "
                    "Nothing was changed. To undo an upgrade, choose the former images first."
                )
        elif options.undo:
            seconds = upgrade.undo()
        else:
            upgrade.check()
            upgrade.rehearse()
            if not options.rehearse:
                seconds = upgrade.run()
        if seconds is not None:
            keep_formers(stack, upgrade.new.directory)
            told = begin_backups(stack)
    if seconds is not None:
        told = f"Readers got the maintenance page for {seconds:.0f} s. {told}"
    if told:
        say(f"PostgreSQL {upgrade.new.major} serves. {told}")
    print(json.dumps({"changed": seconds is not None or bool(told)}))
    return 0
