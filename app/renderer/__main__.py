"""The process that renders: it reads texts from the socket at standard input, and writes the results there.

If a text needs more CPU time than it is allowed, the kernel ends the process with SIGPROF. If a text needs
too much memory, the process exits with NO_MEMORY.
"""

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from . import NO_MEMORY
from .markdown import convert

_MEMORY_BYTES = 256 * 1024 * 1024
_MEBIBYTE = 1024 * 1024
# Seconds of CPU time: for any text, and in addition for each MiB of it.
_CPU_S = (2, 10)
_HIGHLIGHTING_S = (1, 6)  # the part of _CPU_S that the highlighting of code may take


def main() -> None:
    """Answer each text with the fields of Rendered in JSON, until the other side closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches this process too
    os.nice(5)  # the requests of readers are more urgent
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If the container runs out of memory, the kernel ends this process first. Some systems have no /proc.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with Connection(0) as connection:
        while True:
            try:
                text = connection.recv_bytes()
            except EOFError:
                return
            signal.setitimer(signal.ITIMER_PROF, _allowed(_CPU_S, text))  # then SIGPROF ends the process
            try:
                rendered = convert(text.decode(), _allowed(_HIGHLIGHTING_S, text))
            except MemoryError:
                sys.exit(NO_MEMORY)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(json.dumps(asdict(rendered)).encode())


def _allowed(limits: tuple[float, float], text: bytes) -> float:
    least, per_mebibyte = limits
    return least + per_mebibyte * len(text) / _MEBIBYTE


if __name__ == "__main__":
    main()
