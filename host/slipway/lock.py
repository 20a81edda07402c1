"""The host's lock, for releases, changes of containers and restores; and the lock of a run of a playbook."""

import contextlib
import fcntl
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from slipway.host import Host, wait_until
from slipway.shell import Failure

# How healing.py describes itself while it restarts a container. This takes some seconds, so all others wait.
HEALING = "a restart of"
# How drills.py describes itself. Every other operation ends a drill, which is repeated later.
DRILL = "a restore drill"


class Busy(Failure):
    """Another process has the lock."""


@contextlib.contextmanager
def alone(host: Host, name: str) -> Iterator[None]:
    """Let no other process of this host into a block with the same name; wait for it as long as it takes."""
    host.settings.runtime.mkdir(mode=0o700, exist_ok=True)
    with (host.settings.runtime / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def lock(host: Host, holder: str, seconds: float = 0, other: str = "Another release") -> Iterator[None]:
    """Hold the lock during the block; raise Busy with the holder's name if another process has it.

    The kernel releases the lock when its process ends, so a dead process holds no lock.

    Args:
        host: the host.
        holder: a description of the new holder, such as the name of the person who releases.
        seconds: how long to wait for the lock.
        other: how the message refers to another holder.
    """
    # Whoever can open the lock can hold it. Former versions let every user open it, so correct the modes.
    host.settings.runtime.mkdir(mode=0o700, exist_ok=True)
    host.settings.runtime.chmod(0o700)
    descriptor = os.open(host.settings.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        os.fchmod(descriptor, 0o600)

        def is_ours() -> bool:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        there = file.read().strip()
        if there.startswith(DRILL) and not holder.startswith(DRILL) and not is_ours():
            end_drill(there)
        if not wait_until(is_ours, seconds):
            file.seek(0)
            there = file.read().strip()
            if not (there.startswith((HEALING, DRILL)) and wait_until(is_ours, host.settings.heal_seconds)):
                raise Busy(f"{other} is under way: {there}. Wait until it ends (`slipway status`).")
        describe(file, f"{holder}, since {host.now()}, process {os.getpid()}")
        try:
            yield
        finally:
            # If this process continues after the block, `is_held` must not report the lock as held.
            describe(file, "")


def end_drill(holder: str) -> None:
    """End the drill that holds the lock."""
    if found := re.search(r"process (\d+)$", holder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(found[1]), signal.SIGTERM)


def describe(file: IO[str], holder: str) -> None:
    """Write to the lock who has it."""
    file.seek(0)
    file.truncate()
    file.write(holder)
    file.flush()


def is_held(host: Host) -> bool:
    """Tell whether the process that last took the lock still runs, without taking the lock."""
    path = host.settings.lock
    last = re.search(r"process (\d+)$", path.read_text()) if path.exists() else None
    return last is not None and Path("/proc", last[1]).exists()


def playbook_run(host: Host) -> dict[str, str] | None:
    """Return the playbook run that holds the lock of runs: `playbook`, `by` and `since`; None without a run.

    The module `host_facts` takes this lock, in plugins/module_utils/run_lock.py.
    """
    path = host.settings.runtime / "run.lock"
    if not path.exists():
        return None
    with path.open() as file, contextlib.suppress(ValueError):
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            run = json.load(file)
            return {key: str(run[key]) for key in ("playbook", "by", "since")}
    return None
