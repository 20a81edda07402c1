"""Paths, users and times, each defined once; and the configuration that Ansible's roles write."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast

SLOTS = ("blue", "green")
# How many of a command's last lines a message shows.
LOG_LINES = 15
DAY = 86400  # seconds


@dataclass(frozen=True)
class Settings:
    """Values that are the same on every host. Tests use other values."""

    project: Path = Path("/opt/slipway")
    runtime: Path = Path("/run/slipway")
    # nginx's key and certificate, in this order.
    certificate: Path = Path("/etc/slipway/tls/blog.pem")
    tls_configuration: Path = Path("/etc/slipway/tls.json")
    # The host's own certificate authority.
    authority: Path = Path("/etc/slipway/ca")
    # certbot's certificates, and its renewal configuration for each certificate.
    lineages: Path = Path("/etc/letsencrypt/live")
    renewals: Path = Path("/etc/letsencrypt/renewal")
    units: Path = Path("/etc/systemd/system")
    timers: Path = Path("/var/lib/systemd/timers")
    # The TLS program of a former version. `slipway tls` replaces it.
    former_tls: Path = Path("/usr/local/sbin/slipway-tls")

    blog_uid: int = 10001
    nginx_uid: int = 101
    metrics_port: int = 9100

    database_seconds: float = 30
    webhook_seconds: float = 5
    # How long a reload of nginx waits for a release to end.
    lock_seconds: float = 300
    # nginx's timeout of idle connections (keepalive_timeout) plus one second.
    idle_seconds: float = 31
    start_seconds: float = 60
    # nginx's stop_grace_period: a response that takes longer is lost.
    stop_seconds: int = 35

    leaf_days: int = 90
    authority_days: int = 3650
    renew_days: int = 30
    alarm_days: int = 14

    @property
    def configuration(self) -> list[Path]:
        """The files that the roles `stack` and `release` write; a later file overrides an earlier one."""
        # slipway.json is from a former version; the role `release` removes it.
        return [self.project / name for name in ("slipway.json", "stack.json", "release.json")]

    @property
    def lock(self) -> Path:
        """The host's only lock, for releases, changes of nginx and restores."""
        return self.runtime / "lock"


class Configuration(TypedDict):
    """This host's configuration: first the keys from the role `stack`, then those from `release`."""

    directory: str
    state: str
    secrets: str
    in_service: str
    host: str
    public: str
    tls: bool
    preview: str
    slots: dict[str, str]
    session_cookie: str
    # SHA-256 of the compose.yml with which `docker compose up` last finished. A former version of this
    # program did not write this key.
    compose: NotRequired[str]

    admin_email: str
    static: str
    smoke_paths: list[str]
    ready_timeout: float
    drain_seconds: float
    keep: int
    hooks: dict[str, str]
    hook_timeout: float
    webhook_url: str


class TlsConfiguration(TypedDict):
    """The content of tls.json: the certificate's configuration from the role `tls`."""

    mode: str
    names: list[str]
    webroot: str
    lineage: str
    server: str
    email: str
    ca: str


def load(paths: list[Path]) -> Configuration:
    """Return the configuration from the roles `stack` and `release`."""
    known: dict[str, object] = {}
    for path in paths:
        if path.exists():
            known |= json.loads(path.read_text())
    return cast(Configuration, known)


def load_tls(path: Path) -> TlsConfiguration:
    """Return the content of tls.json."""
    return cast(TlsConfiguration, json.loads(path.read_text()))
