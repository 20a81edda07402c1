"""Import Markdown files or an exported site.

If any file has a problem, nothing is imported. Each file is read twice, so that only a few texts are in
memory at a time: first to find problems, then to import the file. Only the second reading reports a text
that cannot be rendered.
"""

from collections import Counter
from pathlib import Path

from sqlalchemy.orm import Session

from .. import front_matter
from ..exporter import MARKER
from .comments import check_comments, write_comments
from .files import ignore, markdown_files, walk
from .media import read_media, write_media
from .site import read_site, write_site
from .step import Import, ImportProblemsError, Result
from .tags import read_tags, write_tags
from .texts import Pages, Posts, check_addresses, check_guids

__all__ = ["OUTCOMES", "ImportProblemsError", "Result", "import_posts", "import_site"]

OUTCOMES = ("created", "updated", "skipped", "unchanged")

_DRAFTS = {"_drafts", "drafts", "Drafts"}  # folders in which other programs keep drafts


def import_posts(session: Session, source: Path, *, existing: str, default_author: str) -> Result:
    """Import one Markdown file, or all Markdown files below a directory. The caller commits.

    existing: what to do if the blog has a text with the same slug but other content: `refuse`, `skip` or
        `update`.
    default_author: the author of files that do not name an author.
    Returns the numbers of created, updated, skipped and unchanged posts and ignored files, and the names of
    some ignored files.
    Raises ImportProblemsError if any file has a problem. The caller must not commit then.
    """
    step = Import(session, source, existing, Counter(dict.fromkeys((*OUTCOMES, "ignored"), 0)))
    posts = Posts(
        step,
        lambda path: front_matter.read(path, default_author, draft=not _DRAFTS.isdisjoint(path.parent.parts)),
    )
    posts.check(markdown_files(step))
    check_addresses(posts.found, step)
    check_guids(posts, step)
    step.stop_at_problems()
    posts.write()
    step.stop_at_problems()
    return step.result()


def import_site(
    session: Session, source: Path, *, existing: str, default_author: str, media_dir: Path
) -> Result:
    """Import everything that `flask export` wrote to the directory `source`. The caller commits.

    media_dir: the directory for the pictures. The other arguments are those of `import_posts`.
    Returns the same numbers, but for posts and pages together, and the numbers of new comments and pictures.
    Raises the same errors as `import_posts`, and OSError if a picture can no longer be read.
    """
    step = Import(
        session, source, existing, Counter(dict.fromkeys((*OUTCOMES, "ignored", "comments", "media"), 0))
    )
    posts = Posts(step, lambda path: front_matter.read(path, default_author))
    its_pages = Pages(step, front_matter.read_page)
    files = sorted(walk(step))
    texts, page_texts, comments = (
        [path for path in files if path.parent == source / folder and path.suffix == suffix]
        for folder, suffix in (("posts", ".md"), ("pages", ".md"), ("comments", ".json"))
    )
    posts.check(texts)
    check_addresses(posts.found, step)
    check_guids(posts, step)
    its_pages.check(page_texts)
    check_comments(comments, posts.found, step)
    site = read_site(step)
    pictures = read_media(site, step)
    exported_tags = read_tags(site, step)
    known = {source / MARKER, *texts, *page_texts, *comments, *(path for path, _picture in pictures)}
    ignore((path for path in files if path not in known), step)
    step.stop_at_problems()
    write_site(site, step)
    write_tags(exported_tags, posts.tags)
    posts.write()
    its_pages.write()
    step.stop_at_problems()
    write_comments(comments, step)
    write_media(pictures, media_dir, step)
    return step.result()
