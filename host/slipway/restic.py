"""Backups of the files that make a host: its secrets, its certificates and its ledger. The engine is restic.

No other module knows restic. The backups of the database are those of pgbackrest.py, in the same place. They
have another passphrase: the container of the database has theirs, and must not read or forge these files.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from slipway.files import sync, write
from slipway.host import Host, check_moments
from slipway.json_types import from_json
from slipway.lock import alone
from slipway.settings import Configuration
from slipway.shell import CommandFailure, Failure, describe
from slipway.stack import Stack

UNIT = "slipway-backup-files.service"
# Only one process of this host at a time uses the repository.
LOCK = "restic.lock"
# All snapshots have this name, so that those of a new host continue those of the lost one.
NAME = "--host=slipway"
# The name of a variable that is a secret, and of one that names the file of the secret instead.
SECRET, SECRET_FILE = "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY_FILE"
# What restic says if there is no repository. Since version 0.17, it also has an exit status for that.
MISSING = re.compile(r"unable to open config file: .*(no such file|does not exist)")
# What `restic check` says of damage. Other failures, such as those of a connection, have other words.
DAMAGED = re.compile(r"repository contains errors|LoadIndex|unable to load")


@dataclass
class Outcome:
    """The result of the last backup of the files, and of the last verification.

    Attributes:
        at: when the last complete backup ended, as in RFC 3339; empty if there was none.
        problem: why the last backup failed; empty if it did not.
        verified: when the last complete verification ended, as in RFC 3339; empty if there was none.
        damage: what the last verification found, or that the repository was missing; empty if nothing is
            wrong.
        repository: the repository of the last complete backup; empty if there was none.
    """

    at: str = ""
    problem: str = ""
    verified: str = ""
    damage: str = ""
    repository: str = ""

    def __post_init__(self) -> None:
        check_moments(self.at, self.verified)


def is_on(config: Configuration) -> bool:
    """Tell whether the files are backed up: only to another host, because this one has them."""
    return bool(config.get("backup_files_repository"))


def begin(stack: Stack) -> None:
    """Begin a backup of the files, if they are backed up at all."""
    if is_on(stack.config):
        # systemd does not start a running unit again. So a backup that runs looks at this file at its end.
        wanted(stack).touch()
        stack.host.output("systemctl", "start", "--no-block", UNIT)


def wanted(stack: Stack) -> Path:
    """Return the path of the file that demands another backup."""
    return stack.state / "host_files.wanted"


def read_outcome(stack: Stack) -> Outcome:
    """Return the result of the last backup; an empty one if there was none, or if the file is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        # A former version wrote fewer keys.
        found = asdict(Outcome()) | json.loads((stack.state / "host_files.json").read_text())
        return from_json(Outcome, found)
    return Outcome()


def record(stack: Stack, outcome: Outcome) -> None:
    """Write the result of a backup or of a verification."""
    write(stack.state / "host_files.json", json.dumps(asdict(outcome), indent=1) + "\n")


def run(host: Host, config: Configuration, *arguments: str | Path) -> str:
    """Run a command of restic; return its output."""
    environment = dict(config["backup_files_environment"])
    if SECRET_FILE in environment:
        environment[SECRET] = Path(environment.pop(SECRET_FILE)).read_text().strip()
    options = [f"--option={option}" for option in config["backup_files_options"]]
    repository = f"--repo={config['backup_files_repository']}"
    return host.run("restic", repository, "--no-cache", "--quiet", *options, *arguments, env=environment)


def backup(stack: Stack) -> None:
    """Back up the files, remove backups that retention no longer keeps, and record the result.

    Raises:
        Failure: the files could not be backed up.
    """
    host, config = stack.host, stack.config
    paths = [*host.settings.kept, host.settings.ledger, *host.settings.shown, *media(config)]
    # The copies of secrets for the slots: a release writes them again.
    exclude = f"--exclude={config['in_service']}"
    window = f"--keep-within={config['backup_window_days']}d"
    with alone(host, LOCK):
        try:
            prepare(stack)
            wanted(stack).touch()
            while wanted(stack).exists():
                wanted(stack).unlink()
                run(host, config, "backup", NAME, exclude, *(path for path in paths if path.exists()))
            run(host, config, "forget", NAME, "--group-by=host", window, "--keep-last=1", "--prune")
        except (Failure, OSError) as failure:
            record(stack, replace(read_outcome(stack), problem=describe(failure)))
            raise
        repository = config["backup_files_repository"]
        record(stack, replace(read_outcome(stack), at=host.now(), problem="", repository=repository))


def prepare(stack: Stack) -> None:
    """Remove the lock of a run that was killed; create the repository if there is none.

    If the repository had backups, record that it was missing, until the next verification.
    """
    try:
        run(stack.host, stack.config, "unlock")
    except CommandFailure as failure:
        if not is_missing(failure):
            raise
        if was_used(stack):
            words = f"the repository was missing at {stack.host.now()}, so its older backups are lost."
            record(stack, replace(read_outcome(stack), damage=f"{words} A new one was begun."))
        run(stack.host, stack.config, "init")


def was_used(stack: Stack) -> bool:
    """Tell whether the last backup went to the repository of the present configuration."""
    return read_outcome(stack).repository == stack.config["backup_files_repository"]


def verify(stack: Stack) -> None:
    """Read every file of the repository, and record what is wrong.

    Raises:
        Failure: the repository is damaged, or cannot be read.
    """
    with alone(stack.host, LOCK):
        try:
            run(stack.host, stack.config, "unlock")  # as in `prepare`
            run(stack.host, stack.config, "check", "--read-data")
        except CommandFailure as failure:
            words = describe(failure)
            if (is_missing(failure) and was_used(stack)) or DAMAGED.search(words):
                record(stack, replace(read_outcome(stack), damage=words))
            raise
        record(stack, replace(read_outcome(stack), verified=stack.host.now(), damage=""))


def restore(host: Host, config: Configuration, given: Collection[str]) -> bool:
    """Bring the newest secrets, certificates and ledger back on a new host; return whether there are any.

    Nothing happens on a host that has a ledger. The ledger comes last, so that an interrupted run is
    repeated.

    Args:
        host: the new host.
        config: its configuration.
        given: the names of secrets that stay as they are on the new host.
    """
    remove_restored(host)
    if host.settings.ledger.exists():
        return False
    return bring_back(host, config, [*host.settings.kept, host.settings.ledger], given)


def restore_media(host: Host, config: Configuration) -> bool:
    """Bring the files of an app back, into a volume without files; return whether there are any."""
    remove_restored(host)
    # This file exists while files are copied, so that an interrupted run is repeated.
    begun = host.settings.ledger.parent / "media_begun"
    empty = [path for path in media(config) if begun.exists() or not path.exists() or not any(path.iterdir())]
    if not empty:
        return False
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.touch()
    found = bring_back(host, config, empty, [])
    begun.unlink()
    return found


def place_of(host: Host) -> Path:
    """Return the directory for restored files, on the same file system as most of their places."""
    return host.settings.ledger.parent / "restored"


def remove_restored(host: Host) -> None:
    """Remove the restored files, which include secrets; a run that was killed may have left them."""
    if place_of(host).exists():
        shutil.rmtree(place_of(host))


def media(config: Configuration) -> list[Path]:
    """Return the directories of files that an app has only in a volume."""
    return [Path(path) for path in config.get("backup_files_more", [])]


def bring_back(host: Host, config: Configuration, paths: Iterable[Path], given: Collection[str]) -> bool:
    """Copy the newest files of paths to their places; return whether there is a backup."""
    # A host that was lost may have left its lock, which would stop a command that respects it.
    try:
        found = json.loads(run(host, config, "snapshots", NAME, "--no-lock", "--json"))
    except CommandFailure as failure:
        if is_missing(failure):
            return False
        raise
    if not found:
        return False
    directory = place_of(host)
    directory.mkdir(mode=0o700, parents=True)
    try:
        included = [f"--include={path}" for path in paths]
        run(host, config, "restore", "latest", NAME, "--no-lock", f"--target={directory}", *included)
        for path in paths:
            copy(host, Path(directory, *path.parts[1:]), path, given)
    finally:
        remove_restored(host)
    return True


def copy(host: Host, source: Path, target: Path, given: Collection[str]) -> None:
    """Copy a file, or a directory with all files in it, each in one step; skip given secrets."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir(parents=True, exist_ok=True)
        status = source.stat()
        os.chown(target, status.st_uid, status.st_gid)
        target.chmod(status.st_mode & 0o7777)
        for path in sorted(source.iterdir()):
            copy(host, path, target / path.name, given)
    elif (source.is_file() or source.is_symlink()) and not (
        target.parent.name == "secrets" and target.name in given
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.new")
        host.run("cp", "--archive", "--no-target-directory", source, new)
        if not new.is_symlink():
            sync(new)
        new.replace(target)
        sync(target.parent)


def is_missing(failure: CommandFailure) -> bool:
    """Tell whether a command failed because there is no repository, not because it cannot be reached."""
    return failure.status == 10 or bool(MISSING.search(failure.output))
