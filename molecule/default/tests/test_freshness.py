"""Pages are at most two seconds old while the blog and its database run. In an outage they may be older."""

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex

import pytest
from articles import (
    FRESH_SECONDS,
    OLD,
    Article,
    approve,
    delete,
    edit,
    rename,
    retitle,
    stale_answers,
    unpublish,
    withdraw,
)
from outside import wait_until

# Each worker of the blog checks once a second whether an outage has ended (_WATCH_S in app/blog/outage.py).
# The tests cannot see when all workers have noticed the end, so they wait.
WATCH_SECONDS = 3
# Seconds since the last visit of a page.
IDLE_SECONDS = [(0.3, 1, 5), pytest.param((12, 30, 55, 65), marks=pytest.mark.drill)]


@pytest.mark.parametrize("idle", IDLE_SECONDS, ids=["short", "long"])
def test_no_page_of_a_post_is_stale_for_more_than_two_seconds(author, sql, reader, idle):
    """Make each kind of change, at several times after the last visit, with and without other readers."""
    kinds = (edit, delete, unpublish, rename, approve, withdraw)
    cases = list(itertools.product(kinds, idle, (False, True)))
    # Prepare everything first, so that the threads only wait and send requests.
    articles = [Article(author(), sql) for _ in cases]
    changes = [what(article) for article, (what, *_) in zip(articles, cases, strict=True)]
    with ThreadPoolExecutor(len(cases)) as pool:
        late = pool.map(
            lambda article, change, case: stale_answers(article, change, *case[1:], reader),
            articles,
            changes,
            cases,
            timeout=180,
        )
        found = dict(zip(((what.__name__, *how) for what, *how in cases), late, strict=True))
    assert {case: seconds for case, seconds in found.items() if seconds > FRESH_SECONDS} == {}


@pytest.mark.parametrize("is_visited", [False, True])
@pytest.mark.parametrize("change", [retitle, delete, unpublish, rename])
def test_no_list_of_posts_is_stale_for_more_than_two_seconds(author, sql, reader, change, is_visited):
    """Besides its own page, a post is on the home page, in the feed, on its tag's page and in a search."""
    article = Article(author(), sql)
    act, _ = change(article)
    shown = article.title if change is retitle else f'{article.path}"'
    made = act, lambda page: shown not in page.text
    assert stale_answers(article, made, 1, is_visited, reader, article.lists) <= FRESH_SECONDS


@pytest.fixture
def crowd(reader):
    """Request a page at one moment over 32 open connections. Return the sorted times in seconds."""
    with contextlib.ExitStack() as connections:
        readers = [connections.enter_context(contextlib.closing(reader())) for _ in range(32)]
        together = threading.Barrier(len(readers))

        def visit(one, path):
            one.request("/errors/errors.css")
            together.wait(30)
            begun = time.monotonic()
            assert one.request(path).status == 200
            return time.monotonic() - begun

        def crowd(path):
            with ThreadPoolExecutor(len(readers)) as pool:
                return sorted(pool.map(visit, readers, itertools.repeat(path)))

        yield crowd


FORGET_PAGES = (
    "from pathlib import Path; from blog import freshness as f; f.begin_generation(Path('/srv/media'))"
)


def slowest(rounds):
    """Return the 99th percentile of the times of all rounds."""
    times = sorted(itertools.chain(*rounds))
    return times[len(times) * 99 // 100]


def test_crowd_gets_a_page_that_is_not_cached_within_100_ms(crowd, docker, containers):
    rounds = []
    for _ in range(10):
        docker("exec %s python3 -c %s", containers["flask_blog"]["Id"], FORGET_PAGES)
        rounds.append(crowd("/"))
    assert slowest(rounds) < 0.1, rounds


def test_crowd_gets_a_page_that_has_expired_within_100_ms(crowd):
    """Two seconds after its last visit, nginx does not serve a page any more."""
    rounds = []
    for _ in range(10):
        time.sleep(2.1)
        rounds.append(crowd("/"))
    assert slowest(rounds) < 0.1, rounds


@pytest.fixture(params=["blog", "database"])
def outage(request, host, containers, slot, healthy):
    """Return a context manager that stops the blog or its database."""
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


def test_cached_pages_survive_an_outage_and_deleted_posts_do_not(author, sql, fetch, outage):
    kept, gone = (Article(author(), sql) for _ in range(2))
    assert fetch(gone.path).status == 200
    delete(gone)[0]()
    assert [fetch(path).status for path in (kept.path, "/", "/feed.xml")] == [200] * 3
    with outage():
        began = time.monotonic()
        assert OLD in fetch(kept.path).text
        assert time.monotonic() - began < 4, "a request must not wait for the database if nginx has the page"
        # Continue for longer than nginx serves an old page while the blog runs.
        left = time.monotonic() + 4
        while time.monotonic() < left:
            assert OLD in fetch(kept.path).text
            assert [fetch(path).status for path in ("/", "/feed.xml")] == [200] * 2
        unseen = {
            "a deleted post": fetch(gone.path),
            "a page that is not cached": fetch(f"/search?q={token_hex()}"),
            "a page for a session": fetch("/", Cookie="session=unknown"),
            "a form": fetch("/contact"),
            "a picture": fetch("/author/media", "POST", body=bytes(200_000)),
        }
        for what, answer in unseen.items():
            assert answer.status == 503, what
            assert answer.headers["retry-after"] == "10", what
            assert "We will be right back" in answer.text, what
    wait_until(lambda: fetch(gone.path).status == 404, 20, "the blog is back")
    assert fetch("/", Cookie="session=unknown").status == 200


def test_restart_of_the_database_only_delays_requests(fetch, host, containers, healthy):
    """nginx does not answer requests with a session from its cache, so they wait for the database."""
    statuses, over = [], threading.Event()

    def status():
        return fetch("/", Cookie="session=unknown").status

    def visit():
        while not over.wait(0.02):
            statuses.append(status())

    time.sleep(WATCH_SECONDS)
    with ThreadPoolExecutor(4) as pool:
        visits = [pool.submit(visit) for _ in range(4)]
        try:
            host.check_output("docker restart %s", containers["db"]["Id"])
            healthy()
        finally:
            over.set()
        for one in visits:
            one.result()
    assert set(statuses) == {200}
