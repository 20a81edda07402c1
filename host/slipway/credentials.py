"""Secrets: the copies that a slot reads, the admin's password, and new values."""

import os
import secrets
import string
from collections.abc import Iterable, Mapping
from pathlib import Path

from slipway.database import OWNERS, scram_verifier, stored_verifiers
from slipway.files import read_secret, write_secret
from slipway.stack import SLOT_SECRETS, Stack

# At least as many characters as secrets_length in roles/secrets/defaults/main.yml, which is for new hosts.
SECRET_LENGTH = 40
FORMER_KEYS = "app_secret_key_fallbacks"

# The choices of a rotation, and the secrets that each one replaces.
ROTATIONS = {
    "database": [*OWNERS.values(), "db_app_password"],
    "key": ["app_secret_key"],
    "admin": ["admin_password"],
}


def copy_secrets(stack: Stack, slot: str) -> None:
    """Copy the secrets that the blog reads from their files to slot's own directory.

    The copies stay unchanged while the slot serves: a changed secret takes effect with a release.
    If the app's key changed, the key in service stays valid for the sessions that it signed, unless the
    forget flag is set: then every session ends.
    """
    former = "" if stack.forget_flag.exists() else former_key(stack)
    # The copies are not in the backups. A recovered host has the former key from this file.
    if former:
        write_secret(former_key_file(stack), former, 0)
    else:
        former_key_file(stack).unlink(missing_ok=True)
    write_copies(stack, slot, {name: stack.secret(name) for name in SLOT_SECRETS} | {FORMER_KEYS: former})


def former_key_file(stack: Stack) -> Path:
    """Return the path of the file with the app's former key, beside the directory of the secrets."""
    return Path(stack.config["secrets"]).with_name(FORMER_KEYS)


def former_key(stack: Stack) -> str:
    """Return the app's key that signed sessions before the present one; empty if there is none."""
    active = stack.active()
    signed = stack.slot_secret(active, "app_secret_key") if active else None
    if active and signed == stack.secret("app_secret_key"):
        signed = stack.slot_secret(active, FORMER_KEYS)
    if signed is None:  # a new host, or a lost copy
        signed = read_secret(former_key_file(stack))
    return signed or ""


def write_copies(stack: Stack, name: str, values: Mapping[str, str]) -> None:
    """Write secrets to a new directory that one of the blog's containers mounts.

    Args:
        stack: the stack.
        name: the name of the directory, such as that of a slot.
        values: the secrets by the names of their files.
    """
    directory = stack.in_service / name
    stack.in_service.mkdir(parents=True, exist_ok=True)
    # The engine may have created this directory for a mount, with access for everyone: correct the mode.
    stack.in_service.chmod(0o700)
    directory.mkdir(mode=0o500)
    os.chown(directory, stack.host.settings.blog_uid, stack.host.settings.blog_uid)
    for file, value in values.items():
        write_secret(directory / file, value, stack.host.settings.blog_uid)


def run_user_command(stack: Stack, image: str, command: str, slot: str | None = None) -> None:
    """Run `flask user COMMAND` for the admin, with the password from its file."""
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


def admin_password_changed(stack: Stack) -> bool:
    """Tell whether the file of the admin's password changed since the password was last set from it.

    A password that the admin chose in the blog since then does not count.
    """
    last = stack.in_service / "admin_password"
    return last.exists() and last.read_bytes() != stack.secret("admin_password").encode()


def set_admin_password(stack: Stack, image: str) -> bool:
    """Set the admin's password if its file has a new one. A new password ends the admin's sessions.

    Returns:
        Whether the file had a new password.
    """
    changed, last = admin_password_changed(stack), stack.in_service / "admin_password"
    if changed:
        run_user_command(stack, image, "set-password")
    # If no password was recorded yet, `ensure-admin` has just given a new admin the file's password.
    if changed or not last.exists():
        write_secret(last, stack.secret("admin_password"), 0)
    return changed


def changed_secrets(stack: Stack) -> list[str]:
    """Return the names of the secrets whose file differs from the value in service."""
    active, stored = stack.active(), stored_verifiers(stack)
    copies = {name: stack.slot_secret(active, name) if active else None for name in SLOT_SECRETS}
    return [
        *(
            secret
            for role, secret in OWNERS.items()
            if stored.get(role) != scram_verifier(stack.secret(secret), stored.get(role))
        ),
        *(name for name, copy in copies.items() if copy != stack.secret(name)),
        *(["admin_password"] if admin_password_changed(stack) else []),
    ]


def regenerate(stack: Stack, names: Iterable[str]) -> None:
    """Write a new random value to the file of each secret, as long as the old one and at least 40 characters.

    Only a release reads the files, so the running slot keeps the old values.
    """
    alphabet = string.ascii_letters + string.digits
    for name in names:
        path = stack.secret_file(name)
        length = max(SECRET_LENGTH, len(stack.secret(name)))
        value = "".join(secrets.choice(alphabet) for _place in range(length))
        write_secret(path, value, path.stat().st_uid)
