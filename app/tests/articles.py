"""Helpers for the tests of the import, which make files and the expected output of the command."""

from pathlib import Path


def counts(**changed: int) -> dict[str, object]:
    outcomes = {"created": 0, "updated": 0, "skipped": 0, "unchanged": 0, "ignored": 0} | changed
    return {"changed": bool(outcomes["created"] or outcomes["updated"]), **outcomes, "ignored_files": []}


def article(folder: Path, name: str = "a.md", *, header: str = "title: A\ndate: 2025-01-01", body="Text."):
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f"---\n{header}\n---\n\n{body}\n", encoding="utf-8")
    return path
