"""Markdown files with front matter: YAML between `---` lines, or Pelican's `Key: value` lines.

`read` and `read_page` return exactly what `write` wrote.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from . import tags
from .languages import is_language
from .models import CONTROL_CHARACTER, GUID, MAX_BYTES
from .names import SLUG_CHARACTERS, former_slugify, is_slug, slugify

MAX_TAG_CHARACTERS = 200
MAX_FILE_BYTES = MAX_BYTES + 64 * 1024  # the limit for a text with its front matter
_YAML_BLOCK = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_PELICAN_LINE = re.compile(r"([A-Za-z][\w-]*):(?:[ \t]+(.*))?")
_SYNONYMS = {
    "authors": "author",
    "categories": "category",
    "description": "summary",
    "isdraft": "draft",
    "language": "lang",
    "modified": "updated",
    "pubdate": "publishdate",
    "redirectfrom": "aliases",
}

# Fields that control who may read a post, with their values for a public post and for a draft. Error messages
# suggest the first value of each tuple.
_YES, _NO = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")
_AUDIENCE = {
    "draft": (_NO, _YES),
    "private": (_NO, _YES),
    "public": (_YES, _NO),
    "publish": (_YES, _NO),
    "published": (_YES, _NO),
    "status": (("published", "publish", "public"), ("draft", "private", "pending", "skip")),
    "visibility": (("public",), ("private", "draft")),
}
# Fields that restrict access in ways that the blog does not support. A post with such a field is refused
# unless it is a draft, because its author does not want everybody to read it.
_RESTRICTIONS = (
    *("expires", "expirydate", "expiredate", "expirationdate", "unpublishdate"),
    *("headless", "hidden", "password", "unlisted"),
)


class ArticleError(Exception):
    """The file cannot be imported. `problems` has pairs: (line number, "the problem; the correction")."""

    def __init__(self, *problems: tuple[int, str]) -> None:
        super().__init__(*problems)
        self.problems = problems


class NoFrontMatterError(ArticleError):
    """The file has no front matter."""


@dataclass(frozen=True)
class Article:
    """The content of a post's file.

    slug_line: the line to report for a problem with the slug. former_slug: the slug that older releases made
    from the title, or None if the file has a slug. summary, language: empty if the file has none.
    guid: the id of the post in feeds, or None if the file has none.
    published_at: None for a draft. planned_at: the date of a draft, if the file has one.
    tags: the names of the tags. aliases: former slugs of the post.
    """

    slug: str
    slug_line: int
    former_slug: str | None
    title: str
    summary: str
    body: str
    language: str
    author: str
    guid: str | None
    published_at: datetime | None
    planned_at: datetime | None
    updated_at: datetime | None
    tags: list[str]
    aliases: list[str]


@dataclass(frozen=True)
class PageText:
    """The content of a page's file."""

    slug: str
    slug_line: int
    title: str
    body: str
    position: int
    updated_at: datetime | None


@dataclass(frozen=True)
class _Field:
    values: list[str]
    line: int

    @property
    def text(self) -> str:
        return ", ".join(self.values)


_Fields = dict[str, _Field]
_NONE = _Field([], 1)
FrontMatter = str | int | list[str] | datetime


def read(path: Path, default_author: str, *, draft: bool = False) -> Article:
    """Read a post from the file at `path`.

    default_author: the author of a file that does not name an author.
    draft: if it is True, the post becomes a draft whatever the file says.
    Raises ArticleError with the problems of the file, and OSError if the file cannot be read.
    """
    problems: list[tuple[int, str]] = []
    fields, title, body = _parts(path, problems)

    draft = _is_draft(fields, problems, draft)
    # The post appears on the later of the two dates.
    moments = [_date(fields, name, problems) for name in ("date", "publishdate")]
    date = max(filter(None, moments), default=None)
    if not draft and not any(name in fields and fields[name].text for name in ("date", "publishdate")):
        problems.append((1, "has no date; add a line `date: 2026-01-31`, or `status: draft`"))
    updated_at = _date(fields, "updated", problems)

    slug, slug_line = _slug(fields, path, title, problems)
    language = _language(fields, problems)
    names_of_tags = _tags(fields, problems)
    aliases = _aliases(fields, problems)
    guid = _guid(fields, problems)
    if problems:
        raise ArticleError(*sorted(problems))
    return Article(
        slug=slug,
        slug_line=slug_line,
        former_slug=None if fields.get("slug", _NONE).text else _slug_of(title.text, path, former_slugify),
        title=title.text,
        summary=fields.get("summary", _NONE).text,
        body=body,
        language=language,
        author=fields["author"].text if "author" in fields else default_author,
        guid=guid,
        published_at=None if draft else date,
        planned_at=date if draft else None,
        updated_at=updated_at,
        tags=names_of_tags,
        aliases=aliases,
    )


def read_page(path: Path) -> PageText:
    """Read a page from the file at `path`. Raises the same errors as `read`."""
    problems: list[tuple[int, str]] = []
    fields, title, body = _parts(path, problems)
    slug, slug_line = _slug(fields, path, title, problems)
    updated_at = _date(fields, "updated", problems)
    if _is_draft(fields, problems):
        problems.append((1, "is a draft, but a page cannot be a draft; remove the file, or its draft field"))
    position = fields.get("position", _Field(["0"], 1))
    if not re.fullmatch(r"-?[0-9]{1,9}", position.text):
        problems.append(
            (position.line, f"has the position {position.text!r}; write a whole number, such as 0")
        )
    if problems:
        raise ArticleError(*sorted(problems))
    return PageText(slug, slug_line, title.text, body, int(position.text), updated_at)


def write(fields: Mapping[str, FrontMatter], body: str) -> str:
    """Return the text of a file with these fields as front matter. All times in it are in UTC."""
    plain = {name: utc(value) if isinstance(value, datetime) else value for name, value in fields.items()}
    front_matter = yaml.safe_dump(plain, allow_unicode=True, sort_keys=False, width=float("inf"))
    return f"---\n{front_matter}---\n\n{body.strip(chr(10))}\n"


def utc(moment: datetime) -> str:
    """Return a time as in the files: in UTC, with microseconds if they are not 0: 2026-01-31T16:08:00Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _parts(path: Path, problems: list[tuple[int, str]]) -> tuple[_Fields, _Field, str]:
    """Return the front matter, the title in it, and the body of a file."""
    fields, body, body_line = _split(_text(path))
    title = fields.get("title", _NONE)
    if not title.text:
        problems.append((title.line, "has no title; add a line `title: ...` to its front matter"))
    if not body:
        problems.append((body_line, "has no text after its front matter; write the text"))
    elif len(body.encode()) > MAX_BYTES:
        problems.append((body_line, f"has a text over the limit of {MAX_BYTES} bytes; split it"))
    return fields, title, body


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ArticleError(
            (1, f"has {size} bytes, over the limit of {MAX_FILE_BYTES}; split it into several posts")
        )
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8 (byte {error.start} of the file); save it as UTF-8"
        raise ArticleError((line, problem)) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if found := CONTROL_CHARACTER.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ArticleError((line, f"contains the control character U+{ord(found[0]):04X}; remove it"))
    return text


def _split(text: str) -> tuple[_Fields, str, int]:
    """Return the front matter, the body, and the line on which the body begins."""
    if match := _YAML_BLOCK.match(text):
        fields, end = _yaml_fields(match[1]), match.end()
    elif re.match(r"---[ \t]*\n", text):
        raise ArticleError((1, "begins front matter that never ends; close it with a line `---`"))
    elif _PELICAN_LINE.match(text):
        header, _separator, _body = text.partition("\n\n")
        fields, end = _pelican_fields(header), len(header)
    else:
        raise NoFrontMatterError(
            (1, "has no front matter; begin it with a `---` block that contains title and date")
        )
    return fields, text[end:].strip("\n"), text.count("\n", 0, end) + 1


def _yaml_fields(text: str) -> _Fields:
    first_line = 2  # line 1 of the file is the opening ---
    try:
        # Use compose instead of load: its nodes have line numbers, and their values are still strings.
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
        raise ArticleError((first_line, "front matter does not consist of keys; write `key: value` lines"))
    fields: _Fields = {}
    for key, value in root.value:
        line = key.start_mark.line + first_line
        if key.value == "<<":
            raise ArticleError((line, "contains the YAML merge key `<<`; write every field out instead"))
        nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
        values = [node.value for node in nodes if isinstance(node, yaml.ScalarNode)]
        _add(fields, str(key.value), values, line)
    return fields


def _pelican_fields(header: str) -> _Fields:
    fields: _Fields = {}
    name = ""
    for number, line in enumerate(header.split("\n"), start=1):
        if match := _PELICAN_LINE.fullmatch(line):
            name = match[1]
            _add(fields, name, [match[2] or ""], number)
        elif line.startswith("    ") and name:  # an indented line continues the value
            _add(fields, name, [line], number)
        else:
            raise ArticleError((number, "is not a `Key: value` line; end the header with an empty line"))
    return fields


def _add(fields: _Fields, name: str, values: list[str], line: int) -> None:
    name = re.sub("[-_]", "", name.lower())  # publishDate and publish_date become publishdate
    name = _SYNONYMS.get(name, name)
    before = fields.get(name, _Field([], line))
    clean = [" ".join(value.split()) for value in values]
    fields[name] = _Field([*before.values, *filter(None, clean)], before.line)


def _is_draft(fields: _Fields, problems: list[tuple[int, str]], draft: bool = False) -> bool:
    """Tell whether the post is a draft. Report unknown values, because the author may mean a draft."""
    for name, (public, held_back) in _AUDIENCE.items():
        if name not in fields:
            continue
        found = fields[name]
        if found.text.lower() in held_back:
            draft = True
        elif found.text.lower() not in public:
            choice = " or ".join(f"`{value}`" for value in (public[0], held_back[0]))
            problems.append(
                (found.line, f"has the unknown value {found.text!r} in the field {name}; write {choice}")
            )
    if not draft:
        advice = "which the blog does not support; write `status: draft`, or remove the line"
        problems += [
            (fields[name].line, f"has the field {name}, {advice}")
            for name in _RESTRICTIONS
            if name in fields and fields[name].text.lower() not in ("", *_NO)
        ]
    return draft


def _date(fields: _Fields, name: str, problems: list[tuple[int, str]]) -> datetime | None:
    found = fields.get(name, _NONE)
    if not found.text:
        return None
    wrong = f"has a date that is not valid in the field {name}: {found.text!r}"
    try:
        # Jekyll writes a space before the offset: 10:00 +0200.
        moment = datetime.fromisoformat(re.sub(r"\s+(?=[+-]\d)", "", found.text))
    except ValueError:
        problems.append((found.line, f"{wrong}; write it like 2026-01-31 or 2026-01-31 16:08"))
        return None
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        problems.append((found.line, f"{wrong}; in UTC, the year must be from 1 to 9999"))
        return None


def _slug(fields: _Fields, path: Path, title: _Field, problems: list[tuple[int, str]]) -> tuple[str, int]:
    """Return the slug, and the line to report for a problem with it."""
    slug, line = fields.get("slug", _Field([], title.line)).text, fields.get("slug", title).line
    if not slug:
        slug = _slug_of(title.text, path, slugify)
    if not is_slug(slug):
        problems.append((line, f"has a slug that is not valid: {slug!r}; set `slug:` to {SLUG_CHARACTERS}"))
    return slug, line


def _slug_of(title: str, path: Path, slugify: Callable[[str], str]) -> str:
    return (slugify(title) or slugify(path.stem))[:100].strip("-")


def _aliases(fields: _Fields, problems: list[tuple[int, str]]) -> list[str]:
    """Return the former slugs. Other programs write whole addresses, so use the last part of each address."""
    found = fields.get("aliases", _NONE)
    aliases = {value.rstrip("/").rpartition("/")[2] for value in found.values}
    for alias in sorted(aliases):
        if not is_slug(alias):
            problems.append((found.line, f"has an alias that is not valid: {alias!r}; use {SLUG_CHARACTERS}"))
    return sorted(aliases)


def _language(fields: _Fields, problems: list[tuple[int, str]]) -> str:
    found = fields.get("lang", _NONE)
    if found.text and not is_language(found.text):
        problems.append(
            (
                found.line,
                f"has a language that is not valid: {found.text!r}; write a tag such as en or pt-BR",
            )
        )
    return found.text


def _guid(fields: _Fields, problems: list[tuple[int, str]]) -> str | None:
    found = fields.get("guid", _NONE)
    if found.text and not re.fullmatch(GUID, found.text):
        advice = "write an absolute URI such as urn:uuid:..., or remove the line"
        problems.append((found.line, f"has a guid that is not valid: {found.text!r}; {advice}"))
    return found.text or None


def _tags(fields: _Fields, problems: list[tuple[int, str]]) -> list[str]:
    names: list[str] = []
    for key in ("tags", "category"):
        found = fields.get(key, _NONE)
        for name in filter(None, (part.strip() for value in found.values for part in value.split(","))):
            if not tags.is_visible_name(name) or len(name) > MAX_TAG_CHARACTERS:
                advice = f"use at most {MAX_TAG_CHARACTERS} characters, at least one of them visible"
                problems.append((found.line, f"has a tag that is not valid: {name!r}; {advice}"))
            names.append(name)
    return tags.unique(names)
