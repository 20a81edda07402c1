"""The secrets in service: what a slot reads, the admin's password, and new values."""

import os
import secrets
import string
from collections.abc import Iterable
from pathlib import Path

from slipway.database import OWNERS, scram_verifier, stored_verifiers
from slipway.files import write_secret
from slipway.stack import SLOT_SECRETS, Stack

SECRET_LENGTH = 40
FORMER_KEYS = "app_secret_key_fallbacks"

# What a rotation can be asked for, and the secrets that this makes anew.
ROTATIONS = {
    "database": [*OWNERS.values(), "db_app_password"],
    "key": ["app_secret_key"],
    "admin": ["admin_password"],
}


def give_secrets(stack: Stack, slot: str) -> None:
    """Give slot its own copies of what the blog reads, as the secrets' files have it now.

    They stay as they are while the slot serves: a secret that changes is put into service as a release is.
    When the app's key is another than the one in service, that one stays valid for the sessions it signed,
    unless it is to be forgotten: then every session ends.
    """
    active, key = stack.active(), stack.secret("app_secret_key")
    former = None
    if active and not stack.forget_flag.exists():
        signed = stack.slot_secret(active, "app_secret_key")
        former = stack.slot_secret(active, FORMER_KEYS) if signed == key else signed
    directory = stack.in_service / slot
    stack.in_service.mkdir(parents=True, exist_ok=True)
    # The engine makes a directory that containers found again are to read, and lets everybody in.
    stack.in_service.chmod(0o700)
    directory.mkdir(mode=0o500)
    os.chown(directory, stack.host.settings.blog_uid, stack.host.settings.blog_uid)
    values = {name: stack.secret(name) for name in SLOT_SECRETS} | {FORMER_KEYS: former or ""}
    for name, value in values.items():
        write_secret(directory / name, value, stack.host.settings.blog_uid)


def for_admin(stack: Stack, image: str, command: str, slot: str | None = None) -> None:
    """Run `flask user COMMAND` for the admin, with the password of the file."""
    stack.flask(
        image,
        "user",
        command,
        "--email",
        stack.config["admin_email"],
        "--password-file",
        "/run/secrets/admin_password",
        slot=slot,
        options=("--volume", f"{stack.config['secrets']}/admin_password:/run/secrets/admin_password:ro"),
    )


def admin_waits(stack: Stack) -> bool:
    """Tell whether the file has another password for the admin than the one that was set last.

    What the admin chose in the blog since then does not count.
    """
    last = stack.in_service / "admin_password"
    return last.exists() and last.read_text() != stack.secret("admin_password")


def set_admin_password(stack: Stack, image: str) -> bool:
    """Set the admin's password where the file has a new one, which ends the admin's sessions.

    Returns:
        Whether there was one.
    """
    waits, last = admin_waits(stack), stack.in_service / "admin_password"
    if waits:
        for_admin(stack, image, "set-password")
    # A new admin got the file's password from ensure-admin.
    if waits or not last.exists():
        write_secret(last, stack.secret("admin_password"), 0)
    return waits


def waiting_secrets(stack: Stack) -> list[str]:
    """Return the names of the secrets whose file has another value than the one in service."""
    active, stored = stack.active(), stored_verifiers(stack)
    copies = {name: stack.slot_secret(active, name) if active else None for name in SLOT_SECRETS}
    return [
        *(
            secret
            for role, secret in OWNERS.items()
            if stored.get(role) != scram_verifier(stack.secret(secret), stored.get(role))
        ),
        *(name for name, copy in copies.items() if copy != stack.secret(name)),
        *(["admin_password"] if admin_waits(stack) else []),
    ]


def make_anew(stack: Stack, names: Iterable[str]) -> None:
    """Write a new random value into the file of each secret, as long as the old one and no shorter than 40.

    Nothing reads the files but a release, so what serves goes on with the old values.
    """
    alphabet = string.ascii_letters + string.digits
    for name in names:
        path = Path(stack.config["secrets"]) / name
        length = max(SECRET_LENGTH, len(stack.secret(name)))
        value = "".join(secrets.choice(alphabet) for _ in range(length))
        write_secret(path, value, path.stat().st_uid)
