"""The program's access to the host. Tests replace it with a fake."""

import datetime
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any

from slipway import http_get, shell
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

    def show(self, *command: str) -> int:
        """Print the output of a command as shell.show does."""
        return shell.show(*command)

    def follow(self, *command: str) -> shell.Follower:
        """Start a command that prints lines until it is ended; return it as a shell.Follower."""
        return shell.Follower(*command)

    def get(
        self, address: str, path: str, host: str, timeout: float = 5, tls: bool = False, cookie: str = ""
    ) -> tuple[int | None, str]:
        """Request a page as http_get.get does."""
        return http_get.get(address, path, host, timeout, tls, cookie)

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

    def new_id(self, taken: Collection[str]) -> str:
        """Return the id of a release that begins now: the time, or the next second that is not in taken."""
        moment = datetime.datetime.now(datetime.UTC)
        while (name := moment.strftime("%Y%m%dT%H%M%SZ")) in taken:
            moment += datetime.timedelta(seconds=1)
        return name

    def children(self, pid: str, command: str) -> set[str]:
        """Return the ids of a process's children that have this command line; none if it has ended."""
        children = read_process(pid, f"task/{pid}/children").split()
        return {child for child in children if read_process(child, "cmdline").rstrip("\0 ") == command}

    def is_frozen(self, pid: str) -> bool:
        """Tell whether a signal such as SIGSTOP stopped a process, which then does not react to SIGTERM."""
        return read_process(pid, "stat").rpartition(")")[2].split()[:1] == ["T"]

    def started(self, pid: str) -> float:
        """Return when a process was started, in seconds since the epoch; infinity if it has ended."""
        after_name = read_process(pid, "stat").rpartition(")")[2].split()
        if not after_name:
            return math.inf
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return boot + int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def notify_systemd(state: str) -> None:
    """Tell systemd the state of the unit that this process runs in, as sd_notify(3) does."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        # A leading @ stands for an abstract socket.
        to.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


def read_process(pid: str, name: str) -> str:
    """Return a file in the directory of a process in /proc; empty if the process has ended."""
    try:
        return Path("/proc", pid, name).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def moment(text: str) -> datetime.datetime:
    """Return a time in RFC 3339 as an object; raise ValueError if it is none."""
    return datetime.datetime.fromisoformat(text)


def check_moments(*texts: str) -> None:
    """Raise ValueError if a text is neither empty nor a time in RFC 3339."""
    for text in texts:
        if text:
            moment(text)


def seconds_of(text: str) -> float:
    """Convert a time in RFC 3339 to seconds since the epoch."""
    return moment(text).timestamp()


def time_of(seconds: float) -> str:
    """Convert seconds since the epoch to a time in RFC 3339."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(host: Host, text: str) -> float:
    """Return the seconds since a time in RFC 3339."""
    return (moment(host.now()) - moment(text)).total_seconds()


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until condition() is true, but not longer than `seconds`; return whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
