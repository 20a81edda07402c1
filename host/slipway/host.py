"""The program's access to the host. Tests replace it with a fake."""

import contextlib
import datetime
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from slipway import probe, shell
from slipway.settings import Settings


class Host:
    """Access to commands, HTTP pages, time and processes of this host."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    def run(
        self,
        *command: str | Path,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        source: IO[Any] | None = None,
        into: IO[Any] | None = None,
    ) -> str:
        """Run a command as shell.run does."""
        return shell.run(*command, stdin=stdin, env=env, source=source, into=into)

    def output(self, *command: str) -> str:
        """Run a command as shell.output does."""
        return shell.output(*command)

    def get(
        self, address: str, path: str, host: str, timeout: float = 5, tls: bool = False, cookie: str = ""
    ) -> tuple[int | None, str]:
        """Request a page as probe.get does."""
        return probe.get(address, path, host, timeout, tls, cookie)

    def is_root(self) -> bool:
        """Tell whether the program runs as root."""
        return os.geteuid() == 0

    def free(self, path: Path) -> int:
        """Return the free bytes on the file system of path."""
        return shutil.disk_usage(path).free

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> str:
        """Return the time in UTC, to the second, as in RFC 3339."""
        return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def new_id(self) -> str:
        """Return the id of a release that begins now."""
        return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")

    def children(self, pid: str, command: str) -> set[str]:
        """Return the ids of a process's children that have this command line."""
        found = set()
        for child in Path("/proc", pid, "task", pid, "children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path("/proc", child, "cmdline").read_text().rstrip("\0 ") == command:
                    found.add(child)
        return found

    def started(self, pid: str) -> float:
        """Return when a process was started, in seconds since the epoch."""
        after_name = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return boot + int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until condition() is true, but not longer than `seconds`; return whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
