"""Read the JSON lists of an export, and make a Comment, a Media or a Tag from each entry."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ..models import CONTROL_CHARACTER, Comment, Media, Tag
from .step import Import

_Entry = TypeVar("_Entry", Comment, Media, Tag)


def read_json(path: Path, step: Import) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        step.problems.append(f"{path}:1: cannot be read ({error.strerror}); make it readable")
    except (ValueError, RecursionError):
        step.problems.append(f"{path}:1: is not JSON; export again")
    return []


def entries(
    path: Path, rows: object, make: Callable[[dict[str, Any]], _Entry], step: Import
) -> Iterator[_Entry]:
    """Yield an object for each entry of the list `rows`. Report entries that are not valid."""
    for number, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
        try:
            yield make(row)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            step.problems.append(f"{path}:1: entry {number} is not valid; export again")


def refuse_control_characters(*texts: str) -> None:
    if any(CONTROL_CHARACTER.search(text) for text in texts):
        raise ValueError


def moment(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["created_at"]).astimezone(UTC)
