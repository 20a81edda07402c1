"""Backups of the files that make a host: its secrets, its certificates and its ledger. The engine is restic.

No other module knows restic. The backups of the database are those of pgbackrest.py, in the same place.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from slipway.files import write
from slipway.host import Host, moment
from slipway.json_types import from_json
from slipway.settings import Configuration
from slipway.shell import CommandFailure, describe
from slipway.stack import Stack

# All snapshots have this name, so that those of a new host continue those of the lost one.
NAME = "--host=slipway"
# The name of a variable that is a secret, and of one that names the file of the secret instead.
SECRET, SECRET_FILE = "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY_FILE"
# What restic says if there is no repository. Since version 0.17, it also has an exit status for that.
MISSING = re.compile(r"unable to open config file: .*(no such file|does not exist)")


@dataclass
class Outcome:
    """The result of the last backup of the files.

    Attributes:
        at: when the last complete backup ended, as in RFC 3339; empty if there was none.
        problem: why the last run failed; empty if it did not.
    """

    at: str = ""
    problem: str = ""

    def __post_init__(self) -> None:
        if self.at:
            moment(self.at)  # raises ValueError


def is_on(config: Configuration) -> bool:
    """Tell whether the files are backed up: only to another host, because this one has them."""
    return bool(config.get("backup_files_repository"))


def kept(host: Host, config: Configuration) -> list[Path]:
    """Return the files and directories that a new host gets back."""
    return [*host.settings.kept, *map(Path, config.get("backup_files_more", []))]


def read_outcome(stack: Stack) -> Outcome:
    """Return the result of the last backup; an empty one if there was none, or if the file is damaged."""
    with contextlib.suppress(OSError, ValueError):
        return from_json(Outcome, json.loads((stack.state / "host_files.json").read_text()))
    return Outcome()


def run(host: Host, config: Configuration, *arguments: str | Path) -> str:
    """Run a command of restic; return its output."""
    environment = dict(config["backup_files_environment"])
    if SECRET_FILE in environment:
        environment[SECRET] = Path(environment.pop(SECRET_FILE)).read_text().strip()
    options = [f"--option={option}" for option in config["backup_files_options"]]
    repository = f"--repo={config['backup_files_repository']}"
    return host.run("restic", repository, "--no-cache", "--quiet", *options, *arguments, env=environment)


def prepare(host: Host, config: Configuration) -> None:
    """Remove the lock of a run that was killed; create the repository if there is none."""
    try:
        run(host, config, "unlock")
    except CommandFailure as failure:
        if not is_missing(failure):
            raise
        run(host, config, "init")


def backup(stack: Stack) -> None:
    """Back up the files, remove backups that retention no longer keeps, and record the result.

    Raises:
        CommandFailure: the files could not be backed up.
    """
    host, config = stack.host, stack.config
    try:
        prepare(host, config)
        paths = [path for path in (*kept(host, config), *host.settings.shown) if path.exists()]
        run(host, config, "backup", NAME, *paths)
        window = f"--keep-within={config['backup_window_days']}d"
        run(host, config, "forget", NAME, "--group-by=host", window, "--keep-last=1", "--prune")
    except (CommandFailure, OSError) as failure:
        record(stack, Outcome(read_outcome(stack).at, describe(failure)))
        raise
    record(stack, Outcome(host.now()))


def verify(stack: Stack) -> None:
    """Read every file of the repository, and record what is wrong.

    Raises:
        CommandFailure: the repository is damaged, or cannot be read.
    """
    try:
        run(stack.host, stack.config, "check", "--read-data")
    except CommandFailure as failure:
        record(stack, Outcome(read_outcome(stack).at, describe(failure)))
        raise


def record(stack: Stack, outcome: Outcome) -> None:
    """Write the result of a backup."""
    write(stack.state / "host_files.json", json.dumps(asdict(outcome), indent=1) + "\n")


def restore(host: Host, config: Configuration, given: Collection[str]) -> bool:
    """Bring the files of the newest backup back on a new host; return whether there is a backup.

    Args:
        host: the new host.
        config: its configuration.
        given: the names of secrets that stay as they are on the new host.
    """
    try:
        snapshots = json.loads(run(host, config, "snapshots", NAME, "--json"))
    except CommandFailure as failure:
        if is_missing(failure):
            return False
        raise
    if not snapshots:
        return False
    with tempfile.TemporaryDirectory() as directory:
        run(host, config, "restore", "latest", NAME, f"--target={directory}")
        for path in kept(host, config):
            found = Path(directory, *path.parts[1:])
            if found.is_dir():
                for name in given:
                    (found / "secrets" / name).unlink(missing_ok=True)
                path.mkdir(parents=True, exist_ok=True)
                host.run("cp", "--archive", f"{found}/.", path)
            elif found.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                host.run("cp", "--archive", found, path)
    os.sync()
    return True


def is_missing(failure: CommandFailure) -> bool:
    """Tell whether a command failed because there is no repository, not because it cannot be reached."""
    return failure.status == 10 or bool(MISSING.search(failure.output))
