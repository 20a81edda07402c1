"""Markdown files or an exported site into the blog: all of it or, with a list of every problem, nothing.

A file is read twice, first to find problems and then to be written, so that memory holds a few texts at a
time, however many there are.
"""

from collections import Counter
from pathlib import Path

from sqlalchemy.orm import Session

from .. import articles
from ..exporter import MARKER
from .comments import check_comments, write_comments
from .files import ignore, markdown_files, walk
from .media import read_media, write_media
from .step import Import, ImportProblemsError, Result
from .texts import Pages, Posts, check_addresses

__all__ = ["OUTCOMES", "ImportProblemsError", "Result", "import_posts", "import_site"]

OUTCOMES = ("created", "updated", "skipped", "unchanged", "ignored")

_DRAFTS = {"_drafts", "drafts", "Drafts"}  # the folders where other programs keep them


def import_posts(session: Session, source: Path, *, existing: str, default_author: str) -> Result:
    """Add the posts of a Markdown file, or of every one below a directory; the caller commits.

    existing: what to do with a slug that the blog has with other content: refuse, skip or update.
    default_author: for files that name nobody.
    Returns how many posts were created, updated, skipped and found unchanged, and which files were ignored.
    Raises ImportProblemsError when any file has a problem; then the caller must not commit.
    """
    step = Import(session, source, existing, Counter(dict.fromkeys(OUTCOMES, 0)))
    posts = Posts(
        step,
        lambda path: articles.read(path, default_author, draft=not _DRAFTS.isdisjoint(path.parent.parts)),
    )
    posts.check(markdown_files(step))
    check_addresses(posts.found, step)
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
    step = Import(session, source, existing, Counter(dict.fromkeys((*OUTCOMES, "comments", "media"), 0)))
    posts = Posts(step, lambda path: articles.read(path, default_author))
    its_pages = Pages(step, articles.read_page)
    files = sorted(walk(step))
    texts, page_texts, comments = (
        [path for path in files if path.parent == source / folder and path.suffix == suffix]
        for folder, suffix in (("posts", ".md"), ("pages", ".md"), ("comments", ".json"))
    )
    posts.check(texts)
    check_addresses(posts.found, step)
    its_pages.check(page_texts)
    check_comments(comments, posts.found, step)
    pictures = read_media(step)
    known = {source / MARKER, *texts, *page_texts, *comments, *(path for path, _ in pictures)}
    ignore((path for path in files if path not in known), step)
    step.stop_at_problems()
    posts.write()
    its_pages.write()
    write_comments(comments, step)
    write_media(pictures, media_dir, step)
    return step.result()
