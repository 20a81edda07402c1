"""The one way to run a command, and the failures of one."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from slipway.settings import LOG_LINES

# Compose lets a variable of the caller's shell outrank .env, so the caller's environment stays outside.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


class Failure(Exception):
    """What went wrong and what to do about it, in words for an operator."""


class CommandFailure(Failure):
    """A command exited with status. The message has its last lines.

    Attributes:
        output: all that it wrote to standard error, or to standard output where that is nothing.
        stdout: all that it wrote to standard output.
    """

    def __init__(self, command: Sequence[str | Path], status: int, output: str, stdout: str = "") -> None:
        words = " ".join(map(str, command[:6]))
        super().__init__(f"`{words} …` failed ({status}):\n{last_lines(output)}")
        self.output, self.status, self.stdout = output, status, stdout


def run(
    *command: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    source: IO[Any] | None = None,
    into: IO[Any] | None = None,
) -> str:
    """Return the standard output of a command; raise CommandFailure when it exits non-zero.

    Args:
        command: the program and its arguments.
        stdin: text for its standard input.
        env: what it gets besides ENVIRONMENT.
        source: an open file as its standard input, instead of text.
        into: an open file that its standard output goes to, instead of being returned.
    """
    given: dict[str, Any] = {"stdin": source} if source else {"input": stdin}
    done = subprocess.run(
        command,
        **given,
        stdout=into or subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | dict(env or {}),
        text=True,
        errors="replace",
    )
    stdout = done.stdout or ""
    if done.returncode != 0:
        raise CommandFailure(command, done.returncode, done.stderr or stdout, stdout)
    return stdout


def output(*command: str) -> str:
    """Return all that a command writes, to standard output or error, however it exits."""
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
        text=True,
        errors="replace",
    ).stdout


def last_lines(text: str) -> str:
    """Return the last lines of text, indented so that they stand apart from the message around them."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-LOG_LINES:])
