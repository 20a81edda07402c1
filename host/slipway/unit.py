"""Run the program in its own systemd unit, which outlives the process that started it."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from slipway.host import Host
from slipway.lock import lock
from slipway.shell import Failure

KILLED = 255  # exit status of systemd-run if a signal ended the unit


def program(*arguments: str) -> list[str]:
    """Return a command that runs this version of the program, even if a newer one is installed meanwhile."""
    return [sys.executable, "-I", "-B", str(Path(__file__).resolve().with_name("__main__.py")), *arguments]


def exec_in_unit(name: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process with systemd-run, which runs the program with the same arguments."""
    unit = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={name}-{os.getpid()}")
    os.execvp(unit[0], [*unit, *program(*arguments, "--in-unit")])


def detach(host: Host, by: str, arguments: Sequence[str]) -> int:
    """Run the same command in a systemd unit, show its output as it comes, and return its exit status."""
    with lock(host, by):
        pass  # Fail at once if another process holds the lock; the unit takes it later.
    runtime = host.settings.runtime
    remove_logs(runtime)
    unit = f"slipway-release-{os.getpid()}"
    log = runtime / f"{unit}.log"
    log.touch(mode=0o600)
    options = (
        *("--quiet", "--wait", "--collect", f"--unit={unit}"),
        *(f"--property=Standard{stream}=append:{log}" for stream in ("Output", "Error")),
    )
    command = ["systemd-run", *options, *program(*arguments, f"--by={by}", "--in-unit")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        with log.open() as file:
            while process.poll() is None:
                sys.stdout.write(file.read())
                sys.stdout.flush()
                time.sleep(0.1)
            sys.stdout.write(file.read())
        log.unlink()
        if process.stderr:
            sys.stderr.write(process.stderr.read())
    if process.returncode == KILLED:
        raise Failure(
            "The program was killed. Run the command again: it finishes or undoes the interrupted release."
        )
    return process.returncode


def remove_logs(runtime: Path) -> None:
    """Remove the logs of programs that were killed while their unit continued."""
    for log in runtime.glob("slipway-release-*.log"):
        if not Path("/proc", log.stem.rpartition("-")[2]).exists():
            log.unlink(missing_ok=True)
