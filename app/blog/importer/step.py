"""The state of an import that all its steps share: settings, counts and problems."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from .. import markdown
from ..models import Page, Post

MAX_NAMED = 10


class ImportProblemsError(Exception):
    """At least one file has a problem, so nothing may be imported. The caller must roll back.

    problems: texts of the form `path:line: the problem; the correction`.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Result:
    """The numbers of files by outcome, and of added comments and pictures; names of some ignored files."""

    counts: dict[str, int]
    ignored_files: list[str]


@dataclass
class Import:
    """The state of an import.

    existing: what to do if the blog has a text with the same slug but other content: `refuse`, `skip` or
        `update`.
    ignored: files that have no problem but are not imported, for example a README.
    """

    session: Session
    source: Path
    existing: str
    counts: Counter[str]
    problems: list[str] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)

    def is_wanted(self, changed: bool, row: Post | Page) -> bool:
        """Count the outcome for a row that exists already. Tell whether the import writes the row."""
        if not changed and (self.existing != "update" or is_rendered(row)):
            self.counts["unchanged"] += 1
            return False
        wanted = self.existing == "update"
        self.counts["updated" if wanted else "skipped"] += 1
        return wanted

    def refuse(self, path: Path, line: int, kind: str, slug: str) -> None:
        """If `existing` is `refuse`, report that the blog has a text with this slug but other content."""
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
        """Return the result, with the name of one ignored file of each type, the most frequent type first."""
        self.counts["ignored"] = len(self.ignored)
        kinds = Counter(path.suffix.lower() for path in self.ignored)
        first = {path.suffix.lower(): path for path in reversed(self.ignored)}
        named = sorted(first, key=lambda suffix: (-kinds[suffix], first[suffix]))[:MAX_NAMED]
        files = [str(first[suffix].relative_to(self.source)) for suffix in named]
        return Result(dict(self.counts), files)


def is_rendered(text: Post | Page) -> bool:
    """Tell whether the stored HTML is what this release renders.

    A text that cannot be rendered counts as rendered: another attempt would fail too.
    """
    try:
        return text.body_html == markdown.render(text.body).html
    except markdown.RenderError:
        return True
