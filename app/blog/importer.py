"""Markdown files or an exported site into the blog: all of it or, with a list of every problem, nothing."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload, undefer

from . import articles, markdown, media, pages
from .articles import Article, ArticleError, PageText
from .exporter import COMMENT_FIELDS, FORMAT, MARKER, MEDIA_FIELDS
from .models import COMMENT_STATES, Comment, Media, Page, Post, PostAlias, Tag

OUTCOMES = ("created", "updated", "skipped", "unchanged")

_Text = TypeVar("_Text", Article, PageText)
_Found = dict[str, tuple[Path, _Text]]  # by slug


class ImportProblemsError(Exception):
    """Nothing was imported. `problems`: one `path:line: what is wrong; what to do` each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass
class _Import:
    """What all steps share. existing: refuse, skip or update what the blog has with other content."""

    session: Session
    existing: str
    problems: list[str]
    counts: Counter[str]

    def is_wanted(self, changed: bool, is_rendered: bool) -> bool:
        """Count what becomes of something that the blog has; tell whether it is to be written."""
        if not changed and (self.existing != "update" or is_rendered):
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


def import_posts(session: Session, source: Path, *, existing: str, default_author: str) -> dict[str, int]:
    """Add the posts of a Markdown file, or of every `*.md` below a directory; the caller commits.

    existing: what to do with a slug that the blog has with other content: refuse, skip or update.
    default_author: for files that name nobody.
    Returns how many posts were created, updated, skipped and found unchanged.
    Raises ImportProblemsError, with the session untouched, when any file has a problem.
    """
    step = _Import(session, existing, [], Counter(dict.fromkeys(OUTCOMES, 0)))
    found = _read(_files(source, step.problems), lambda path: articles.read(path, default_author), step)
    posts = _check_posts(found, step)
    if step.problems:
        raise ImportProblemsError(step.problems)
    _write_posts(found, posts, step)
    return dict(step.counts)


def import_site(
    session: Session, source: Path, *, existing: str, default_author: str, media_dir: Path
) -> dict[str, int]:
    """Add everything that `flask export` wrote to the directory `source`; the caller commits.

    media_dir: where the pictures go. The other arguments are those of `import_posts`.
    Returns its numbers, of posts and pages together, and how many comments and pictures (media) were added.
    Raises as `import_posts` does, and OSError when a picture cannot be written.
    """
    step = _Import(session, existing, [], Counter(dict.fromkeys((*OUTCOMES, "comments", "media"), 0)))
    found = _read(sorted(source.glob("posts/*.md")), lambda path: articles.read(path, default_author), step)
    posts = _check_posts(found, step)
    found_pages = _read(sorted(source.glob("pages/*.md")), articles.read_page, step)
    old_pages = _check_pages(found_pages, step)
    comments = _read_comments(source, found, step)
    pictures = _read_media(source, step)
    if step.problems:
        raise ImportProblemsError(step.problems)
    _write_posts(found, posts, step)
    _write_pages(found_pages, old_pages, step)
    _write_comments(comments, step)
    _write_media(pictures, media_dir, step)
    return dict(step.counts)


def _files(source: Path, problems: list[str]) -> Iterator[Path]:
    if not source.exists():
        problems.append(f"{source}: does not exist; name a Markdown file, or a directory with some")
        return
    if source.is_file():
        yield source
        return
    paths = [path for path in sorted(source.rglob("*.md")) if path.is_file()]
    if not paths:
        problems.append(f"{source}: holds no file *.md; name a directory that does")
    for path in paths:
        if path.resolve().is_relative_to(source.resolve()):
            yield path
        else:
            problems.append(f"{path}:1: is a link that leads out of {source}; copy the file there instead")


def _read(paths: Iterable[Path], read: Callable[[Path], _Text], step: _Import) -> _Found:
    """Read files; note what is wrong with them, and slugs that two of them have."""
    found: _Found = {}
    for path in paths:
        try:
            article = read(path)
        except ArticleError as error:
            step.problems += [f"{path}:{line}: {text}" for line, text in error.problems]
        except OSError as error:
            step.problems.append(f"{path}:1: cannot be read ({error.strerror}); make it readable")
        else:
            if article.slug in found:
                other = found[article.slug][0]
                step.problems.append(
                    f"{path}:{article.slug_line}: has the slug of {other}, {article.slug!r}; change one"
                )
            found.setdefault(article.slug, (path, article))
    return found


# Posts


def _check_posts(found: _Found[Article], step: _Import) -> dict[str, Post]:
    """Return the posts that the blog has already, by slug; note what does not fit to them."""
    query = (
        select(Post)
        .where(Post.slug.in_(found))
        .options(
            undefer(Post.body), undefer(Post.body_html), selectinload(Post.tags), selectinload(Post.aliases)
        )
    )
    posts = {post.slug: post for post in step.session.scalars(query)}
    for slug, (path, article) in found.items():
        if slug in posts and _differs(posts[slug], article):
            step.refuse(path, article.slug_line, "post", slug)

    # An address leads to one post.
    owners = {slug: slug for slug in found}
    wanted = owners.keys() | {alias for _, article in found.values() for alias in article.aliases}
    owners |= {slug: slug for slug in step.session.scalars(select(Post.slug).where(Post.slug.in_(wanted)))}
    aliases = select(PostAlias.slug, Post.slug).join(Post).where(PostAlias.slug.in_(wanted))
    for alias, owner in step.session.execute(aliases):
        if alias in found:
            path, article = found[alias]
            step.problems.append(
                f"{path}:{article.slug_line}: the slug {alias!r} is an old address of {owner!r}; change it"
            )
        owners.setdefault(alias, owner)
    for slug, (path, article) in found.items():
        for alias in article.aliases:
            if owners.setdefault(alias, slug) != slug or alias == slug:
                step.problems.append(
                    f"{path}:{article.slug_line}: the alias {alias!r} is an address of "
                    f"{owners[alias]!r}; remove it"
                )
    return posts


def _write_posts(found: _Found[Article], posts: dict[str, Post], step: _Import) -> None:
    names = {slug: name for _, article in found.values() for slug, name in article.tags.items()}
    tags = {tag.slug: tag for tag in step.session.scalars(select(Tag).where(Tag.slug.in_(names)))}
    for slug in sorted(names.keys() - tags.keys()):
        tags[slug] = Tag(slug=slug, name=names[slug])
    for slug, (_, article) in found.items():
        post = posts.get(slug)
        if post is None:
            post = Post(slug=slug)
            step.session.add(post)
            _fill(post, article, tags, updated_at=article.published_at)
            step.counts["created"] += 1
        elif step.is_wanted(changed := _differs(post, article), _is_rendered(post)):
            _fill(post, article, tags, updated_at=None if changed else post.updated_at)


def _differs(post: Post, article: Article) -> bool:
    return (
        any(
            getattr(post, name) != getattr(article, name)
            for name in ("title", "summary", "body", "author", "published_at")
        )
        or {tag.slug for tag in post.tags} != article.tags.keys()
        or not {alias.slug for alias in post.aliases} >= set(article.aliases)
        or article.updated_at not in (None, post.updated_at)
    )


def _is_rendered(text: Post | Page) -> bool:
    """Tell whether the stored HTML is what this release makes of the text."""
    return text.body_html == markdown.render(text.body).html


def _fill(post: Post, article: Article, tags: dict[str, Tag], *, updated_at: datetime | None) -> None:
    for name in ("title", "summary", "body", "author", "published_at"):
        setattr(post, name, getattr(article, name))
    post.updated_at = article.updated_at or updated_at or datetime.now(UTC)
    post.tags = [tags[slug] for slug in article.tags]
    known = {alias.slug for alias in post.aliases}
    post.aliases += [PostAlias(slug=alias) for alias in article.aliases if alias not in known]


# Pages


def _check_pages(found: _Found[PageText], step: _Import) -> dict[str, Page]:
    query = select(Page).where(Page.slug.in_(found)).options(undefer(Page.body), undefer(Page.body_html))
    old = {page.slug: page for page in step.session.scalars(query)}
    for slug, (path, text) in found.items():
        if not pages.is_free_page_slug(slug):
            step.problems.append(
                f"{path}:{text.slug_line}: /{slug} is an address of the blog itself; change the slug"
            )
        if slug in old and _page_differs(old[slug], text):
            step.refuse(path, text.slug_line, "page", slug)
    return old


def _write_pages(found: _Found[PageText], old: dict[str, Page], step: _Import) -> None:
    for slug, (_, text) in found.items():
        page = old.get(slug)
        if page is None:
            page = Page(slug=slug)
            step.session.add(page)
            step.counts["created"] += 1
        elif not step.is_wanted(_page_differs(page, text), _is_rendered(page)):
            continue
        page.title, page.body, page.position = text.title, text.body, text.position
        page.updated_at = text.updated_at or page.updated_at or datetime.now(UTC)


def _page_differs(page: Page, text: PageText) -> bool:
    return (page.title, page.body, page.position) != (text.title, text.body, text.position) or (
        text.updated_at not in (None, page.updated_at)
    )


# Comments and pictures, as the exporter wrote them


def _read_comments(source: Path, posts: _Found[Article], step: _Import) -> dict[str, list[Comment]]:
    """Return the comments of each post, by its slug."""
    comments: dict[str, list[Comment]] = {}
    for path in sorted(source.glob("comments/*.json")):
        if path.stem not in posts:
            step.problems.append(f"{path}:1: belongs to no post of this export; remove it")
        comments[path.stem] = list(_rows(path, _json(path, step), _comment, step))
    return comments


def _read_media(source: Path, step: _Import) -> list[tuple[Path, Media]]:
    marker = source / MARKER
    site = _json(marker, step)
    if not isinstance(site, dict) or site.get("format") != FORMAT:
        step.problems.append(f"{marker}:1: is not of the format {FORMAT}; export again with this release")
        return []
    pictures = []
    for picture in _rows(marker, site.get("media"), _picture, step):
        path = source / "media" / picture.name
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
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


def _rows(path: Path, rows: object, make: Callable[[dict], object], step: _Import) -> Iterator:
    """Make something of each entry of a list, and note the entries that are not what they should be."""
    for number, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
        try:
            yield make(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            step.problems.append(f"{path}:1: entry {number} is not as an export has it; export again")


def _comment(row: dict) -> Comment:
    """Raises KeyError, TypeError or ValueError when `row` is no comment."""
    comment = Comment(**{name: row[name] for name in COMMENT_FIELDS}, created_at=_moment(row))
    if comment.state not in COMMENT_STATES:
        raise ValueError
    _refuse_control_characters(comment.author, comment.body, comment.email or "")
    return comment


def _picture(row: dict) -> Media:
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


def _moment(row: dict) -> datetime:
    return datetime.fromisoformat(row["created_at"]).astimezone(UTC)


def _write_comments(comments: dict[str, list[Comment]], step: _Import) -> None:
    step.session.flush()
    found = step.session.execute(select(Post.slug, Post.id).where(Post.slug.in_(comments)))
    posts = {row.slug: row.id for row in found}
    old = select(Comment.post_id, Comment.created_at, Comment.author, Comment.body)
    known = {tuple(row) for row in step.session.execute(old.where(Comment.post_id.in_(posts.values())))}
    for slug, group in comments.items():
        for comment in group:
            comment.post_id = posts[slug]
            if (comment.post_id, comment.created_at, comment.author, comment.body) not in known:
                step.session.add(comment)
                step.counts["comments"] += 1


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
