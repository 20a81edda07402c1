"""What the steps of an import share: their settings, what they count, and the problems that they find."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from .. import markdown
from ..models import Page, Post

MAX_NAMED = 10


class ImportProblemsError(Exception):
    """Nothing is to be imported: roll back. `problems`: one `path:line: what is wrong; what to do` each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Result:
    """What an import did: how many there were of each outcome, and some of the files that it ignored."""

    counts: dict[str, int]
    ignored_files: list[str]


@dataclass
class Import:
    """What all steps share. existing: refuse, skip or update what the blog has with other content.

    ignored: the files that are not imported, though nothing is wrong with them.
    """

    session: Session
    source: Path
    existing: str
    counts: Counter[str]
    problems: list[str] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)

    def is_wanted(self, changed: bool, row: Post | Page) -> bool:
        """Count what becomes of something that the blog has; tell whether it is to be written."""
        if not changed and (self.existing != "update" or is_rendered(row)):
            self.counts["unchanged"] += 1
            return False
        wanted = self.existing == "update"
        self.counts["updated" if wanted else "skipped"] += 1
        return wanted

    def refuse(self, path: Path, line: int, kind: str, slug: str) -> None:
        """Report what the blog has with other content, when that is to be refused."""
        if self.existing == "refuse":
            self.problems.append(
                f"{path}:{line}: the blog has a {kind} {slug!r} with other content; "
                "choose --existing update to replace it or --existing skip to keep it"
            )

    def stop_at_problems(self) -> None:
        """Raise ImportProblemsError when there is any."""
        if self.problems:
            raise ImportProblemsError(self.problems)

    def result(self) -> Result:
        """Return the result, with the first ignored file of each kind, the most frequent kind first."""
        self.counts["ignored"] = len(self.ignored)
        kinds = Counter(path.suffix.lower() for path in self.ignored)
        first = {path.suffix.lower(): path for path in reversed(self.ignored)}
        named = sorted(first, key=lambda suffix: (-kinds[suffix], first[suffix]))[:MAX_NAMED]
        files = [str(first[suffix].relative_to(self.source)) for suffix in named]
        return Result(dict(self.counts), files)


def is_rendered(text: Post | Page) -> bool:
    """Tell whether the stored HTML is what this release makes of the text."""
    return text.body_html == markdown.render(text.body).html
