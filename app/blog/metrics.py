"""Prometheus metrics on a separate port, to which no proxy forwards requests.

Each worker counts in files below PROMETHEUS_MULTIPROC_DIR. The worker that answers Prometheus adds up the
files of all workers.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from sqlalchemy.exc import DBAPIError, TimeoutError

from . import media_content
from .models import db

PATH = "/metrics"
ENDPOINT = "slipway.endpoint"  # the key of the request's endpoint in the WSGI environment
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_METHODS = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"}

# Each combination of labels stays in memory, so visitors must not be able to create new label values.
_requests = Counter("blog_http_requests_total", "Number of responses", ["method", "endpoint", "status"])
_seconds = Histogram(
    "blog_http_request_seconds",
    "Time from a request to its response",
    ["endpoint"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


def init_app(app: Flask) -> None:
    """Measure each request. Serve the metrics on METRICS_PORT, and nothing else on that port."""
    app.before_request(_begin)
    app.after_request(_count)
    app.wsgi_app = _PortSwitch(app, app.config["METRICS_PORT"])  # type: ignore[method-assign]  # Flask's interface


def clear() -> None:
    """Empty PROMETHEUS_MULTIPROC_DIR, to remove the counts of an earlier run. Raises OSError."""
    folder = Path(os.environ[_FOLDER_VARIABLE])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def forget_worker(pid: int) -> None:
    """Tell Prometheus' library that a worker has exited. The sums still contain the worker's counts."""
    mark_process_dead(pid)


def count(method: str, endpoint: str, status: int, seconds: float) -> None:
    """Count a response that did not come from Flask's app, and the time that it took."""
    _requests.labels(method, endpoint, status).inc()
    _seconds.labels(endpoint).observe(seconds)


class _PortSwitch:
    """Answer on the metrics port before the app does: the app would refuse the Host header of Prometheus."""

    def __init__(self, app: Flask, port: int) -> None:
        self._app, self._next, self._port = app, app.wsgi_app, str(port)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("SERVER_PORT") != self._port:
            return self._next(environ, start_response)
        if environ.get("PATH_INFO") == PATH:
            response = _metrics(self._app)
        else:
            response = Response("this port serves only /metrics\n", 404, mimetype="text/plain")
        return response(environ, start_response)


class _Pictures(Collector):
    """The number of pictures that `flask media adopt` has to take over. Without the database, no number."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._app.app_context():
            try:
                number = media_content.count_without_content(db.session)
            except (DBAPIError, TimeoutError):
                return
        meaning = "Number of pictures that are only in MEDIA_DIR, not in the database"
        yield GaugeMetricFamily("blog_pictures_without_content", meaning, number)


def _metrics(app: Flask) -> Response:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    registry.register(_Pictures(app))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _begin() -> None:
    request.environ[ENDPOINT] = request.endpoint
    g.began_at = time.perf_counter()


def _count(response: Response) -> Response:
    endpoint = request.endpoint or "none"
    method = request.method if request.method in _METHODS else "other"
    _requests.labels(method, endpoint, response.status_code).inc()
    if "began_at" in g:  # it is not set if the Host header was refused
        _seconds.labels(endpoint).observe(time.perf_counter() - g.began_at)
    return response
