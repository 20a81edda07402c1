"""Run commands, and report their failures."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

# How many of a command's last lines a message shows.
LOG_LINES = 15
# In compose, shell variables override .env, so commands do not get the caller's environment.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


# Characters that control a terminal, or the direction of the text around them. Clients write them into logs.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


# Some versions of docker compose begin each line of a log with this, even if no terminal shows it.
ERASE_LINE = b"\x1b[2K"


def printable(text: str) -> str:
    """Return text with control characters escaped, such as \\x1b; new lines and tabs stay."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Failure(Exception):
    """A problem and its remedy, in words for an operator. Control characters in the words are escaped."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


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


def describe(error: BaseException | str) -> str:
    """Return a problem in words; for an unexpected error, with its type and its place in the code."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (str, Failure, OSError)):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"


def call(command: Sequence[str | Path], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command without the caller's environment; raise Failure if it cannot be run at all."""
    options = {"env": ENVIRONMENT} | options
    try:
        return subprocess.run(command, check=False, text=True, errors="replace", **options)
    except OSError as error:
        raise Failure(f"`{command[0]}` cannot be run: {error.strerror}.") from None


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
    given = {"stdin": source} if source else {"input": stdin}
    streams = {"stdout": into or subprocess.PIPE, "stderr": subprocess.PIPE}
    done = call(command, env=ENVIRONMENT | dict(env or {}), **streams, **given)
    stdout = done.stdout or ""
    if done.returncode != 0:
        raise CommandFailure(command, done.returncode, done.stderr or stdout, stdout)
    return stdout


def output(*command: str) -> str:
    """Return a command's standard output and standard error, whatever its exit status."""
    return call(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def show(*command: str) -> int:
    """Print a command's output as it comes, with control characters escaped; return its exit status.

    Ctrl-C, or a reader that closes its end of a pipe, ends this program.
    """
    for ended in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(ended, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT
    ) as process:
        for line in process.stdout or ():
            # Escape bytes that are not valid UTF-8: a terminal with another encoding may obey them.
            text = line.removeprefix(ERASE_LINE).decode(errors="backslashreplace")
            sys.stdout.write(printable(text))
            sys.stdout.flush()
    return process.returncode


class Follower:
    """A command that prints a line whenever something happens, such as `docker events`.

    Attributes:
        goes_on: whether the command still runs; `wait` notices its end.
    """

    def __init__(self, *command: str) -> None:
        self.goes_on = True
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=ENVIRONMENT
            )
        except OSError as error:
            raise Failure(f"`{command[0]}` cannot be run: {error.strerror}.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait(self, seconds: float) -> None:
        """Wait until the command prints something or ends, but not longer than `seconds`."""
        stream = self.process.stdout
        assert stream
        if select.select([stream], [], [], seconds)[0]:
            self.goes_on = bool(os.read(stream.fileno(), 65536))


def say(words: str) -> None:
    """Print a step of a long operation, which goes on if the operator's connection has ended."""
    with contextlib.suppress(OSError):
        print(words, flush=True)


def last_lines(text: str) -> str:
    """Return the last lines of text, indented so that they stand apart from the message around them."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-LOG_LINES:])
