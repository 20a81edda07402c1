"""The state that the steps of an import share: settings, counts and problems."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from .. import markdown
from ..models import Page, Post

MAX_NAMED = 10


class ImportProblemsError(Exception):
    """Nothing can be imported, and the caller rolls back.

    problems: lines of the form `path:line: the problem; the correction`.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Result:
    """The number of files with each outcome, and some of the ignored files."""

    counts: dict[str, int]
    ignored_files: list[str]


@dataclass
class Import:
    """The state that all steps share.

    existing: refuse, skip or update a slug that the blog has with other content.
    ignored: the files that are not imported although they have no problem.
    """

    session: Session
    source: Path
    existing: str
    counts: Counter[str]
    problems: list[str] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)

    def is_wanted(self, changed: bool, row: Post | Page) -> bool:
        """Count the outcome for a row that exists already, and tell whether the import writes it."""
        if not changed and (self.existing != "update" or is_rendered(row)):
            self.counts["unchanged"] += 1
            return False
        wanted = self.existing == "update"
        self.counts["updated" if wanted else "skipped"] += 1
        return wanted

    def refuse(self, path: Path, line: int, kind: str, slug: str) -> None:
        """Report a slug that the blog has with other content, if the import refuses such slugs."""
        if self.existing == "refuse":
            self.problems.append(
                f"{path}:{line}: the blog has a {kind} {slug!r} with other content; "
                "choose --existing update to replace it or --existing skip to keep it"
            )

    def stop_at_problems(self) -> None:
        """Raise ImportProblemsError if there is a problem."""
        if self.problems:
            raise ImportProblemsError(self.problems)

    def result(self) -> Result:
        """Return the result. It names one ignored file of each type, the most frequent type first."""
        self.counts["ignored"] = len(self.ignored)
        kinds = Counter(path.suffix.lower() for path in self.ignored)
        first = {path.suffix.lower(): path for path in reversed(self.ignored)}
        named = sorted(first, key=lambda suffix: (-kinds[suffix], first[suffix]))[:MAX_NAMED]
        files = [str(first[suffix].relative_to(self.source)) for suffix in named]
        return Result(dict(self.counts), files)


def is_rendered(text: Post | Page) -> bool:
    """Tell whether the stored HTML is the HTML that this release renders."""
    return text.body_html == markdown.render(text.body).html
