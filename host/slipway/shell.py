"""Run commands, and report their failures."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from slipway.settings import LOG_LINES

# In compose, shell variables override .env, so commands do not get the caller's environment.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


class Failure(Exception):
    """A problem and its remedy, in words for an operator."""


class CommandFailure(Failure):
    """A command exited with a non-zero status. The message has the last lines of the output.

    Attributes:
        output: the command's standard error, or its standard output if that is empty.
        stdout: the command's standard output.
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
        env: environment variables in addition to ENVIRONMENT.
        source: an open file as its standard input, instead of text.
        into: an open file that its standard output goes to, instead of being returned.
    """
    given: dict[str, Any] = {"stdin": source} if source else {"input": stdin}
    done = subprocess.run(
        command,
        **given,
        check=False,
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
    """Return a command's standard output and standard error, whatever its exit status."""
    return subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
        text=True,
        errors="replace",
    ).stdout


def last_lines(text: str) -> str:
    """Return the last lines of text, indented so that they stand apart from the message around them."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-LOG_LINES:])
