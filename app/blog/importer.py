"""Markdown files or an exported site into the blog: all of it or, with a list of every problem, nothing.

A file is read twice, first to find problems and then to be written, so that memory holds a few texts at a
time, however many there are.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload, undefer

from . import articles, markdown, media, pages
from .articles import Article, ArticleError, NoFrontMatterError, PageText
from .exporter import COMMENT_FIELDS, FORMAT, MARKER, MEDIA_FIELDS
from .models import COMMENT_STATES, Comment, Media, Page, Post, PostAlias, Tag

OUTCOMES = ("created", "updated", "skipped", "unchanged", "ignored")
SUFFIXES = (".md", ".markdown", ".mdown", ".mdwn", ".mkd", ".mkdn")  # in upper case as well
MAX_NAMED = 10

# How many texts are in memory at a time: so many, or fewer that have so many characters.
_BATCH = 25
_BATCH_CHARACTERS = 1024 * 1024

_DRAFTS = {"_drafts", "drafts", "Drafts"}  # the folders where other programs keep them

_Text = TypeVar("_Text", Article, PageText)
_Row = TypeVar("_Row", Post, Page)
_Entry = TypeVar("_Entry", Comment, Media)


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
class _Import:
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
        if not changed and (self.existing != "update" or _is_rendered(row)):
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


def import_posts(session: Session, source: Path, *, existing: str, default_author: str) -> Result:
    """Add the posts of a Markdown file, or of every one below a directory; the caller commits.

    existing: what to do with a slug that the blog has with other content: refuse, skip or update.
    default_author: for files that name nobody.
    Returns how many posts were created, updated, skipped and found unchanged, and which files were ignored.
    Raises ImportProblemsError when any file has a problem; then the caller must not commit.
    """
    step = _Import(session, source, existing, Counter(dict.fromkeys(OUTCOMES, 0)))
    posts = _Posts(
        step,
        lambda path: articles.read(path, default_author, draft=not _DRAFTS.isdisjoint(path.parent.parts)),
    )
    posts.check(_files(step))
    _check_addresses(posts.found, step)
    step.stop_at_problems()
    posts.write()
    return step.result()


def import_site(
    session: Session, source: Path, *, existing: str, default_author: str, media_dir: Path
) -> Result:
    """Add everything that `flask export` wrote to the directory `source`; the caller commits.

    media_dir: where the pictures go. The other arguments are those of `import_posts`.
    Returns its numbers, of posts and pages together, and how many comments and pictures (media) were added.
    Raises as `import_posts` does, and OSError when a picture cannot be written.
    """
    step = _Import(session, source, existing, Counter(dict.fromkeys((*OUTCOMES, "comments", "media"), 0)))
    posts = _Posts(step, lambda path: articles.read(path, default_author))
    its_pages = _Pages(step, articles.read_page)
    files = sorted(_walk(step))
    texts, page_texts, comments = (
        [path for path in files if path.parent == source / folder and path.suffix == suffix]
        for folder, suffix in (("posts", ".md"), ("pages", ".md"), ("comments", ".json"))
    )
    posts.check(texts)
    _check_addresses(posts.found, step)
    its_pages.check(page_texts)
    _check_comments(comments, posts.found, step)
    pictures = _read_media(step)
    known = {source / MARKER, *texts, *page_texts, *comments, *(path for path, _ in pictures)}
    _ignore((path for path in files if path not in known), step)
    step.stop_at_problems()
    posts.write()
    its_pages.write()
    _write_comments(comments, step)
    _write_media(pictures, media_dir, step)
    return step.result()


def _files(step: _Import) -> Iterator[Path]:
    """Yield the Markdown files of the source, and note the others."""
    source = step.source
    if not source.exists():
        step.problems.append(f"{source}: does not exist; name a Markdown file, or a directory with some")
        return
    if source.is_file():
        yield source
        return
    paths: list[Path] = []
    others: list[Path] = []
    for path in sorted(_walk(step)):
        is_text = path.suffix.lower() in SUFFIXES and path.is_file() and not _is_hidden(path, source)
        (paths if is_text else others).append(path)
    _ignore(others, step)
    if not paths:
        *most, last = (f"*{suffix}" for suffix in SUFFIXES)
        step.problems.append(
            f"{source}: holds no Markdown (files {', '.join(most)} or {last}); name a directory that does"
        )
    for path in paths:
        if path.resolve().is_relative_to(source.resolve()):
            yield path
        else:
            step.problems.append(
                f"{path}:1: is a link that leads out of {source}; copy the file there instead"
            )


def _walk(step: _Import) -> Iterator[Path]:
    """Yield everything below the source but folders; note the folders that cannot be read."""

    def note(error: OSError) -> None:
        step.problems.append(f"{error.filename}: cannot be read ({error.strerror}); make it readable")

    for name, folders, files in os.walk(step.source, onerror=note):
        folder = Path(name)
        yield from (folder / file for file in files)
        yield from (folder / link for link in folders if (folder / link).is_symlink())  # not followed


def _ignore(paths: Iterable[Path], step: _Import) -> None:
    """Note what is not imported. What is hidden is the business of programs; but a text may be missed."""
    step.ignored += [
        path for path in paths if path.suffix.lower() in SUFFIXES or not _is_hidden(path, step.source)
    ]


def _is_hidden(path: Path, source: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(source).parts)


# Posts and pages


@dataclass(frozen=True)
class _Found:
    """What stays in memory of a file that was read."""

    path: Path
    line: int
    digest: bytes
    aliases: list[str]


class _Texts(Generic[_Text, _Row]):
    """Files that become posts, or pages. found: those that were read, by slug."""

    kind: ClassVar[str]
    model: ClassVar[type]

    def __init__(self, step: _Import, read: Callable[[Path], _Text]) -> None:
        self.step = step
        self._read: Callable[[Path], _Text] = read
        self.found: dict[str, _Found] = {}

    def check(self, paths: Iterable[Path]) -> None:
        """Read files; note what is wrong with them, and slugs that two of them have."""
        for batch in self._batches(paths):
            rows = self._rows(batch) if self.step.existing == "refuse" else {}
            for path, text in batch:
                if text.slug in self.found:
                    other = self.found[text.slug].path
                    self.step.problems.append(
                        f"{path}:{text.slug_line}: has the slug of {other}, {text.slug!r}; change one"
                    )
                    continue
                self._note(path, text)
                if text.slug in rows and self._differs(rows[text.slug], text):
                    self.step.refuse(path, text.slug_line, self.kind, text.slug)

    def write(self) -> None:
        """Write what `check` found, read again. Raises ImportProblemsError when it has changed since."""
        for batch in self._batches(found.path for found in self.found.values()):
            rows = self._rows(batch)
            for path, text in batch:
                found = self.found.get(text.slug)
                if found is None or found.digest != _digest(text):
                    self.step.problems.append(f"{path}:1: changed while it was imported; import again")
                    continue
                row = rows.get(text.slug)
                changed = row is None or self._differs(row, text)
                if row is None:
                    rows[text.slug] = row = self.model(slug=text.slug)
                    self.step.session.add(row)
                    self.step.counts["created"] += 1
                else:
                    if changed:
                        self.step.refuse(path, text.slug_line, self.kind, text.slug)
                    if not self.step.is_wanted(changed, row):
                        continue
                self._fill(row, text, changed)
            self.step.stop_at_problems()
            self.step.session.flush()
            for row in rows.values():
                self.step.session.expunge(row)

    def _note(self, path: Path, text: _Text) -> None:
        """Keep what the other steps need of a file."""
        self.found[text.slug] = _Found(path, text.slug_line, _digest(text), getattr(text, "aliases", []))

    def _batches(self, paths: Iterable[Path]) -> Iterator[list[tuple[Path, _Text]]]:
        """Yield the texts of files, a few at a time; note what is wrong with them."""
        batch: list[tuple[Path, _Text]] = []
        for path in paths:
            try:
                text = self._read(path)
            except NoFrontMatterError as error:
                if path.stem.lower() == "readme" and path != self.step.source:
                    self.step.ignored.append(path)
                else:
                    self._report(path, error)
            except ArticleError as error:
                self._report(path, error)
            except OSError as error:
                self.step.problems.append(f"{path}:1: cannot be read ({error.strerror}); make it readable")
            else:
                batch.append((path, text))
            if len(batch) == _BATCH or sum(len(text.body) for _, text in batch) > _BATCH_CHARACTERS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _report(self, path: Path, error: ArticleError) -> None:
        self.step.problems += [f"{path}:{line}: {text}" for line, text in error.problems]

    def _rows(self, batch: list[tuple[Path, _Text]]) -> dict[str, _Row]:
        """Return what the blog has already under the slugs of a batch."""
        raise NotImplementedError

    def _differs(self, row: _Row, text: _Text) -> bool:
        raise NotImplementedError

    def _fill(self, row: _Row, text: _Text, changed: bool) -> None:
        raise NotImplementedError


class _Posts(_Texts[Article, Post]):
    kind = "post"
    model = Post

    def __init__(self, step: _Import, read: Callable[[Path], Article]) -> None:
        super().__init__(step, read)
        self.tag_names: dict[str, str] = {}
        self.tags: dict[str, Tag] = {}

    def write(self) -> None:
        known = self.step.session.scalars(select(Tag).where(Tag.slug.in_(self.tag_names)))
        self.tags = {tag.slug: tag for tag in known}
        for slug in sorted(self.tag_names.keys() - self.tags.keys()):
            self.tags[slug] = Tag(slug=slug, name=self.tag_names[slug])
        super().write()

    def _note(self, path: Path, text: Article) -> None:
        super()._note(path, text)
        self.tag_names |= text.tags

    def _rows(self, batch: list[tuple[Path, Article]]) -> dict[str, Post]:
        query = select(Post).where(Post.slug.in_([text.slug for _, text in batch]))
        query = query.options(undefer(Post.body), selectinload(Post.tags), selectinload(Post.aliases))
        if self.step.existing == "update":
            query = query.options(undefer(Post.body_html))
        return {post.slug: post for post in self.step.session.scalars(query)}

    def _differs(self, row: Post, text: Article) -> bool:
        return (
            any(
                getattr(row, name) != getattr(text, name)
                for name in ("title", "body", "author", "published_at")
            )
            or row.summary != _summary(text)
            or {tag.slug for tag in row.tags} != text.tags.keys()
            or not {alias.slug for alias in row.aliases} >= set(text.aliases)
            or text.updated_at not in (None, row.updated_at)
        )

    def _fill(self, row: Post, text: Article, changed: bool) -> None:
        is_new = row.id is None
        for name in ("title", "body", "author", "published_at"):
            setattr(row, name, getattr(text, name))
        row.summary = _summary(text)
        if is_new:
            row.updated_at = text.updated_at or text.published_at or datetime.now(UTC)
        elif changed:
            row.updated_at = text.updated_at or datetime.now(UTC)
        row.tags = [self.tags[slug] for slug in text.tags]
        known = {alias.slug for alias in row.aliases}
        row.aliases += [PostAlias(slug=alias) for alias in text.aliases if alias not in known]


class _Pages(_Texts[PageText, Page]):
    kind = "page"
    model = Page

    def _note(self, path: Path, text: PageText) -> None:
        super()._note(path, text)
        if not pages.is_free_page_slug(text.slug):
            self.step.problems.append(
                f"{path}:{text.slug_line}: /{text.slug} is an address of the blog itself; change the slug"
            )

    def _rows(self, batch: list[tuple[Path, PageText]]) -> dict[str, Page]:
        query = select(Page).where(Page.slug.in_([text.slug for _, text in batch]))
        query = query.options(undefer(Page.body), undefer(Page.body_html))
        return {page.slug: page for page in self.step.session.scalars(query)}

    def _differs(self, row: Page, text: PageText) -> bool:
        return (row.title, row.body, row.position) != (text.title, text.body, text.position) or (
            text.updated_at not in (None, row.updated_at)
        )

    def _fill(self, row: Page, text: PageText, changed: bool) -> None:
        row.title, row.body, row.position = text.title, text.body, text.position
        row.updated_at = text.updated_at or row.updated_at or datetime.now(UTC)


def _summary(article: Article) -> str:
    return article.summary or markdown.render(article.body).summary


def _digest(text: Article | PageText) -> bytes:
    return hashlib.sha256(repr(text).encode()).digest()


def _is_rendered(text: Post | Page) -> bool:
    """Tell whether the stored HTML is what this release makes of the text."""
    return text.body_html == markdown.render(text.body).html


def _check_addresses(found: dict[str, _Found], step: _Import) -> None:
    """Note what would make an address lead to two posts."""
    owners = {slug: slug for slug in found}
    wanted = owners.keys() | {alias for file in found.values() for alias in file.aliases}
    owners |= {slug: slug for slug in step.session.scalars(select(Post.slug).where(Post.slug.in_(wanted)))}
    aliases = select(PostAlias.slug, Post.slug).join(Post).where(PostAlias.slug.in_(wanted))
    for alias, owner in step.session.execute(aliases):
        if alias in found:
            file = found[alias]
            step.problems.append(
                f"{file.path}:{file.line}: the slug {alias!r} is an old address of {owner!r}; change it"
            )
        owners.setdefault(alias, owner)
    for slug, file in found.items():
        for alias in file.aliases:
            if owners.setdefault(alias, slug) != slug or alias == slug:
                step.problems.append(
                    f"{file.path}:{file.line}: the alias {alias!r} is an address of "
                    f"{owners[alias]!r}; remove it"
                )


# Comments and pictures, as the exporter wrote them


def _check_comments(paths: list[Path], posts: dict[str, _Found], step: _Import) -> None:
    for path in paths:
        if path.stem not in posts:
            step.problems.append(f"{path}:1: belongs to no post of this export; remove it")
        for _ in _comments(path, step):
            pass


def _comments(path: Path, step: _Import) -> Iterator[Comment]:
    return _entries(path, _json(path, step), _comment, step)


def _read_media(step: _Import) -> list[tuple[Path, Media]]:
    marker = step.source / MARKER
    site = _json(marker, step)
    if not isinstance(site, dict) or site.get("format") != FORMAT:
        step.problems.append(f"{marker}:1: is not of the format {FORMAT}; export again with this release")
        return []
    pictures = []
    for picture in _entries(marker, site.get("media"), _picture, step):
        path = step.source / "media" / picture.name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            step.problems.append(f"{path}:1: cannot be read ({error.strerror}); bring it back")
        else:
            if not digest.startswith(picture.name.partition("-")[0]):
                step.problems.append(f"{path}:1: is damaged: its content does not fit its name; replace it")
            pictures.append((path, picture))
    return pictures


def _json(path: Path, step: _Import) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        step.problems.append(f"{path}:1: cannot be read ({error.strerror}); make it readable")
    except (ValueError, RecursionError):
        step.problems.append(f"{path}:1: is not JSON; export again")
    return []


def _entries(
    path: Path, rows: object, make: Callable[[dict[str, Any]], _Entry], step: _Import
) -> Iterator[_Entry]:
    """Make something of each entry of a list, and note the entries that are not what they should be."""
    for number, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
        try:
            yield make(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            step.problems.append(f"{path}:1: entry {number} is not as an export has it; export again")


def _comment(row: dict[str, Any]) -> Comment:
    """Raises KeyError, TypeError or ValueError when `row` is no comment."""
    comment = Comment(**{name: row[name] for name in COMMENT_FIELDS}, created_at=_moment(row))
    if comment.state not in COMMENT_STATES:
        raise ValueError
    _refuse_control_characters(comment.author, comment.body, comment.email or "")
    return comment


def _picture(row: dict[str, Any]) -> Media:
    """Raises KeyError, TypeError or ValueError when `row` is no picture."""
    picture = Media(**{name: row[name] for name in MEDIA_FIELDS}, created_at=_moment(row))
    if not re.fullmatch(media.NAME, picture.name):
        raise ValueError
    for number in (picture.width, picture.height, picture.size_bytes):
        if type(number) is not int or not 0 < number < 2**31:
            raise ValueError
    _refuse_control_characters(picture.mime, picture.original_name, picture.alt)
    return picture


def _refuse_control_characters(*texts: str) -> None:
    if any(articles.CONTROL_CHARACTER.search(text) for text in texts):
        raise ValueError


def _moment(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["created_at"]).astimezone(UTC)


def _write_comments(paths: list[Path], step: _Import) -> None:
    for path in paths:
        post_id = step.session.scalars(select(Post.id).where(Post.slug == path.stem)).one()
        old = select(Comment.created_at, Comment.author, Comment.body).where(Comment.post_id == post_id)
        known = {tuple(row) for row in step.session.execute(old)}
        for comment in _comments(path, step):
            if (comment.created_at, comment.author, comment.body) not in known:
                comment.post_id = post_id
                step.session.add(comment)
                step.counts["comments"] += 1
        step.stop_at_problems()
        step.session.flush()


def _write_media(pictures: list[tuple[Path, Media]], media_dir: Path, step: _Import) -> None:
    names = [picture.name for _, picture in pictures]
    known = set(step.session.scalars(select(Media.name).where(Media.name.in_(names))))
    media_dir.mkdir(parents=True, exist_ok=True)
    for path, picture in pictures:
        target = media_dir / picture.name
        if not target.exists():
            partial = target.with_name(f".{picture.name}")
            shutil.copyfile(path, partial)
            partial.chmod(0o644)  # for the web server, which is another user
            partial.rename(target)
        if picture.name not in known:
            step.session.add(picture)
            step.counts["media"] += 1
