"""gunicorn's settings. WEB_CONCURRENCY is the number of workers, WEB_THREADS that of threads in each."""

import os
import socket
import sys

# prometheus_client looks at this when it is imported.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", "/tmp/slipway-metrics")  # noqa: S108 (memory, and ours alone)

from blog import logs, metrics
from blog.config import ConfigError, load_server


def _wildcard() -> str:
    """Return the address of all interfaces: [::] takes IPv4 as well, where the kernel has IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return "0.0.0.0"  # noqa: S104 (a container publishes what it means to)
    return "[::]"


try:
    settings = load_server()
except ConfigError as error:
    sys.exit(f"slipway: {error}")

wsgi_app = "wsgi:app"
bind = [f"{_wildcard()}:{port}" for port in (8000, settings["METRICS_PORT"]) if port]
worker_class = "gthread"
workers = settings["WEB_CONCURRENCY"]
threads = settings["WEB_THREADS"]
preload_app = True  # a wrong setting ends gunicorn with one message; no connection is open before the fork
timeout = 30
graceful_timeout = 30
keepalive = 75  # longer than the proxy's, so that the proxy is the one to close an idle connection

worker_tmp_dir = "/dev/shm"  # noqa: S108 (memory: the heartbeat must not wait for a disk, and / is read-only)
control_socket_disable = True

access_log_format = "%(m)s %(U)s %(s)s"
logconfig_dict = logs.config()


def on_starting(server) -> None:
    """Count from nothing."""
    metrics.clear()


def child_exit(server, worker) -> None:
    """Let the metrics know that a worker has ended."""
    metrics.forget_worker(worker.pid)
