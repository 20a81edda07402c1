"""Answer simultaneous requests for a public page from one rendering.

If a page is not in nginx's cache, or is too old there, the requests of a whole crowd may reach the blog. Then
each worker renders the page once, and answers its other requests for this page with the same rendering. It
does so no longer than nginx may keep the page (see freshness.py), so readers get no older pages.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from . import freshness, metrics

_LOCKS = 64
WAIT_S = 1  # then a request renders the page itself
LARGEST_BYTES = 256 * 1024
# With one of these headers, the answer is for one client: it may be 304, 412 or a part of the page.
CONDITIONS = {
    "HTTP_IF_MATCH",
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_RANGE",
    "HTTP_IF_UNMODIFIED_SINCE",
    "HTTP_RANGE",
}
MOST_PAGES = 32

_Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class _Page:
    status: str
    headers: _Headers
    body: bytes
    expires: int  # the last second, since the epoch, in which the page may be sent
    endpoint: str


class Coalescer:
    """The middleware. It reuses only answers that caches may keep: to GET, without a session."""

    def __init__(self, app: WSGIApplication, session_cookie: str, media_dir: Path) -> None:
        """session_cookie: the name of the cookie. media_dir: where the generation of pages is."""
        self._app, self._cookie, self._media_dir = app, f"{session_cookie}=", media_dir
        self._pages: dict[tuple[str, ...], _Page] = {}
        self._locks = [Lock() for _number in range(_LOCKS)]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._is_anonymous(environ):
            return self._app(environ, start_response)
        key, began = self._key(environ), time.perf_counter()
        lock = self._locks[hash(key) % _LOCKS]
        held = lock.acquire(timeout=WAIT_S)
        try:
            page = self._pages.get(key)
            if page is None or page.expires < int(time.time()):
                return self._render(key, environ, start_response)
        finally:
            if held:
                lock.release()
        metrics.count("GET", page.endpoint, int(page.status[:3]), time.perf_counter() - began)
        start_response(page.status, [*page.headers])
        return [page.body]

    def _is_anonymous(self, environ: WSGIEnvironment) -> bool:
        is_plain = environ["REQUEST_METHOD"] == "GET" and not CONDITIONS & environ.keys()
        return is_plain and self._cookie not in environ.get("HTTP_COOKIE", "")

    def _key(self, environ: WSGIEnvironment) -> tuple[str, ...]:
        names = ("HTTP_HOST", "HTTP_X_FORWARDED_PROTO", "SERVER_PORT", "PATH_INFO", "QUERY_STRING")
        return (freshness.generation(self._media_dir), *(environ.get(name, "") for name in names))

    def _render(
        self, key: tuple[str, ...], environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        answer: list[tuple[str, _Headers]] = []

        def started(status: str, headers: _Headers, *exc_info: Any) -> Any:
            answer[:] = [(status, headers)]
            return start_response(status, headers, *exc_info)

        chunks = self._app(environ, started)
        [(status, headers)] = answer
        fields = {name.lower(): value for name, value in headers}
        expires = fields.get("x-accel-expires", "")
        size = int(fields.get("content-length", LARGEST_BYTES + 1))
        if not expires.startswith("@") or "set-cookie" in fields or size > LARGEST_BYTES:
            return chunks
        body = b"".join(chunks)
        getattr(chunks, "close", lambda: None)()
        if len(self._pages) >= MOST_PAGES:
            self._pages.clear()
        self._pages[key] = _Page(
            status, headers, body, int(expires[1:]), environ.get(metrics.ENDPOINT) or "none"
        )
        return [body]
