"""Markdown files into the blog: all of them or, with a list of every problem, none."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload, undefer

from . import articles, markdown
from .articles import Article, ArticleError
from .models import Post, Tag

OUTCOMES = ("created", "updated", "skipped", "unchanged")


class ImportProblemsError(Exception):
    """Nothing was imported. `problems`: one `path:line: what is wrong; what to do` each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def import_posts(session: Session, source: Path, *, existing: str, default_author: str) -> dict[str, int]:
    """Add the posts of a Markdown file, or of every `*.md` below a directory; the caller commits.

    existing: what to do with a slug that the blog has with other content: refuse, skip or update.
    default_author: for files that name nobody.
    Returns how many posts were created, updated, skipped and found unchanged.
    Raises ImportProblemsError, with the session untouched, when any file has a problem.
    """
    problems: list[str] = []
    found: dict[str, tuple[Path, Article]] = {}
    for path in _files(source, problems):
        try:
            article = articles.read(path, default_author)
        except ArticleError as error:
            problems += [f"{path}:{line}: {text}" for line, text in error.problems]
        except OSError as error:
            problems.append(f"{path}:1: cannot be read ({error.strerror}); make it readable")
        else:
            if article.slug in found:
                other = found[article.slug][0]
                problems.append(
                    f"{path}:{article.slug_line}: has the slug of {other}, {article.slug!r}; change one"
                )
            found.setdefault(article.slug, (path, article))

    posts = _posts(session, found)
    if existing == "refuse":
        problems += [
            f"{path}:{article.slug_line}: the blog has a post {slug!r} with other content; "
            "choose --existing update to replace it or --existing skip to keep it"
            for slug, (path, article) in found.items()
            if slug in posts and _differs(posts[slug], article)
        ]
    if problems:
        raise ImportProblemsError(problems)

    tags = _tags(
        session, {slug: name for _, article in found.values() for slug, name in article.tags.items()}
    )
    counts = Counter(dict.fromkeys(OUTCOMES, 0))
    for slug, (_, article) in found.items():
        post = posts.get(slug)
        if post is None:
            post = Post(slug=slug)
            session.add(post)
            _fill(post, article, tags, updated_at=article.published_at)
            counts["created"] += 1
        elif not (changed := _differs(post, article)) and (existing != "update" or _is_rendered(post)):
            counts["unchanged"] += 1
        elif existing == "update":
            _fill(post, article, tags, updated_at=None if changed else post.updated_at)
            counts["updated"] += 1
        else:
            counts["skipped"] += 1
    return dict(counts)


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


def _posts(session: Session, slugs: dict[str, object]) -> dict[str, Post]:
    query = (
        select(Post)
        .where(Post.slug.in_(slugs))
        .options(undefer(Post.body), undefer(Post.body_html), selectinload(Post.tags))
    )
    return {post.slug: post for post in session.scalars(query)}


def _tags(session: Session, names: dict[str, str]) -> dict[str, Tag]:
    """Return the tags by slug, with those that the blog lacks added to the session."""
    tags = {tag.slug: tag for tag in session.scalars(select(Tag).where(Tag.slug.in_(names)))}
    for slug in names.keys() - tags.keys():
        tags[slug] = Tag(slug=slug, name=names[slug])
    return tags


def _differs(post: Post, article: Article) -> bool:
    return (
        any(
            getattr(post, name) != getattr(article, name)
            for name in ("title", "summary", "body", "author", "published_at")
        )
        or {tag.slug for tag in post.tags} != article.tags.keys()
        or article.updated_at not in (None, post.updated_at)
    )


def _is_rendered(post: Post) -> bool:
    """Tell whether the stored HTML is what this release makes of the text."""
    return post.body_html == markdown.render(post.body).html


def _fill(post: Post, article: Article, tags: dict[str, Tag], *, updated_at: datetime | None) -> None:
    for name in ("title", "summary", "body", "author", "published_at"):
        setattr(post, name, getattr(article, name))
    post.updated_at = article.updated_at or updated_at or datetime.now(UTC)
    post.tags = [tags[slug] for slug in article.tags]
