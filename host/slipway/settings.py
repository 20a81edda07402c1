"""Paths, users and times, each stated once; and the configuration that Ansible's roles write."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

SLOTS = ("blue", "green")
# How many of a command's last lines a message shows.
LOG_LINES = 15
DAY = 86400  # seconds


@dataclass(frozen=True)
class Settings:
    """What is the same on every host. Tests use other values."""

    project: Path = Path("/opt/slipway")
    runtime: Path = Path("/run/slipway")
    # The certificate that nginx shows, and the key before it.
    certificate: Path = Path("/etc/slipway/tls/blog.pem")
    tls_configuration: Path = Path("/etc/slipway/tls.json")
    # The host's own authority.
    authority: Path = Path("/etc/slipway/ca")
    # Where certbot keeps certificates, and how it renews each.
    lineages: Path = Path("/etc/letsencrypt/live")
    renewals: Path = Path("/etc/letsencrypt/renewal")
    units: Path = Path("/etc/systemd/system")
    timers: Path = Path("/var/lib/systemd/timers")
    # Programs that this one took the place of.
    former_tls: Path = Path("/usr/local/sbin/slipway-tls")

    blog_uid: int = 10001
    nginx_uid: int = 101
    metrics_port: int = 9100

    database_seconds: float = 30
    webhook_seconds: float = 5
    # How long a reload of nginx waits for a release to end.
    lock_seconds: float = 300
    # As long as nginx keeps a connection on which nothing happens (its keepalive_timeout), and a second.
    idle_seconds: float = 31
    start_seconds: float = 60
    # As nginx's stop_grace_period: an answer that takes longer is lost.
    stop_seconds: int = 35

    leaf_days: int = 90
    authority_days: int = 3650
    renew_days: int = 30
    alarm_days: int = 14

    @property
    def configuration(self) -> list[Path]:
        """What the roles `stack` and `release` write; a later file outranks an earlier one."""
        # The first is of a former version, until the role `release` has run.
        return [self.project / name for name in ("slipway.json", "stack.json", "release.json")]

    @property
    def lock(self) -> Path:
        """The one lock of the host: of releases, of changes of nginx, of restores."""
        return self.runtime / "lock"


class Configuration(TypedDict):
    """What the program knows of this host's stack: first what the role `stack` says, then `release`."""

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
    """tls.json: what the role `tls` says about the certificate."""

    mode: str
    names: list[str]
    webroot: str
    lineage: str
    server: str
    email: str
    ca: str


def load(paths: list[Path]) -> Configuration:
    """Return what the roles `stack` and `release` say."""
    known: dict[str, object] = {}
    for path in paths:
        if path.exists():
            known |= json.loads(path.read_text())
    return cast(Configuration, known)


def load_tls(path: Path) -> TlsConfiguration:
    """Return what tls.json says."""
    return cast(TlsConfiguration, json.loads(path.read_text()))
