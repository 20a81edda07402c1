"""The directories of databases in one volume: in service, being restored, and former ones.

Databases change places only by renames of their directories. Unless an operator asks for more, only the
directory `restored`, and those with the file MARKER, are ever removed. So even if this program is killed, a
database that was in service is still there: in service, or as a former one.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from slipway import containers
from slipway.containers import Inspected, environment, wait_for_engine
from slipway.database import reconcile_roles, start_database
from slipway.files import exchange, sync, write
from slipway.host import wait_until
from slipway.pgbackrest import RESTORE_COMMAND, RESTORE_SERVICE
from slipway.recovered import Recovered
from slipway.release import image_in_service
from slipway.shell import Failure, describe, say
from slipway.stack import Stack

MOUNT = Path("/var/lib/postgresql/data")
# Names beside the directory of the database in service.
RESTORED = "restored"
FORMER = re.compile(r"former-\d{8}T\d{6}Z")
# This file marks the directory of a recovered database, or of a copy, that was not in service yet.
MARKER = "slipway-restored"
# What switches the maintenance page on: the content of the flag `Stack.restore_flag`.
RESTORE, UPGRADE = "restore", "upgrade"
READY_SECONDS = 60
# Let a database begin another timeline when it is started and promoted: the highest one is then always the
# one in service. pgBackRest removes the archive of lower ones together with their backups.
NEW_TIMELINE = f"""
    cat >> "$1/postgresql.auto.conf" <<'settings'
recovery_target = ''
recovery_target_lsn = ''
recovery_target_time = ''
recovery_target_timeline = 'current'
restore_command = '{RESTORE_COMMAND}'
settings
    touch "$1/standby.signal"
"""


def container(stack: Stack) -> Inspected:
    """Return the container of the database; raise Failure if there is none."""
    found = containers.inspect(stack.host, *containers.of_service(stack.host, "db")[:1])
    if not found:
        raise Failure("The database has no container: run site.yml first, which creates it.")
    return found[0]


def in_container(found: Inspected) -> Path:
    """Return the path that the directory in service has inside the container of the database."""
    return Path(environment(found)["PGDATA"])


def in_service(stack: Stack) -> Path:
    """Return the path of the directory in service on this host.

    Raises:
        Failure: there is no container, or a link leads out of the volume: the database can write to it.
    """
    found = container(stack)
    sources = [mount["Source"] for mount in found["Mounts"] if mount["Destination"] == str(MOUNT)]
    if not sources:
        raise Failure(f"The container of the database has no volume at {MOUNT}: run site.yml first.")
    directory = Path(sources[0]) / in_container(found).relative_to(MOUNT)
    for path in (directory.parent, directory):
        if path.is_symlink():
            raise Failure(f"{path} is a link, which a compromised database may have made: remove it first.")
    return directory


def formers(directory: Path) -> list[Path]:
    """Return the directories of former databases, oldest first."""
    return sorted(
        path
        for path in directory.parent.iterdir()
        if FORMER.fullmatch(path.name) and not path.is_symlink() and not (path / MARKER).exists()
    )


def new_former(stack: Stack, directory: Path) -> Path:
    """Return a new name for the directory of a database that leaves service."""
    taken = [path.name.removeprefix("former-") for path in formers(directory)]
    return directory.with_name(f"former-{stack.host.new_id(taken)}")


def versions(directory: Path) -> list[Path]:
    """Return the directory of the database in service, and those of other major versions.

    They may not exist: an upgrade, or its undoing, renames the directory of the version that it replaces.
    """
    parents = [
        path for path in directory.parents[1].iterdir() if path.name.isdigit() and not path.is_symlink()
    ]
    return sorted(path / directory.name for path in parents)


def formers_of_other_versions(stack: Stack) -> list[Path]:
    """Return the directories of former databases of other major versions."""
    directory = in_service(stack)
    others = [version for version in versions(directory) if version != directory]
    return [former for version in others for former in formers(version)]


def mark(directory: Path) -> None:
    """Mark the directory of a database as one that was not in service yet.

    Follow no link: a compromised database can write to the volume.
    """
    place = os.open(directory, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.close(os.open(MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=place))
    finally:
        os.close(place)


def remains(directory: Path) -> list[Path]:
    """Return the directories of databases never in service, which a killed restore left."""
    return [
        path
        for path in directory.parent.iterdir()
        if path.name == RESTORED
        or (FORMER.fullmatch(path.name) and not path.is_symlink() and (path / MARKER).exists())
    ]


def remove_remains(stack: Stack, directory: Path) -> None:
    """Remove what a restore that failed or was killed left: containers, and databases never in service."""
    if found := containers.of_service(stack.host, RESTORE_SERVICE):
        stack.host.run("docker", "rm", "--force", *found)
    for path in remains(directory):
        shutil.rmtree(path)


def end_interrupted(stack: Stack, directory: Path) -> bool:
    """Tell whether a restore was killed before it replaced the database; if so, start the database again.

    The directories that the restore left show this, so the caller removes them only after this.
    """
    if not remains(directory) or (directory / MARKER).exists():
        return False
    # A database with damaged files, which the restore was to replace, does not start.
    with contextlib.suppress(Failure):
        is_stopping = interrupted(stack) == RESTORE
        if is_stopping:
            stop(stack)  # the engine may still be stopping it
        start_database(stack)
        if is_stopping and is_writable(stack):
            make_ready(stack)
            end_maintenance(stack)
    return True


def replace(stack: Stack, directory: Path, other: Path, finish: Callable[[], None]) -> None:
    """Put the database of another directory into service, and keep the former one.

    Args:
        stack: the stack.
        directory: the directory of the database in service.
        other: the directory of the other database.
        finish: called when the other database has started, before the blog uses it.

    Raises:
        Failure: the former database serves again, unless the message says something else.
    """
    kept = new_former(stack, directory)
    answered = is_writable(stack)
    with maintenance(stack, RESTORE):
        say("stopping the database")
        other.rename(kept)
        try:
            stop(stack)
            exchange(directory, kept)
        except Exception:
            kept.rename(other)
            start_database(stack)
            raise
        try:
            sync(directory.parent)
            (directory / MARKER).unlink(missing_ok=True)
            start_database(stack)
            finish()
            make_ready(stack)
        except Exception as failure:
            if answered:
                bring_back(stack, directory, kept, other, failure)
            raise Failure(
                f"The other database is in service, but there is a problem: {describe(failure)}\nThe former "
                "one did not answer before, so it was not put back. `slipway restore --undo` does that."
            ) from None


def bring_back(stack: Stack, directory: Path, kept: Path, other: Path, failure: Exception) -> NoReturn:
    """Put the former database, in the directory `kept`, back into service; then raise Failure."""
    say(f"the other database does not serve: {describe(failure)}")
    try:
        stop(stack)
        begin_timeline(stack, kept)
        exchange(directory, kept)
        kept.rename(other)
        sync(directory.parent)
        start_database(stack)
        Recovered(stack, "db").promote()
        make_ready(stack)
    except Exception as second:
        raise Failure(
            f"The other database failed: {describe(failure)}\nThe former one could not be put back: "
            f"{describe(second)}\nIf `slipway status` lists it, `slipway restore --undo` puts it back."
        ) from None
    raise Failure(
        f"The former database serves again, because the other one failed: {describe(failure)}"
    ) from None


def stop(stack: Stack) -> None:
    """Stop the database; the engine may be restarting."""
    wait_for_engine(stack.host)
    stack.compose("stop", "db")


def begin_timeline(stack: Stack, directory: Path) -> None:
    """Let the stopped database in a directory begin another timeline when it is promoted."""
    path = str(in_container(container(stack)).with_name(directory.name))
    stack.compose(
        "run", "--rm", "--no-deps", "-T", RESTORE_SERVICE, "bash", "-euc", NEW_TIMELINE, "timeline", path
    )


def is_writable(stack: Stack) -> bool:
    """Tell whether the database runs and accepts changes."""
    with contextlib.suppress(Failure):
        return stack.query("SELECT pg_is_in_recovery()") == "f"
    return False


def make_ready(stack: Stack) -> None:
    """Set the roles of the restored database, migrate its schema if it is older, and wait for the blog."""
    reconcile_roles(stack)
    slot = stack.active()
    if not slot:
        return
    image = image_in_service(stack)
    schema = stack.flask(image, "migrate", "--check", service="flask_migrate")
    if schema["pending"]:
        say(f"migrating the schema: {', '.join(schema['pending'])}")
        stack.flask(image, "migrate", service="flask_migrate")
        reconcile_roles(stack)
    address, host = f"{stack.config['slots'][slot]}:8000", stack.config["host"]
    if not wait_until(lambda: stack.host.get(address, "/readyz", host)[0] == 200, READY_SECONDS):
        raise Failure("The blog is not ready on this database: see `slipway logs flask_blog`.")


@contextlib.contextmanager
def maintenance(stack: Stack, what: str) -> Iterator[None]:
    """Show the maintenance page during the block, unless an operator had switched it on already.

    If the block fails and leaves no database that accepts changes, the page stays.

    what: RESTORE or UPGRADE.
    """
    if not stack.maintenance_flag.exists():
        write(stack.restore_flag, what)
    stack.maintenance_flag.touch()
    try:
        yield
    except BaseException:
        if is_writable(stack):
            end_maintenance(stack)
        raise
    end_maintenance(stack)


def end_maintenance(stack: Stack) -> None:
    """Remove the maintenance page if a restore or an upgrade switched it on."""
    if stack.restore_flag.exists():
        stack.maintenance_flag.unlink(missing_ok=True)
        stack.restore_flag.unlink()


def interrupted(stack: Stack) -> str:
    """Return what switched the maintenance page on, and did not end: RESTORE, UPGRADE, or an empty string."""
    if not stack.restore_flag.exists():
        return ""
    return stack.restore_flag.read_text() or RESTORE  # a former version wrote an empty file
