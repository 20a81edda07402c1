"""Maintain nginx's certificate, /etc/slipway/tls/blog.pem, as the role `tls` configures it.

The file holds the key, the certificate and its chain. It is replaced atomically, and only if the new key
matches the new certificate. If nginx runs, it reloads. If nginx refuses the new pair, the old pair is
restored.
"""

import contextlib
import json
import os
import re
import ssl
import stat
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

from slipway.files import replace, sync, write, write_secret
from slipway.host import Host
from slipway.settings import DAY, TlsConfiguration, load_tls
from slipway.shell import CommandFailure, Failure
from slipway.unit import program

ADVICE = """\
The previous certificate stays in use. Check that
    - the A and AAAA records of each name point to this host, also in public DNS;
    - port 80 is reachable from the internet: the authority requests http://NAME/.well-known/acme-challenge/…;
    - the authority's rate limits are not used up; tls_acme_staging: true uses an authority for tests.
Then run the playbook again. The complete log is /var/log/letsencrypt/letsencrypt.log."""

HOOK = "/usr/local/bin/slipway tls renewed"
FORMER_HOOK = "/usr/local/sbin/slipway-tls renewed"


# --- Certificates -------------------------------------------------------------------------------------------


def days_left(host: Host, certificate: Path) -> float:
    """Return the remaining days of the first certificate in a PEM file; negative if it has expired."""
    end = host.run("openssl", "x509", "-in", certificate, "-noout", "-enddate").strip().partition("=")[2]
    return (ssl.cert_time_to_seconds(end) - time.time()) / DAY


def names_in(host: Host, certificate: Path, extension: str) -> set[str]:
    """Return the DNS names in an extension of the first certificate in a PEM file."""
    text = host.run("openssl", "x509", "-in", certificate, "-noout", "-ext", extension)
    return set(re.findall(r"DNS:([^,\s]+)", text))


def is_current(host: Host, certificate: Path, names: Iterable[str]) -> bool:
    """Tell whether there is a certificate for exactly these names that need not be renewed yet."""
    return (
        certificate.exists()
        and names_in(host, certificate, "subjectAltName") == set(names)
        and days_left(host, certificate) > host.settings.renew_days
    )


def pair_matches(certificate: Path, key: Path | None = None) -> bool:
    """Tell whether a certificate and its key exist, by default in the same file, and match.

    A power loss can leave neither, or a key and a certificate of different pairs.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError:
        return False
    return True


def served(host: Host) -> str | None:
    """Return nginx's key and certificate, or None if the file is unusable or has a wrong owner or mode."""
    path, uid = host.settings.certificate, host.settings.nginx_uid
    if not pair_matches(path):
        return None
    status = path.stat()
    ours = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, uid, 0o400)
    with contextlib.suppress(UnicodeDecodeError):
        return path.read_text() if ours else None
    return None


def install(host: Host, pem: str, check: bool = False) -> bool:
    """Make nginx use pem, the text of a key and its certificates; return whether that is a change.

    With check, change nothing.

    Raises:
        Failure: the key does not match the certificate, or nginx refuses the pair; the old pair is restored.
    """
    before = served(host)
    if pem == before or check:
        return pem != before
    check_pair(pem)
    path, uid = host.settings.certificate, host.settings.nginx_uid
    write_secret(path, pem, uid)
    try:
        # An nginx container without TLS does not mount the directory. A later `nginx apply` replaces the
        # container.
        if is_shown(host):
            host.run(*program("nginx", "reload"))
    except Failure:
        if before:
            write_secret(path, before, uid)
        raise
    return True


def check_pair(pem: str) -> None:
    """Raise Failure unless pem has a certificate and the matching key."""
    with tempfile.TemporaryDirectory() as place:
        candidate = Path(place, "pem")
        candidate.touch(mode=0o600)
        candidate.write_text(pem)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(candidate)
        except ssl.SSLError as error:
            raise Failure(f"The key does not match the certificate: {error}") from None


def is_shown(host: Host) -> bool:
    """Tell whether a running container mounts the directory of the certificate."""
    place = host.settings.certificate.parent
    # Without compose.yml, the engine may not be installed yet.
    there = (host.settings.project / "compose.yml").exists()
    return there and bool(host.run("docker", "ps", "--quiet", f"--filter=volume={place}").strip())


# --- The host's own authority -------------------------------------------------------------------------------


def own_is_current(host: Host, names: Iterable[str]) -> bool:
    """Tell whether nginx has a certificate of the host's own authority that need not be renewed yet."""
    certificate, authority = host.settings.certificate, host.settings.authority / "ca.pem"
    try:
        return (
            served(host) is not None
            and is_current(host, certificate, names)
            and names_in(host, authority, "nameConstraints") == set(names)
            and bool(host.run("openssl", "verify", "-CAfile", authority, certificate))
        )
    except Failure:
        return False


def make_own(host: Host, names: list[str]) -> str:
    """Return a new key and certificate of the host's own authority, which can sign for these names only.

    Keep the authority as long as its names are the same and it outlives the new certificate.
    """
    key, certificate = (host.settings.authority / name for name in ("ca.key", "ca.pem"))
    if not (
        pair_matches(certificate, key)
        and names_in(host, certificate, "nameConstraints") == set(names)
        and days_left(host, certificate) > host.settings.leaf_days
    ):
        make_authority(host, names)
    return make_leaf(host, names)


def make_authority(host: Host, names: list[str]) -> None:
    """Create an authority that can sign for these names only."""
    place = host.settings.authority
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    permitted = ",".join(f"permitted;DNS:{name}" for name in names)
    new = {name: place / f"{name}.new" for name in ("ca.key", "ca.pem")}
    sign(
        host,
        *("-keyout", new["ca.key"], "-out", new["ca.pem"], "-days", host.settings.authority_days),
        subject=f"Slipway authority of {names[0]}"[:64],
        extensions=[
            "basicConstraints = critical,CA:TRUE,pathlen:0",
            "keyUsage = critical,keyCertSign,cRLSign",
            f"nameConstraints = critical,{permitted}",
        ],
    )
    for name, file in new.items():
        sync(file)
        replace(file, place / name)


def make_leaf(host: Host, names: list[str]) -> str:
    """Return a new key, a certificate that the authority signs, and the authority's own certificate."""
    authority = host.settings.authority
    certificate, key = authority / "ca.pem", authority / "ca.key"
    with tempfile.TemporaryDirectory() as place:
        leaf = Path(place)
        sign(
            host,
            *("-keyout", leaf / "key", "-out", leaf / "pem", "-days", host.settings.leaf_days),
            *("-CA", certificate, "-CAkey", key),
            subject=names[0][:64],
            extensions=[
                "basicConstraints = critical,CA:FALSE",
                "keyUsage = critical,digitalSignature",
                "extendedKeyUsage = serverAuth",
                f"subjectAltName = {','.join(f'DNS:{name}' for name in names)}",
            ],
        )
        return "".join(file.read_text() for file in (leaf / "key", leaf / "pem", certificate))


def sign(host: Host, *options: str | Path | int, subject: str, extensions: Iterable[str]) -> None:
    """Create a key and a certificate with these extensions (RFC 5280) and options of `openssl req`."""
    config = [
        *("[req]", "prompt = no", "distinguished_name = subject", "x509_extensions = extensions"),
        *("[subject]", f"CN = {subject}"),
        *("[extensions]", "subjectKeyIdentifier = hash", "authorityKeyIdentifier = keyid", *extensions),
    ]
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    command = ("openssl", "req", "-x509", "-sha256", "-config", "/dev/stdin", *key, *map(str, options))
    host.run(*command, stdin="\n".join(config))


def how_to_trust(host: Host) -> str:
    """Return instructions for readers to trust the host's own authority."""
    authority = host.settings.authority / "ca.pem"
    fingerprint = host.run("openssl", "x509", "-in", authority, "-noout", "-fingerprint", "-sha256")
    return (
        f"Browsers trust this blog after you import the certificate of its authority, which can sign for no "
        f"other names: copy {authority} from the host and import it. Its SHA-256 fingerprint is "
        f"{fingerprint.strip().partition('=')[2]}."
    )


# --- An ACME authority --------------------------------------------------------------------------------------


def request_certificate(host: Host, config: TlsConfiguration) -> None:
    """Get a certificate with certbot, which answers the authority's challenge in nginx's webroot.

    Raises:
        Failure: the authority issued no certificate. The message has certbot's output and advice.
    """
    command = [
        *("certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email"),
        *("--email", config["email"], "--server", config["server"]),
        *("--webroot", "--webroot-path", config["webroot"]),
        *("--cert-name", config["lineage"], "--renew-with-new-domains", "--keep-until-expiring"),
        *("--deploy-hook", HOOK),
        *(f"--domain={name}" for name in config["names"]),
    ]
    try:
        host.run(*command, env=proxies() | ({"REQUESTS_CA_BUNDLE": config["ca"]} if config["ca"] else {}))
    except CommandFailure as failure:
        names = ", ".join(config["names"])
        # certbot prints the cause to standard output, and a summary to standard error.
        messages = dict.fromkeys([*failure.stdout.strip().splitlines(), *failure.output.strip().splitlines()])
        lines = "\n".join(f"    {line}" for line in messages)
        raise Failure(
            f"{config['server']} issued no certificate for {names}.\n"
            f"`{' '.join(command[:2])} …` failed ({failure.status}):\n{lines}\n{ADVICE}"
        ) from None


def proxies() -> dict[str, str]:
    """Return the caller's HTTP proxy variables: certbot may need a proxy to reach the authority."""
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


def pair(lineage: Path) -> str:
    """Return the key and the certificates of one of certbot's lineages, as nginx reads them."""
    files = [lineage / name for name in ("privkey.pem", "fullchain.pem")]
    if missing := [str(file) for file in files if not file.exists()]:
        raise Failure(
            f"The certificate from certbot is incomplete, without {' and '.join(missing)}. Remove it with "
            f"`certbot delete --cert-name {lineage.name}`, then run site.yml, which requests it again."
        )
    return "".join(file.read_text() for file in files)


def correct_hooks(host: Host) -> None:
    """Make certbot call this program after renewals, also of certificates that a former version requested."""
    for path in host.settings.renewals.glob("slipway-*.conf"):
        text = path.read_text()
        if FORMER_HOOK in text:
            write(path, text.replace(FORMER_HOOK, HOOK), stat.S_IMODE(path.stat().st_mode))


# --- Commands -----------------------------------------------------------------------------------------------


def prepare(host: Host, config: TlsConfiguration, check: bool) -> bool:
    """Ensure that nginx can start: install the provided certificate, or one of the host's own authority."""
    if config["mode"] == "provided":
        return install(host, sys.stdin.read(), check)
    if served(host) if config["mode"] == "acme" else own_is_current(host, config["names"]):
        return False
    return check or install(host, make_own(host, config["names"]))


def issue(host: Host, config: TlsConfiguration, check: bool) -> bool:
    """Install a certificate from the ACME authority; request one if none is there, or if it expires soon."""
    lineage, before = host.settings.lineages / config["lineage"], served(host)
    if not is_current(host, lineage / "fullchain.pem", config["names"]):
        if check:
            return True
        request_certificate(host, config)
    install(host, pair(lineage), check)
    return pair(lineage) != before


def renewed(host: Host, config: TlsConfiguration, check: bool) -> bool:
    """Install the certificate that certbot renewed, if it is the one in use (certbot's deploy hook)."""
    if "RENEWED_LINEAGE" not in os.environ:
        raise Failure("Only certbot runs `slipway tls renewed`: it sets RENEWED_LINEAGE.")
    lineage = Path(os.environ["RENEWED_LINEAGE"])
    return config["mode"] == "acme" and lineage.name == config["lineage"] and install(host, pair(lineage))


def keep(host: Host, config: TlsConfiguration, check: bool) -> bool:
    """Renew a certificate of the host's own authority; fail if nginx's certificate expires soon (daily)."""
    changed = False
    lineage = host.settings.lineages / config["lineage"]
    if config["mode"] == "selfsigned":
        changed = prepare(host, config, check)
    elif config["mode"] == "acme" and lineage.exists():
        changed = install(host, pair(lineage), check)
    if (days := days_left(host, host.settings.certificate)) < host.settings.alarm_days:
        raise Failure(
            f"The certificate expires in {days:.0f} days and was not renewed: run the playbook site.yml."
        )
    return changed


def off(host: Host, config: TlsConfiguration, check: bool) -> bool:
    """Stop renewals; the last certificate and the host's own authority stay."""
    if check:
        return True
    # A run that was killed may have removed the timer.
    if (host.settings.units / "slipway-tls.timer").exists():
        host.run("systemctl", "disable", "--now", "slipway-tls.timer")
    for lineage in host.settings.lineages.glob("slipway-*"):
        host.run("certbot", "delete", "--non-interactive", "--cert-name", lineage.name)
    for file in installed(host):
        file.unlink(missing_ok=True)
    host.run("systemctl", "daemon-reload")
    # Remove this file last: the playbooks run this command as long as it exists.
    host.settings.tls_configuration.unlink(missing_ok=True)
    return True


def installed(host: Host) -> list[Path]:
    """Return the files that the role `tls` installs, besides certificates and its configuration."""
    units = host.settings.units
    return [
        host.settings.tls_configuration.with_name("acme-ca.pem"),
        units / "certbot.service.d/slipway.conf",
        units / "slipway-tls.service",
        units / "slipway-tls.timer",
        # systemd's record of the timer's last run.
        host.settings.timers / "stamp-slipway-tls.timer",
        # A former version's program.
        host.settings.former_tls,
    ]


COMMANDS: dict[str, Callable[[Host, TlsConfiguration, bool], bool]] = {
    "prepare": prepare,
    "issue": issue,
    "renewed": renewed,
    "keep": keep,
    "off": off,
}


def command(host: Host, options: Namespace) -> int:
    """Run one of COMMANDS and print its result as one JSON object; return the exit status."""
    config = load_tls(host.settings.tls_configuration)
    if not options.check:
        correct_hooks(host)
    changed = COMMANDS[options.what](host, config, options.check)
    own = options.what == "prepare" and config["mode"] == "selfsigned" and not options.check
    print(json.dumps({"changed": changed, "advice": how_to_trust(host) if own else ""}))
    return 0
