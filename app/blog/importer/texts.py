"""Read the files of posts and pages, compare them with the blog, and write them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import selectinload, undefer

from .. import markdown, tags
from ..front_matter import Article, ArticleError, NoFrontMatterError, PageText
from ..models import Page, Post, PostAlias, Site
from ..names import is_free_page_name
from ..tags import TagBook
from .step import Import

# The limits of a batch of texts in memory: the number of texts, and their total length in characters.
_BATCH = 25
_BATCH_CHARACTERS = 1024 * 1024
_FIELDS = ("title", "body", "language", "author", "published_at")

_Text = TypeVar("_Text", Article, PageText)
_Row = TypeVar("_Row", Post, Page)


@dataclass(frozen=True)
class Found:
    """The data of a file that stays in memory between the first and the second reading."""

    path: Path
    line: int
    digest: bytes
    aliases: list[str]
    guid: str | None


class _Texts(Generic[_Text, _Row]):
    """The files that become posts or pages.

    found: the data of the files that `check` has read, by slug.
    """

    kind: ClassVar[str]
    model: ClassVar[type]

    def __init__(self, step: Import, read: Callable[[Path], _Text]) -> None:
        self.step = step
        self._read: Callable[[Path], _Text] = read
        self.found: dict[str, Found] = {}

    def check(self, paths: Iterable[Path]) -> None:
        """Read the files. Report their problems, and slugs that occur twice."""
        for batch in self._batches(paths):
            rows = self._rows(batch) if self.step.existing == "refuse" else {}
            for path, text in batch:
                if text.slug in self.found:
                    other = self.found[text.slug].path
                    self.step.problems.append(
                        f"{path}:{text.slug_line}: has the same slug as {other}, {text.slug!r}; "
                        "change one slug"
                    )
                    continue
                self._note(path, text)
                if text.slug in rows and self._differs(rows[text.slug], text):
                    self.step.refuse(path, text.slug_line, self.kind, text.slug)

    def write(self) -> None:
        """Read the files a second time, and write their texts into the database.

        Report files that have changed since `check` read them, and texts that cannot be rendered.
        """
        for batch in self._batches(found.path for found in self.found.values()):
            rows = self._rows(batch)
            for path, text in batch:
                found = self.found.get(text.slug)
                if found is None or found.digest != _digest(text):
                    self.step.problems.append(f"{path}:1: changed during the import; import again")
                    continue
                row = rows.get(text.slug)
                changed = row is None or self._differs(row, text)
                if row is not None:
                    if changed:
                        self.step.refuse(path, text.slug_line, self.kind, text.slug)
                    if not self.step.is_wanted(changed, row):
                        continue
                try:
                    markdown.render(text.body)  # `_fill` gets this result from the cache
                except markdown.RenderError as error:
                    self.step.problems.append(f"{path}:{text.slug_line}: {error}")
                    continue
                if row is None:
                    rows[text.slug] = row = self.model(slug=text.slug)
                    self.step.session.add(row)
                    self.step.counts["created"] += 1
                self._fill(row, text, changed)
            self.step.session.flush()
            for row in rows.values():
                self.step.session.expunge(row)

    def _note(self, path: Path, text: _Text) -> None:
        """Store the data of a file that later steps need."""
        aliases, guid = getattr(text, "aliases", []), getattr(text, "guid", None)
        self.found[text.slug] = Found(path, text.slug_line, _digest(text), aliases, guid)

    def _batches(self, paths: Iterable[Path]) -> Iterator[list[tuple[Path, _Text]]]:
        """Yield the texts of the files in batches, and report files that cannot be read."""
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
            if len(batch) == _BATCH or sum(len(text.body) for _path, text in batch) > _BATCH_CHARACTERS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _report(self, path: Path, error: ArticleError) -> None:
        self.step.problems += [f"{path}:{line}: {text}" for line, text in error.problems]

    def _rows(self, batch: list[tuple[Path, _Text]]) -> dict[str, _Row]:
        """Return the existing rows with the slugs of a batch, by slug."""
        raise NotImplementedError

    def _differs(self, row: _Row, text: _Text) -> bool:
        raise NotImplementedError

    def _fill(self, row: _Row, text: _Text, changed: bool) -> None:
        raise NotImplementedError


class Posts(_Texts[Article, Post]):
    kind = "post"
    model = Post

    def __init__(self, step: Import, read: Callable[[Path], Article]) -> None:
        super().__init__(step, read)
        self.site = Site.guid_of(step.session)
        self.tags = TagBook(step.session)

    def _batches(self, paths: Iterable[Path]) -> Iterator[list[tuple[Path, Article]]]:
        """Yield the batches.

        Older releases made another slug from the same title: `former_slug`. A post that they imported keeps
        it.
        """
        for batch in super()._batches(paths):
            former = {text.former_slug for _path, text in batch} - {None}
            query = select(Post.slug, Post.title).where(Post.slug.in_(former))
            known = {tuple(row) for row in self.step.session.execute(query)} if former else set()
            yield [
                (path, replace(text, slug=text.former_slug))
                if text.former_slug and (text.former_slug, text.title) in known
                else (path, text)
                for path, text in batch
            ]

    def _rows(self, batch: list[tuple[Path, Article]]) -> dict[str, Post]:
        query = select(Post).where(Post.slug.in_([text.slug for _path, text in batch]))
        query = query.options(undefer(Post.body), selectinload(Post.tags), selectinload(Post.aliases))
        if self.step.existing == "update":
            query = query.options(undefer(Post.body_html))
        return {post.slug: post for post in self.step.session.scalars(query)}

    def _differs(self, row: Post, text: Article) -> bool:
        return (
            any(getattr(row, name) != getattr(text, name) for name in _FIELDS)
            or (row.published_at is None and row.planned_at != text.planned_at)
            or text.guid not in (None, row.feed_id(self.site))
            or row.summary not in (_summary(text), *markdown.MISSING_SUMMARIES)
            or {tags.key(tag.name) for tag in row.tags} != set(map(tags.key, text.tags))
            or not {alias.slug for alias in row.aliases} >= set(text.aliases)
            or text.updated_at not in (None, row.updated_at)
        )

    def _fill(self, row: Post, text: Article, changed: bool) -> None:
        is_new = row.id is None
        for name in (*_FIELDS, "planned_at"):
            setattr(row, name, getattr(text, name))
        if text.guid:
            row.guid = text.guid
        row.summary = _summary(text)
        if is_new:
            row.updated_at = text.updated_at or text.published_at or datetime.now(UTC)
        elif changed:
            now = datetime.now(UTC)
            row.updated_at = text.updated_at or max(now, text.published_at or now)
        row.tags = [self.tags.get(name) for name in text.tags]
        known = {alias.slug for alias in row.aliases}
        row.aliases += [PostAlias(slug=alias) for alias in text.aliases if alias not in known]


class Pages(_Texts[PageText, Page]):
    kind = "page"
    model = Page

    def _note(self, path: Path, text: PageText) -> None:
        super()._note(path, text)
        if not is_free_page_name(text.slug):
            self.step.problems.append(
                f"{path}:{text.slug_line}: /{text.slug} is an address of the blog itself; change the slug"
            )

    def _rows(self, batch: list[tuple[Path, PageText]]) -> dict[str, Page]:
        query = select(Page).where(Page.slug.in_([text.slug for _path, text in batch]))
        query = query.options(undefer(Page.body), undefer(Page.body_html))
        return {page.slug: page for page in self.step.session.scalars(query)}

    def _differs(self, row: Page, text: PageText) -> bool:
        return (row.title, row.body, row.position) != (text.title, text.body, text.position) or (
            text.updated_at not in (None, row.updated_at)
        )

    def _fill(self, row: Page, text: PageText, changed: bool) -> None:
        row.title, row.body, row.position = text.title, text.body, text.position
        if row.id is None or changed:
            row.updated_at = text.updated_at or datetime.now(UTC)


def _summary(article: Article) -> str:
    return article.summary or markdown.summary(article.body)


def _digest(text: Article | PageText) -> bytes:
    return hashlib.sha256(repr(text).encode()).digest()


def check_addresses(found: dict[str, Found], step: Import) -> None:
    """Report every address (a slug or an alias) that would belong to two posts."""
    owners = {slug: slug for slug in found}
    wanted = owners.keys() | {alias for file in found.values() for alias in file.aliases}
    owners |= {slug: slug for slug in step.session.scalars(select(Post.slug).where(Post.slug.in_(wanted)))}
    aliases = select(PostAlias.slug, Post.slug).join(Post).where(PostAlias.slug.in_(wanted))
    for alias, owner in step.session.execute(aliases):
        if alias in found:
            file = found[alias]
            step.problems.append(
                f"{file.path}:{file.line}: the slug {alias!r} is an old address of the post {owner!r}; "
                "change the slug"
            )
        owners.setdefault(alias, owner)
    for slug, file in found.items():
        for alias in file.aliases:
            if owners.setdefault(alias, slug) != slug or alias == slug:
                step.problems.append(
                    f"{file.path}:{file.line}: the alias {alias!r} is an address of the post "
                    f"{owners[alias]!r}; remove the alias"
                )


def check_guids(posts: Posts, step: Import) -> None:
    """Report every guid that would belong to two posts."""
    guids = {file.guid for file in posts.found.values() if file.guid}
    guid = Post.feed_id_in_sql(posts.site).label("guid")
    rows = step.session.execute(select(guid, Post.slug).where(guid.in_(guids)))
    owners = {row.guid: row.slug for row in rows}
    for slug, file in posts.found.items():
        if file.guid and owners.setdefault(file.guid, slug) != slug:
            owner = owners[file.guid]
            step.problems.append(f"{file.path}:1: has the guid of the post {owner!r}; remove the guid")
