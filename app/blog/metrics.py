"""Prometheus metrics, on a port of their own that nothing in front leads to.

Every worker counts in files below PROMETHEUS_MULTIPROC_DIR, and whichever is asked adds them up.
"""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

PATH = "/metrics"
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_METHODS = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"}

# Labels take few values, whatever visitors ask for: each combination is kept for ever.
_requests = Counter(
    "blog_http_requests_total", "Answers, by what was asked", ["method", "endpoint", "status"]
)
_seconds = Histogram(
    "blog_http_request_seconds",
    "Time from a request to its answer",
    ["endpoint"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


def init_app(app: Flask) -> None:
    """Measure each request, and answer on METRICS_PORT with the metrics and nothing else."""
    app.before_request(_begin)
    app.after_request(_count)
    app.wsgi_app = _PortSwitch(app.wsgi_app, app.config["METRICS_PORT"])  # type: ignore[method-assign]  # Flask's interface


def clear() -> None:
    """Begin with an empty folder: what another run counted is over. Raises OSError."""
    folder = Path(os.environ[_FOLDER_VARIABLE])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def forget_worker(pid: int) -> None:
    """Give up what only a living worker has. Its counters stay in the sums."""
    mark_process_dead(pid)


class _PortSwitch:
    """WSGI middleware. It stands in front of the app, whose trusted hosts a scraper need not know."""

    def __init__(self, app: WSGIApplication, port: int) -> None:
        self._app, self._port = app, str(port)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("SERVER_PORT") != self._port:
            return self._app(environ, start_response)
        known = environ.get("PATH_INFO") == PATH
        response = _metrics() if known else Response("only /metrics is here\n", 404, mimetype="text/plain")
        return response(environ, start_response)


def _metrics() -> Response:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _begin() -> None:
    g.began_at = time.perf_counter()


def _count(response: Response) -> Response:
    endpoint = request.endpoint or "none"
    method = request.method if request.method in _METHODS else "other"
    _requests.labels(method, endpoint, response.status_code).inc()
    if "began_at" in g:  # not when the Host was refused
        _seconds.labels(endpoint).observe(time.perf_counter() - g.began_at)
    return response
