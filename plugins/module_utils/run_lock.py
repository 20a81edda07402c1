# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock of a run of ansible-playbook on a host: two runs must not change a host at the same time.

A small process on the host, the keeper, holds the lock. The keeper ends when the last writer of a FIFO closes
the FIFO. The only writer is the control node, which keeps the FIFO open over SSH while its ansible-playbook
runs. So the lock is released when the run ends or is killed, and when the connection is lost. A host notices
a lost connection by ClientAliveInterval in roles/baseline/templates/00-slipway.conf.j2, after ten minutes.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

RUNTIME = "/run/slipway"
FIFO = "run.fifo"
# Seconds to wait for a run that is just ending, and for the control node to open the FIFO.
ENDING, GRACE = 3, 30
# Seconds that a playbook waits for the host program to release its lock, before the playbook writes the
# configuration of that program.
WAITING = 300
# Seconds to wait for a restart of an unhealthy container: the value of heal_seconds in
# host/slipway/settings.py.
HEALING = 30
# Seconds after which the lock is released in any case: no run takes that long.
LONGEST = 12 * 3600

KEEPER = """
import os, select, signal, sys
fifo, grace, longest = map(int, sys.argv[1:])
signal.alarm(longest)
if select.select([fifo], [], [], grace)[0]:
    os.set_blocking(fifo, True)
    while os.read(fifo, 4096):
        pass
"""


class Held(Exception):
    """Another run has the lock, or the program `slipway` is at work. The message says what to do."""


def take(run, take_over="", runtime=RUNTIME):
    """Take the lock of a run, and start its keeper.

    Args:
        run: a description of the run: its `id`, its `playbook`, and `by`, the name of who started it.
        take_over: the id of another run. If the run with this id has the lock, end its keeper.
        runtime: the directory of the lock.

    Returns:
        Whether the lock was taken; False if this run has it already.

    Raises:
        Held: another run has the lock, or the program `slipway` is at work.
        OSError: the directory or the lock cannot be written.
    """
    directory = Path(runtime)
    make_private(directory)
    with private(directory / "run.lock") as lock:
        if not acquire(lock, 0):
            holder = describe(lock)
            if holder["id"] == run["id"]:
                return False
            if take_over and take_over == holder["id"]:
                os.kill(holder["process"], signal.SIGTERM)
            if not acquire(lock, ENDING):
                raise Held(refusal(describe(lock)))
        deadline = time.monotonic() + HEALING
        # A restart of an unhealthy container takes some seconds: see HEALING in host/slipway/lock.py.
        while (
            (operation := under_way(directory))
            and "(a restart of" in operation
            and time.monotonic() < deadline
        ):
            time.sleep(0.2)
        if operation:
            raise Held(
                f"{operation} is under way on this host. Nothing was changed. Wait until it ends "
                "(`slipway status`)."
            )
        fifo = directory / FIFO
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
        keeper = start_keeper(fifo, lock)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        lock.seek(0)
        lock.truncate()
        lock.write(json.dumps({**run, "since": since, "process": keeper}))
    return True


def other_run(run, runtime=RUNTIME):
    """Return a sentence about another run that has the lock, or None. This takes no lock."""
    path = Path(runtime, "run.lock")
    if not path.exists():
        return None
    with path.open() as lock:
        if acquire(lock, 0, fcntl.LOCK_SH):
            return None
        holder = describe(lock)
    return None if holder["id"] == run["id"] else sentence(holder)


@contextmanager
def hold(path):
    """Hold the lock of the program `slipway` during the block, so that the program never reads half a change.

    Raises:
        Held: the program is still at work after WAITING seconds.
    """
    directory = Path(path).parent
    make_private(directory)
    with private(path) as lock:
        if not acquire(lock, WAITING):
            raise Held(
                f"{under_way(directory)} is under way on this host. Wait until it ends, then try again."
            )
        lock.truncate()
        lock.write(f"a change of its configuration by a playbook, process {os.getpid()}")
        lock.flush()
        yield


def make_private(directory):
    """Create a directory for locks that only its owner may open. Former versions let every user open it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)


@contextmanager
def private(path):
    """Open a file for a lock that only its owner may open; create the file if it is missing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        os.fchmod(descriptor, 0o600)
        yield file


def acquire(lock, seconds, kind=fcntl.LOCK_EX):
    """Try to acquire the lock for at most `seconds`; return whether that succeeded."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)


def describe(lock):
    """Return the description that the holder of the lock wrote into its file."""
    lock.seek(0)
    try:
        return json.load(lock)
    except ValueError:
        # Another run has just taken the lock, and has not written its description yet.
        return {"id": "", "by": "unknown", "playbook": "a playbook", "since": "now"}


def sentence(holder):
    """Return a sentence about the holder of the lock."""
    return (
        f"Another run is under way on this host: {holder['playbook']} by {holder['by']}, "
        f"since {holder['since']}."
    )


def refusal(holder):
    """Return the message for a run that is refused because another run has the lock."""
    return (
        f"{sentence(holder)} Nothing was changed. Wait until it ends. The lock is released when that run "
        "ends, or at most ten minutes after that run loses its connection. If you are sure that the other "
        f"run is dead or stuck, take the lock from it: -e host_take_over={holder['id']}"
    )


def under_way(directory):
    """Return what the host program `slipway` is doing, according to its lock; None if it is idle."""
    path = directory / "lock"
    if not path.exists():
        return None
    with path.open() as lock:
        return None if acquire(lock, 0, fcntl.LOCK_SH) else f"An operation ({lock.read().strip()})"


def start_keeper(fifo, lock):
    """Start the keeper, which holds the inherited lock while a writer has the FIFO open; return its id."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        command = [sys.executable, "-I", "-S", "-c", KEEPER, str(descriptor), str(GRACE), str(LONGEST)]
        return subprocess.Popen(
            command,
            pass_fds=(descriptor, lock.fileno()),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        ).pid
    finally:
        os.close(descriptor)
