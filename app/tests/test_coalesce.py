"""Simultaneous requests for a page are answered from one rendering, which is never too old."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from werkzeug.test import Client

from blog import coalesce, freshness
from blog.coalesce import Coalescer

from .conftest import BASE_URL

COOKIE = "session"


class Renderer:
    """An app that counts its renderings, and waits for `go` before each."""

    def __init__(self):
        self.begun, self.rendered, self.go, self.headers, self.second = 0, 0, Event(), [], int(time.time())
        self.go.set()

    def __call__(self, environ, start_response):
        self.begun += 1
        self.go.wait(5)
        self.rendered += 1
        body = b"page %d" % self.rendered
        expires = [("X-Accel-Expires", f"@{self.second}")] if self.second else []
        start_response("200 OK", [("Content-Length", str(len(body))), *expires, *self.headers])
        return [body]


@pytest.fixture
def renderer(monkeypatch):
    renderer = Renderer()
    monkeypatch.setattr(coalesce.time, "time", lambda: renderer.second + 0.5)
    return renderer


@pytest.fixture
def ask(renderer, tmp_path):
    """Return a function that requests a page, and returns its text."""
    client = Client(Coalescer(renderer, COOKIE, tmp_path), use_cookies=False)
    return lambda path="/", method="GET", **headers: client.open(path, method=method, headers=headers).text


def test_crowd_gets_one_rendering(renderer, ask):
    renderer.go.clear()
    with ThreadPoolExecutor(8) as pool:
        texts = [pool.submit(ask) for _ in range(8)]
        renderer.go.set()
    assert {text.result() for text in texts} == {"page 1"}


def test_page_is_rendered_anew_when_it_has_expired_for_nginx(renderer, ask, monkeypatch):
    assert [ask(), ask()] == ["page 1", "page 1"]
    monkeypatch.setattr(coalesce.time, "time", lambda: renderer.second + 1)
    assert ask() == "page 2"


def test_page_is_rendered_anew_when_a_new_generation_begins(ask, tmp_path):
    ask()
    freshness.begin_generation(tmp_path)
    assert ask() == "page 2"


@pytest.mark.parametrize(
    "other",
    [
        {"path": "/other"},
        {"path": "/?page=2"},
        {"method": "HEAD"},
        {"method": "POST"},
        {"Cookie": "a=b; session=c"},
        {"If-None-Match": "*"},
        {"If-Match": '"x"'},
        {"Range": "bytes=0-1"},
        {"Host": "other.test"},
    ],
    ids=str,
)
def test_other_request_is_rendered_by_itself(renderer, ask, other):
    ask()
    ask(**other)
    assert renderer.rendered == 2


@pytest.mark.parametrize("headers", [[("Set-Cookie", "session=1")], [("Content-Length", "999999")]])
def test_answer_that_must_not_be_repeated_is_rendered_for_each_reader(renderer, ask, headers):
    renderer.headers = headers
    assert [ask(), ask()] == ["page 1", "page 2"]


def test_answer_without_an_expiry_is_rendered_for_each_reader(renderer, ask):
    renderer.second = 0
    assert [ask(), ask()] == ["page 1", "page 2"]


def test_reader_does_not_wait_long_for_a_rendering_that_hangs(renderer, ask, monkeypatch):
    monkeypatch.setattr(coalesce, "WAIT_S", 0.05)
    renderer.go.clear()
    with ThreadPoolExecutor(2) as pool:
        texts = [pool.submit(ask) for _ in range(2)]
        deadline = time.monotonic() + 5
        while renderer.begun < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        renderer.go.set()
    assert renderer.begun == 2
    assert {text.result() for text in texts} == {"page 1", "page 2"}


def test_number_of_pages_in_memory_is_limited(renderer, ask):
    for number in range(3 * coalesce.MOST_PAGES):
        ask(f"/{number}")
    assert renderer.rendered == 3 * coalesce.MOST_PAGES
    assert ask(f"/{number}") == f"page {renderer.rendered}"
    ask("/0")
    assert renderer.rendered == 3 * coalesce.MOST_PAGES + 1, "the first page must be forgotten by now"


def test_pages_of_the_blog_are_repeated_and_forms_are_not(app, client, monkeypatch):
    app.wsgi_app = Coalescer(app.wsgi_app, app.config["SESSION_COOKIE_NAME"], app.config["MEDIA_DIR"])
    monkeypatch.setattr(coalesce.time, "time", lambda: 0)
    rendered = []
    app.before_request_funcs.setdefault(None, []).append(lambda: rendered.append(1) and None)
    pages = [client.get(path, base_url=BASE_URL) for path in ("/", "/", "/none", "/none")]
    assert [page.status_code for page in pages] == [200, 200, 404, 404]
    assert len(rendered) == 2
    tokens = [app.test_client().get("/login").text for _ in range(2)]
    assert tokens[0] != tokens[1]
