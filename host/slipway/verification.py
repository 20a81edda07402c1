"""The verification of the repository's files: whether they are as they were written, and none is missing."""

import contextlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass

from slipway import pgbackrest
from slipway.files import write
from slipway.host import check_moments
from slipway.json_types import from_json
from slipway.lock import alone
from slipway.stack import Stack


@dataclass
class Verification:
    """The result of the last verification of the repository's files.

    Attributes:
        at: when it began, as in RFC 3339; empty if there was none.
        damage: what is wrong with the files; empty if nothing is.
        gap: the first missing segment of the log since the last full backup; empty if there is none.
        since: the full backup after the last gap, as in RFC 3339: no earlier moment is sure to be restorable.
    """

    at: str = ""
    damage: str = ""
    gap: str = ""
    since: str = ""

    def __post_init__(self) -> None:
        check_moments(self.at, self.since)


def read_verification(stack: Stack) -> Verification:
    """Return the result of the last verification; an empty one if there was none, or if it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        return from_json(Verification, json.loads((stack.state / "backup_files.json").read_text()))
    return Verification()


def recording(stack: Stack) -> AbstractContextManager[None]:
    """Let no other process write a record of backups during the block."""
    return alone(stack.host, "backups.lock")


def verify(stack: Stack) -> Verification:
    """Verify the files of the repository, and record the result."""
    found = Verification(stack.host.now(), pgbackrest.verify(stack))
    with recording(stack):
        return look_for_gaps(stack, found)


def look_for_gaps(stack: Stack, found: Verification) -> Verification:
    """Look for gaps in the archive, which takes less time than to read its files; record the result."""
    gaps = pgbackrest.gaps(stack)
    found.gap = next((segment for segment, backup in gaps if not backup), "")
    found.since = max((backup.at for _segment, backup in gaps if backup), default="")
    write(stack.state / "backup_files.json", json.dumps(vars(found), indent=1) + "\n")
    return found
