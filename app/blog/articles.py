"""One Markdown file and its front matter: YAML between `---` lines, or Pelican's `Key: value` lines."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from . import markdown

MAX_BYTES = 1024 * 1024
SLUG = r"[A-Za-z0-9][A-Za-z0-9._~-]{0,199}"

# Postgres refuses NUL; XML, and so the feed, refuses all of these.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_YAML_BLOCK = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_PELICAN_LINE = re.compile(r"([A-Za-z][\w-]*):(?:[ \t]+(.*))?")
_SYNONYMS = {
    "authors": "author",
    "categories": "category",
    "description": "summary",
    "modified": "updated",
}


class ArticleError(Exception):
    """The file cannot become a post. `problems`: (line, what is wrong; what to do) pairs."""

    def __init__(self, *problems: tuple[int, str]) -> None:
        super().__init__(*problems)
        self.problems = problems


@dataclass(frozen=True)
class Article:
    """What a file says. `tags`: names by slug; `published_at`: None for a draft; `slug_line`: for reports."""

    slug: str
    slug_line: int
    title: str
    summary: str
    body: str
    author: str
    published_at: datetime | None
    updated_at: datetime | None
    tags: dict[str, str]


@dataclass(frozen=True)
class _Field:
    values: list[str]
    line: int

    @property
    def text(self) -> str:
        return ", ".join(self.values)


_Fields = dict[str, _Field]


def read(path: Path, default_author: str) -> Article:
    """Read the file at `path`; `default_author` is for a file that names nobody.

    Raises ArticleError with every problem of the file, and OSError when it cannot be read.
    """
    text = _text(path)
    fields, body, body_line = _split(text)
    problems: list[tuple[int, str]] = []

    title = fields.get("title", _Field([], 1))
    if not title.text:
        problems.append((title.line, "has no title; add a line `title: ...` to its front matter"))
    if not body:
        problems.append((body_line, "has no text after its front matter; write some"))

    draft = _is_draft(fields, problems)
    published_at = _date(fields, "date", problems)
    if "date" not in fields and not draft:
        problems.append((1, "has no date; add a line `date: 2026-01-31`, or `status: draft`"))
    updated_at = _date(fields, "updated", problems)

    slug_field = fields.get("slug") or title
    slug = _slug(fields, path, slug_field.line, problems)
    tags = _tags(fields, problems)
    if problems:
        raise ArticleError(*sorted(problems))
    return Article(
        slug=slug,
        slug_line=slug_field.line,
        title=title.text,
        summary=fields["summary"].text if "summary" in fields else markdown.render(body).summary,
        body=body,
        author=fields["author"].text if "author" in fields else default_author,
        published_at=None if draft else published_at,
        updated_at=updated_at,
        tags=tags,
    )


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ArticleError(
            (1, f"has {size} bytes, over the limit of {MAX_BYTES}; split it into several posts")
        )
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8 (byte {error.start} of the file); save it as UTF-8"
        raise ArticleError((line, problem)) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if found := _CONTROL_CHARACTER.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ArticleError((line, f"holds the control character U+{ord(found[0]):04X}; remove it"))
    return text


def _split(text: str) -> tuple[_Fields, str, int]:
    """Return the front matter, the body, and the line that the body begins at."""
    if match := _YAML_BLOCK.match(text):
        fields, end = _yaml_fields(match[1]), match.end()
    elif re.match(r"---[ \t]*\n", text):
        raise ArticleError((1, "opens a front matter that never ends; close it with a line `---`"))
    elif _PELICAN_LINE.match(text):
        header, _, _ = text.partition("\n\n")
        fields, end = _pelican_fields(header), len(header)
    else:
        raise ArticleError((1, "has no front matter; begin it with a `---` block that holds title and date"))
    return fields, text[end:].strip("\n"), text.count("\n", 0, end) + 1


def _yaml_fields(text: str) -> _Fields:
    first_line = 2  # below the opening ---
    try:
        # Nodes know their lines, and stay the strings that were written.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + first_line if mark else first_line
        what = getattr(error, "problem", None) or "it cannot be read"
        raise ArticleError(
            (line, f"front matter is not YAML: {what}; correct it, or put the value in quotes")
        ) from error
    except RecursionError as error:
        raise ArticleError(
            (first_line, "front matter nests too deeply; use plain `key: value` lines")
        ) from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ArticleError((first_line, "front matter is no list of keys; write `key: value` lines"))
    fields: _Fields = {}
    for key, value in root.value:
        nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
        values = [node.value for node in nodes if isinstance(node, yaml.ScalarNode)]
        _add(fields, str(key.value), values, key.start_mark.line + first_line)
    return fields


def _pelican_fields(header: str) -> _Fields:
    fields: _Fields = {}
    name = ""
    for number, line in enumerate(header.split("\n"), start=1):
        if match := _PELICAN_LINE.fullmatch(line):
            name = match[1]
            _add(fields, name, [match[2] or ""], number)
        elif line.startswith("    ") and name:  # a value may go on, indented
            _add(fields, name, [line], number)
        else:
            raise ArticleError((number, "is no `Key: value` line; end the header with an empty line"))
    return fields


def _add(fields: _Fields, name: str, values: list[str], line: int) -> None:
    name = _SYNONYMS.get(name.lower(), name.lower())
    before = fields.get(name, _Field([], line))
    clean = [" ".join(value.split()) for value in values]
    if joined := [*before.values, *filter(None, clean)]:
        fields[name] = _Field(joined, before.line)


def _is_draft(fields: _Fields, problems: list[tuple[int, str]]) -> bool:
    status = fields.get("status", _Field(["published"], 1))
    if status.text.lower() not in ("published", "draft"):
        problems.append((status.line, f"has the status {status.text!r}; write `published` or `draft`"))
    return status.text.lower() == "draft" or ("draft" in fields and fields["draft"].text.lower() == "true")


def _date(fields: _Fields, name: str, problems: list[tuple[int, str]]) -> datetime | None:
    if (found := fields.get(name)) is None:
        return None
    try:
        moment = datetime.fromisoformat(re.sub(r"\s+(?=[+-]\d)", "", found.text))  # Jekyll: 10:00 +0200
    except ValueError:
        problems.append(
            (found.line, f"has the {name} {found.text!r}; write it like 2026-01-31 or 2026-01-31 16:08")
        )
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _slug(fields: _Fields, path: Path, line: int, problems: list[tuple[int, str]]) -> str:
    if "slug" in fields:
        slug = fields["slug"].text
    else:
        title = fields["title"].text if "title" in fields else ""
        slug = (markdown.slugify(title) or markdown.slugify(path.stem))[:100].strip("-")
    if not re.fullmatch(SLUG, slug):
        problems.append(
            (line, f"cannot have the slug {slug!r}; set `slug:` to letters, digits and -._~ of ASCII")
        )
    return slug


def _tags(fields: _Fields, problems: list[tuple[int, str]]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for key in ("tags", "category"):
        found = fields.get(key, _Field([], 1))
        for name in filter(None, (part.strip() for value in found.values for part in value.split(","))):
            slug = markdown.slugify(name)
            if not re.fullmatch(SLUG, slug):
                problems.append(
                    (
                        found.line,
                        f"has the tag {name!r}; its address needs 1 to 200 letters or digits of ASCII",
                    )
                )
            tags.setdefault(slug, name)
    return tags
