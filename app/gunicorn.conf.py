"""gunicorn's settings. WEB_CONCURRENCY is the number of workers, WEB_THREADS that of threads in each."""

import os
import socket

from blog import logs


def _wildcard() -> str:
    """Return the address of all interfaces: [::] takes IPv4 as well, where the kernel has IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return "0.0.0.0"  # noqa: S104 (a container publishes what it means to)
    return "[::]"


wsgi_app = "wsgi:app"
bind = f"{_wildcard()}:8000"
worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = int(os.environ.get("WEB_THREADS", "4"))
preload_app = True  # a wrong setting ends gunicorn with one message; no connection is open before the fork
timeout = 30
graceful_timeout = 30
keepalive = 75  # longer than the proxy's, so that the proxy is the one to close an idle connection

worker_tmp_dir = "/dev/shm"  # noqa: S108 (memory: the heartbeat must not wait for a disk, and / is read-only)
control_socket_disable = True

access_log_format = "%(m)s %(U)s %(s)s"
logconfig_dict = logs.config()
