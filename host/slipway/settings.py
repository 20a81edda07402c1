"""Paths, users and times, each defined once; and the configuration that Ansible's roles write."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast, get_type_hints

from slipway.json_types import has_type
from slipway.shell import Failure

SLOTS = ("blue", "green")
DAY = 86400  # seconds
# Bytes that must stay free on the disk, or a release is refused. `slipway status` only shows the free space.
SPARE_DISK = 64 * 2**20


@dataclass(frozen=True)
class Settings:
    """Values that are the same on every host. Tests use other values."""

    project: Path = Path("/opt/slipway")
    runtime: Path = Path("/run/slipway")
    # One file: nginx's key, then its certificate.
    certificate: Path = Path("/etc/slipway/tls/blog.pem")
    tls_configuration: Path = Path("/etc/slipway/tls.json")
    # The host's own certificate authority.
    authority: Path = Path("/etc/slipway/ca")
    # certbot's certificates, and its renewal configuration for each certificate.
    lineages: Path = Path("/etc/letsencrypt/live")
    renewals: Path = Path("/etc/letsencrypt/renewal")
    units: Path = Path("/etc/systemd/system")
    # A link to the version of this program that starts next.
    program: Path = Path("/usr/local/lib/slipway/current")
    # The engine's directory, with all volumes.
    engine: Path = Path("/var/lib/docker")
    timers: Path = Path("/var/lib/systemd/timers")
    firewall: Path = Path("/etc/nftables.conf")
    # Besides the database, a host has these files, which Ansible cannot make again: restic.py backs them up.
    kept: tuple[Path, ...] = (Path("/etc/slipway"), Path("/etc/letsencrypt"))
    ledger: Path = Path("/var/lib/slipway/releases.json")
    # The TLS program of a former version. `slipway tls` replaces it.
    former_tls: Path = Path("/usr/local/sbin/slipway-tls")

    blog_uid: int = 10001
    nginx_uid: int = 101
    metrics_port: int = 9100

    database_seconds: float = 30
    webhook_seconds: float = 5
    # How long a reload of nginx waits for a release to end.
    lock_seconds: float = 300
    # keepalive_timeout in roles/images/files/nginx/nginx.conf plus one second.
    idle_seconds: float = 31
    start_seconds: float = 60
    # stop_grace_period of nginx in compose.yml.j2: a response that takes longer is lost.
    stop_seconds: int = 35

    # How long an unhealthy container may take to stop when it is restarted.
    heal_stop_seconds: int = 3
    # How long other operations wait for such a restart, or for a drill that they ended (lock.py).
    heal_seconds: float = 30
    # Seconds between looks for unhealthy containers, without an event: while a restart must wait; otherwise.
    heal_again_seconds: float = 2
    heal_look_seconds: float = 30
    # At most `heal_limit` restarts of a service in `heal_period` seconds.
    heal_limit: int = 3
    heal_period: int = 600

    # For the host's own authority. certbot decides when it renews certificates of an ACME authority, but
    # site.yml asks it only when `renew_days` are left. The alarm is for every certificate.
    leaf_days: int = 90
    authority_days: int = 3650
    renew_days: int = 30
    alarm_days: int = 14

    @property
    def configuration(self) -> list[Path]:
        """The files that the roles `stack`, `backup` and `release` write; a later file wins."""
        # slipway.json is from a former version; the role `release` removes it.
        return [self.project / name for name in ("slipway.json", "stack.json", "backup.json", "release.json")]

    @property
    def shown(self) -> list[Path]:
        """Files that are in the backups only to be read: they show how a lost host was configured."""
        return [self.project / "compose.yml", *self.configuration]

    @property
    def lock(self) -> Path:
        """The host's lock, for releases, changes of containers and restores."""
        return self.runtime / "lock"


class Configuration(TypedDict):
    """This host's configuration: the keys from the roles `stack`, `backup` and `release`, in this order."""

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
    # The blog's public URL. A former version did not write this key either.
    url: NotRequired[str]

    # A host without the role `backup` has no such keys.
    backup_repository: NotRequired[str]
    backup_heartbeat_url: NotRequired[str]
    # For restic.py; a former version did not write these keys. The repository is empty if the backups stay on
    # this host.
    backup_window_days: NotRequired[int]
    backup_files_repository: NotRequired[str]
    backup_files_more: NotRequired[list[str]]
    backup_files_options: NotRequired[list[str]]
    backup_files_environment: NotRequired[dict[str, str]]

    admin_email: str
    static: str
    smoke_paths: list[str]
    ready_timeout: float
    drain_seconds: float
    keep: int
    hooks: dict[str, str | None]
    hook_timeout: float
    webhook_url: str
    # The directory of the images' lists of packages. A former version did not write this key.
    sbom: NotRequired[str]
    # Where the images come from: build, pull or archive. A former version did not write this key either.
    images_blog: NotRequired[str]


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
    """Return the configuration from the roles' files; raise Failure if a file is broken."""
    known: dict[str, object] = {}
    for path in paths:
        if path.exists():
            known |= read(path, get_type_hints(Configuration))
    return cast(Configuration, known)


def load_tls(path: Path) -> TlsConfiguration:
    """Return the content of tls.json; raise Failure if it is missing or broken."""
    if not path.exists():
        raise Failure(f"{path} is missing: run the playbook site.yml, which configures TLS.")
    return cast(TlsConfiguration, read(path, get_type_hints(TlsConfiguration)))


def read(path: Path, types: dict[str, object]) -> dict[str, object]:
    """Return the JSON object in a file; raise Failure unless its values have the types of their keys."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
        if wrong := [key for key in values if key in types and not has_type(values[key], types[key])]:
            raise ValueError(f"values of the wrong type: {', '.join(wrong)}")
    except ValueError as error:
        raise Failure(f"{path} is broken ({error}): run the playbook site.yml, which writes it.") from None
    return values
