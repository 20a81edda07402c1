"""gunicorn settings. WEB_CONCURRENCY sets the number of workers, WEB_THREADS the threads per worker."""

import os
import socket
import sys

# prometheus_client reads this variable at import.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", "/tmp/slipway-metrics")  # noqa: S108 (a private tmpfs)

from blog import logs, metrics
from blog.config import ConfigError, load_server


def _wildcard() -> str:
    """Return the wildcard address: [::], which also accepts IPv4, or 0.0.0.0 if the kernel has no IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return "0.0.0.0"  # noqa: S104 (the container publishes only chosen ports)
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
# A wrong setting stops gunicorn with one message, instead of one from each worker. The workers share no
# connection, because the app opens none before the fork.
preload_app = True
timeout = 30
graceful_timeout = 30
keepalive = 75  # longer than an nginx upstream's default of 60 s, so that nginx closes idle connections first

worker_tmp_dir = "/dev/shm"  # noqa: S108 (memory: the heartbeat must not wait for a disk, and / is read-only)
control_socket_disable = True

access_log_format = "%(m)s %(U)s %(s)s"
logconfig_dict = logs.config()


def on_starting(server) -> None:
    """Reset the metrics."""
    metrics.clear()


def child_exit(server, worker) -> None:
    """Tell the metrics that a worker has exited."""
    metrics.forget_worker(worker.pid)
