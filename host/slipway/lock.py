"""The host's only lock, for releases, changes of nginx and restores."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from slipway.host import Host, wait_until
from slipway.shell import Failure


@contextlib.contextmanager
def lock(host: Host, holder: str, seconds: float = 0, other: str = "Another release") -> Iterator[None]:
    """Hold the lock during the block; raise Failure with the holder's name if another process has it.

    The kernel releases the lock when its process ends, so a dead process holds no lock.

    Args:
        host: the host.
        holder: a description of the new holder, such as the name of the person who releases.
        seconds: how long to wait for the lock.
        other: how the message refers to another holder.
    """
    path = host.settings.lock
    path.parent.mkdir(mode=0o755, exist_ok=True)
    with path.open("a+") as file:

        def is_ours() -> bool:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        if not wait_until(is_ours, seconds):
            file.seek(0)
            raise Failure(
                f"{other} is under way: {file.read().strip()}. Wait until it ends (`slipway status`)."
            )
        file.truncate(0)
        file.write(f"{holder}, since {host.now()}, process {os.getpid()}")
        file.flush()
        yield


def is_held(host: Host) -> bool:
    """Tell whether the process that last took the lock still runs, without taking the lock."""
    path = host.settings.lock
    last = re.search(r"process (\d+)$", path.read_text()) if path.exists() else None
    return last is not None and Path("/proc", last[1]).exists()
