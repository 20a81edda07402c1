"""Find the files that an import reads, and the files that it ignores."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .step import Import

SUFFIXES = (".md", ".markdown", ".mdown", ".mdwn", ".mkd", ".mkdn")  # upper case is accepted as well


def markdown_files(step: Import) -> Iterator[Path]:
    """Yield the Markdown files of the source, and record the other files as ignored."""
    source = step.source
    if not source.exists():
        step.problems.append(
            f"{source}: does not exist; name a Markdown file, or a directory with Markdown files"
        )
        return
    if source.is_file():
        yield source
        return
    paths: list[Path] = []
    others: list[Path] = []
    for path in sorted(walk(step)):
        is_text = path.suffix.lower() in SUFFIXES and path.is_file() and not _is_hidden(path, source)
        (paths if is_text else others).append(path)
    ignore(others, step)
    if not paths:
        *most, last = (f"*{suffix}" for suffix in SUFFIXES)
        step.problems.append(
            f"{source}: contains no Markdown files ({', '.join(most)} or {last}); name another directory"
        )
    for path in paths:
        if path.resolve().is_relative_to(source.resolve()):
            yield path
        else:
            step.problems.append(
                f"{path}:1: is a link to a file outside {source}; copy the file into it instead"
            )


def walk(step: Import) -> Iterator[Path]:
    """Yield the path of every file below the source, and report directories that cannot be read."""

    def note(error: OSError) -> None:
        step.problems.append(f"{error.filename}: cannot be read ({error.strerror}); make it readable")

    for name, folders, files in os.walk(step.source, onerror=note):
        folder = Path(name)
        yield from (folder / file for file in files)
        # os.walk does not follow links to directories.
        yield from (folder / link for link in folders if (folder / link).is_symlink())


def ignore(paths: Iterable[Path], step: Import) -> None:
    """Record files as ignored. Hidden files are recorded only if they are Markdown."""
    step.ignored += [
        path for path in paths if path.suffix.lower() in SUFFIXES or not _is_hidden(path, step.source)
    ]


def _is_hidden(path: Path, source: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(source).parts)
