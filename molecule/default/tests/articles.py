"""Posts for the tests of freshness: an author changes a post, and readers must soon see the change."""

import contextlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex

from outside import wait_until

OLD, NEW = "As it was first.", "As it is now."
FRESH_SECONDS = 2


class Article:
    """A published post, and the changes that its author can make."""

    def __init__(self, author, sql):
        self.author, self.sql = author, sql
        self.slug = f"fresh-{token_hex(6)}"
        self.path = f"/posts/{self.slug}"
        self.title = f"Fresh {token_hex(4)}"
        self.word = f"word{token_hex(4)}"
        # Other pages that show the post.
        self.lists = ("/", "/feed.xml", f"/tags/{self.slug}", f"/search?q={self.word}")
        self.form = {
            "title": self.title,
            "slug": self.slug,
            "tags": self.slug,
            "body": f"{OLD} {self.word}",
            "status": "published",
            "version": "0",
        }
        author.open("/author/posts/new")
        created = author.send("/author/posts/new", **self.form)
        assert created.status == 303, created.status
        self.place = created.headers["location"]
        author.reader.close()  # nginx would close the idle connection before the next request

    def save(self, **values):
        """Save the post with these values instead of the first ones. Return the page if it has no form."""
        page = self.author.open(self.place)
        if page.status != 200:
            return page
        version = re.search(r'name="version"[^>]*value="(\d+)"', page.text)[1]
        return self.author.send(self.place, **(self.form | values | {"version": version}))

    def comment(self, state):
        """Add a comment in this state to the database, and return its id."""
        [[number]] = self.sql(
            "WITH new AS (INSERT INTO comment (post_id, author, body, state) "
            f"SELECT id, 'A reader', '{NEW}', '{state}' FROM post WHERE slug = '{self.slug}' RETURNING id) "
            "SELECT id FROM new"
        )
        return number

    def decide(self, state, decision, number):
        """Press a button, such as "approve", for a comment that is in this state."""
        self.author.open(f"/author/comments?state={state}")
        return self.author.send(f"/author/comments?state={state}", **{decision: number})


# Each function below returns two functions: one makes a change, the other recognizes a page after it.


def edit(article):
    """Change the post's text."""
    return lambda: article.save(body=NEW), lambda page: OLD not in page.text


def retitle(article):
    """Change the post's title."""
    return lambda: article.save(title=f"Now {article.slug}"), lambda page: article.title not in page.text


def delete(article):
    """Delete the post."""
    delete_page = f"{article.place}/delete"

    def act():
        article.author.open(delete_page)
        return article.author.send(delete_page)

    return act, lambda page: page.status == 404


def unpublish(article):
    """Turn the post into a draft."""
    return lambda: article.save(status="draft"), lambda page: page.status == 404


def rename(article):
    """Give the post another address."""
    return lambda: article.save(slug=f"{article.slug}-b"), lambda page: page.status == 301


def approve(article):
    """Approve a comment."""
    number = article.comment("pending")
    return lambda: article.decide("pending", "approve", number), lambda page: NEW in page.text


def withdraw(article):
    """Delete an approved comment."""
    number = article.comment("approved")
    return lambda: article.decide("approved", "delete", number), lambda page: NEW not in page.text


def stale_answers(article, change, idle_seconds, is_visited, reader, paths=()):
    """Change a post that readers have seen. Return for how many seconds readers still got an old page.

    change: the two functions that `edit`, for example, returns.
    idle_seconds: the time between the last request of a page and the change.
    is_visited: whether another reader requests the pages all the time.
    paths: the pages to request instead of the post's own page.
    """
    paths = paths or (article.path,)
    act, is_current = change
    over = threading.Event()

    def visit():
        with contextlib.closing(reader()) as visitor:
            while not over.wait(0.25):
                for path in paths:
                    visitor.request(path)

    with contextlib.closing(reader()) as one, ThreadPoolExecutor(1) as pool:
        visits = pool.submit(visit) if is_visited else None
        try:
            for path in paths:
                shows_it = f"{path} shows the old version"
                wait_until(lambda path=path: not is_current(one.request(path)), FRESH_SECONDS, shows_it)
            one.close()  # nginx would close the idle connection before the next request
            time.sleep(idle_seconds)
            status = act().status
            assert status == 303, f"the change of {article.path}: status {status}"
            done, stale = time.monotonic(), [0.0]
            while time.monotonic() < done + FRESH_SECONDS + 1.5:
                for path in paths:
                    asked = time.monotonic()
                    if not is_current(one.request(path)):
                        stale.append(asked - done)
                time.sleep(0.1)
        finally:
            over.set()
        if visits:
            visits.result()
    return max(stale)
