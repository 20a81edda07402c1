"""How old a page may be: two seconds while the blog and its database are there, and any age while not."""

import contextlib
import copy
import itertools
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex

import pytest
from outside import Author, wait_until

OLD, NEW = "As it was first.", "As it is now."
IDLE_SECONDS = (0.3, 1, 5, 30, 55, 65)
FRESH_SECONDS = 2


@pytest.fixture(scope="module")
def author(enlist, reader, variables, sql):
    """Return one who has signed in, over a connection of their own."""
    email, password = f"fresh-{token_hex(3)}@example.org", token_hex()
    enlist(email, password)
    with contextlib.ExitStack() as connections:

        def dial():
            return connections.enter_context(contextlib.closing(reader()))

        signed_in = Author(dial(), variables["stack_base_url"], email, password)
        assert signed_in.signed_in

        def author():
            one = copy.copy(signed_in)
            one.reader = dial()
            return one

        yield author
    sql("DELETE FROM post WHERE slug LIKE 'fresh-%'")
    sql(f"DELETE FROM user_account WHERE email = '{email}'")


@pytest.fixture(scope="module")
def fetch(reader):
    """Ask for a page over a connection of its own, as somebody whom the blog does not know."""

    def fetch(path, method="GET", **headers):
        with contextlib.closing(reader()) as one:
            return one.request(path, method, **headers)

    return fetch


class Article:
    """A published post with a comment, and what its author may do to it."""

    def __init__(self, author, sql):
        self.author, self.sql = author, sql
        self.slug = f"fresh-{token_hex(6)}"
        self.path = f"/posts/{self.slug}"
        self.form = {"title": "Fresh", "slug": self.slug, "body": OLD, "status": "published", "version": "0"}
        author.open("/author/posts/new")
        created = author.send("/author/posts/new", **self.form)
        assert created.status == 303, created.status
        self.place = created.headers["location"]
        author.reader.close()  # nginx would, before the next request

    def save(self, **values):
        """Save the post with other values."""
        page = self.author.open(self.place)
        version = re.search(r'name="version"[^>]*value="(\d+)"', page.text)[1]
        return self.author.send(self.place, **(self.form | values | {"version": version}))

    def comment(self, state):
        """Add a comment, and return its number."""
        [[number]] = self.sql(
            "WITH new AS (INSERT INTO comment (post_id, author, body, state) "
            f"SELECT id, 'A reader', '{NEW}', '{state}' FROM post WHERE slug = '{self.slug}' RETURNING id) "
            "SELECT id FROM new"
        )
        return number

    def decide(self, state, decision, number):
        """Decide on a comment."""
        self.author.open(f"/author/comments?state={state}")
        return self.author.send(f"/author/comments?state={state}", **{decision: number})


def edit(article):
    """Change the text."""
    return lambda: article.save(body=NEW), lambda page: OLD not in page.text


def delete(article):
    """Delete the post."""
    delete_page = f"{article.place}/delete"

    def act():
        article.author.open(delete_page)
        return article.author.send(delete_page)

    return act, lambda page: page.status == 404


def unpublish(article):
    """Make a draft of the post."""
    return lambda: article.save(status="draft"), lambda page: page.status == 404


def rename(article):
    """Give the post another address."""
    return lambda: article.save(slug=f"{article.slug}-b"), lambda page: page.status == 301


def approve(article):
    """Let a comment be seen."""
    number = article.comment("pending")
    return lambda: article.decide("pending", "approve", number), lambda page: NEW in page.text


def withdraw(article):
    """Take a comment away that could be seen."""
    number = article.comment("approved")
    return lambda: article.decide("approved", "delete", number), lambda page: NEW not in page.text


def stale_answers(article, what, idle_seconds, is_visited, fetch):
    """Change a post that readers have seen; return how late (seconds) the last page from before came."""
    act, is_current = what(article)
    over = threading.Event()

    def visit():
        while not over.wait(0.25):
            fetch(article.path)

    visitor = threading.Thread(target=visit)
    if is_visited:
        visitor.start()
    try:
        assert not is_current(fetch(article.path)), "the page is there before it changes"
        time.sleep(idle_seconds)
        assert act().status == 303
        done = time.monotonic()
        stale = [0.0]
        while (asked := time.monotonic()) < done + FRESH_SECONDS + 1.5:
            if not is_current(fetch(article.path)):
                stale.append(asked - done)
            time.sleep(0.1)
        return max(stale)
    finally:
        over.set()
        if is_visited:
            visitor.join()


def test_no_answer_is_older_than_two_seconds(author, sql, fetch):
    """After each kind of change, some time after the last visit, and with visits all the time."""
    kinds = (edit, delete, unpublish, rename, approve, withdraw)
    cases = list(itertools.product(kinds, IDLE_SECONDS, (False, True)))
    # Their sessions and posts first, so that the threads do nothing but wait and look.
    articles = [Article(author(), sql) for _ in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        late = pool.map(
            lambda article, case: stale_answers(article, *case, fetch), articles, cases, timeout=180
        )
        found = dict(zip(((what.__name__, *how) for what, *how in cases), late, strict=True))
    assert {case: seconds for case, seconds in found.items() if seconds > FRESH_SECONDS} == {}


@pytest.fixture(params=["blog", "database"])
def outage(request, host, containers, slot, healthy):
    """Take the blog or its database away, while one is inside of it."""
    service = {"blog": f"flask_blog_{slot()}", "database": "db"}[request.param]

    @contextlib.contextmanager
    def outage():
        compose = "docker compose --project-directory /opt/slipway --profile '*'"
        host.check_output(f"{compose} stop --timeout 5 %s", service)
        try:
            yield
        finally:
            host.check_output(f"{compose} start %s", service)
            healthy()

    return outage


def test_what_readers_have_seen_outlasts_an_outage_and_what_was_withdrawn_does_not(
    author, sql, fetch, outage
):
    kept, gone = (Article(author(), sql) for _ in range(2))
    assert fetch(gone.path).status == 200
    delete(gone)[0]()
    assert [fetch(path).status for path in (kept.path, "/", "/feed.xml")] == [200] * 3
    with outage():
        # As long after as no page would be served that is due.
        left = time.monotonic() + 4
        while time.monotonic() < left:
            assert OLD in fetch(kept.path).text
            assert [fetch(path).status for path in ("/", "/feed.xml")] == [200] * 2
        unseen = {
            "withdrawn": fetch(gone.path),
            "not asked for before": fetch(f"/search?q={token_hex()}"),
            "of one with a cookie": fetch("/", Cookie="a=b"),
            "a form": fetch("/contact"),
        }
        for what, answer in unseen.items():
            assert answer.status == 503, what
            assert answer.headers["retry-after"] == "10", what
            assert "We will be right back" in answer.text, what
    wait_until(lambda: fetch(gone.path).status == 404, 20, "the blog is back")
    assert fetch("/", Cookie="a=b").status == 200


def test_restart_of_the_database_shows_nobody_an_error_page(fetch, host, containers, healthy):
    """Not even to one whom no cache knows: they are told to come again."""
    statuses, over = [], threading.Event()

    def visit():
        while not over.wait(0.02):
            statuses.append(fetch("/", Cookie="a=b").status)

    with ThreadPoolExecutor(4) as pool:
        visits = [pool.submit(visit) for _ in range(4)]
        try:
            host.check_output("docker restart %s", containers["db"]["Id"])
            healthy()
        finally:
            over.set()
        for one in visits:
            one.result()
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200
