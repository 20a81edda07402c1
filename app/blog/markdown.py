"""Render Markdown in a separate process, whose CPU time and memory are limited.

Some texts would take minutes or gigabytes, mostly because of the regular expressions of the libraries, and
Python cannot interrupt a regular expression in a thread. The process runs the package `renderer`. It is
started for the first text, and again if it has ended. renderer/__main__.py has its limits.
"""

import json
import signal
import socket
import subprocess
import sys
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock

import renderer
from renderer import NO_MEMORY, SUMMARY_CHARACTERS, Rendered
from renderer.html import absolute_urls, first_image, strip_tags

__all__ = [
    "MISSING_SUMMARIES",
    "SUMMARY_CHARACTERS",
    "RenderError",
    "absolute_urls",
    "first_image",
    "render",
    "strip_tags",
    "summary",
]

# Older releases stored these summaries for texts without spaces between words.
MISSING_SUMMARIES = ("", "…")

_WAIT_S = 5  # how long a text waits for the process: a few slow texts must not occupy all threads of a worker
# After a text with more characters, the process is ended, because it keeps the memory.
_LARGE = 64 * 1024

_ADVICE = "Split it into several texts, or simplify its longest lists, tables, quotes and links."
_TOO_SLOW = f"This text takes too long to render. {_ADVICE}"
_TOO_LARGE = f"This text needs too much memory to render. {_ADVICE}"
_FAILED = f"This text cannot be rendered, because of an error in the program. {_ADVICE}"
_BUSY = "The server is busy with other texts. Try again in a minute."
# Why the process ended, by its exit code; a negative one is a signal. nh3 is written in Rust, and aborts if
# it gets no memory.
_REASONS = {-signal.SIGPROF: _TOO_SLOW, NO_MEMORY: _TOO_LARGE, -signal.SIGABRT: _TOO_LARGE}


class RenderError(Exception):
    """A text cannot be rendered. The message is for its author: the reason, and what to do."""


@lru_cache(maxsize=1)  # when a text is saved, render is called for its HTML and again for its summary
def render(text: str) -> Rendered:
    """Render Markdown to sanitised HTML, which is safe to show for any text.

    Raises RenderError if the text needs too much time or memory, if the process is busy, or if it fails.
    """
    return _process.render(text)


def summary(text: str) -> str:
    """Return the beginning of a text, without markup. It is empty if the text cannot be rendered."""
    try:
        return render(text).summary
    except RenderError:
        return ""


class _Process:
    """The process that renders. It renders one text at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: tuple[subprocess.Popen[bytes], Connection] | None = None

    def render(self, text: str) -> Rendered:
        """Render a text; see the function `render`."""
        if not self._lock.acquire(timeout=_WAIT_S):
            raise RenderError(_BUSY)
        try:
            for _attempt in range(2):  # the process may have ended before, for example for lack of memory
                try:
                    _process, connection = self._running = self._running or _start()
                    connection.send_bytes(text.encode())
                    rendered = Rendered(**json.loads(connection.recv_bytes()))
                except (EOFError, OSError):
                    ended = self._end()
                    if ended in _REASONS:
                        raise RenderError(_REASONS[ended]) from None
                else:
                    if len(text) > _LARGE:
                        self._end()
                    return rendered
            raise RenderError(_TOO_LARGE if ended == -signal.SIGKILL else _FAILED)
        finally:
            self._lock.release()

    def _end(self) -> int | None:
        """End the process, and return its exit code."""
        if self._running is None:
            return None
        process, connection = self._running
        self._running = None
        connection.close()
        return process.wait()


_process = _Process()


def _start() -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(ours.detach())
        command = [sys.executable, "-m", renderer.__name__]
        folder = Path(renderer.__file__).parent.parent
        return subprocess.Popen(command, stdin=theirs.fileno(), cwd=folder), connection  # noqa: S603 (our program)
