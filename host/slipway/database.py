"""The database: its start, its roles and their passwords, and its dumps."""

import base64
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path

from slipway.containers import inspect, state_and_log
from slipway.files import replace
from slipway.ledger import Release
from slipway.settings import SLOTS, SPARE_DISK
from slipway.shell import CommandFailure, Failure
from slipway.stack import PSQL, Stack

# The roles that do not belong to a slot, each with the secret that holds its password.
OWNERS = {"postgres": "db_superuser_password", "blog_migrator": "db_migrator_password"}


# This query hashes everything that roles.sql may change into one line.
ROLES = """
    SELECT md5(string_agg(fact, ' ' ORDER BY fact)) FROM (
        SELECT t::text FROM pg_authid t UNION ALL SELECT t::text FROM pg_auth_members t
        UNION ALL SELECT t::text FROM pg_default_acl t
        UNION ALL SELECT datname || datacl::text FROM pg_database
        UNION ALL SELECT relname || relacl::text FROM pg_class
            WHERE relname IN ('alembic_version', 'schema_history')
        UNION ALL SELECT proname || proacl::text FROM pg_proc WHERE proname ~ '^(lo_|pg_(try_)?advisory_)'
        UNION ALL SELECT nspowner || nspacl::text FROM pg_namespace WHERE nspname = 'public'
    ) facts (fact)
"""

# NOLOGIN does not close open sessions, so terminate them.
END_SESSIONS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity JOIN pg_roles ON rolname = usename
    WHERE usename IN ('blog_app_blue', 'blog_app_green') AND NOT rolcanlogin
"""


def start_database(stack: Stack) -> None:
    """Start the database and wait until it answers; raise Failure with its state and last log lines."""
    try:
        # Only `slipway up` replaces the container by one with a changed definition.
        stack.compose("up", "--detach", "--no-recreate", "--wait", "--wait-timeout", "120", "db")
    except CommandFailure as failure:
        found = stack.compose("ps", "--all", "--quiet", "db").split()
        words = [state_and_log(stack.host, container) for container in inspect(stack.host, *found)]
        raise Failure("\n".join([str(failure), *words])) from None
    # Ask the database too: after the engine has restarted, it reports a starting database as healthy.
    deadline = time.monotonic() + stack.host.settings.database_seconds
    while True:
        try:
            stack.compose("exec", "-T", "db", "pg_isready", "--quiet", "--host=127.0.0.1")
            return
        except CommandFailure:
            if time.monotonic() > deadline:
                raise
        stack.host.sleep(0.2)


def scram_verifier(password: str, existing: str | None = None) -> str:
    """Return the verifier that Postgres stores for a password.

    Postgres gets only the verifier, so its log never has the password itself.

    Args:
        password: the password; printable ASCII needs no SASLprep.
        existing: the stored verifier, returned unchanged if it matches password.

    The format is that of RFC 5803 with SCRAM-SHA-256 (RFC 7677).
    """
    salt, iterations = secrets.token_bytes(16), 4096
    if existing and existing.startswith("SCRAM-SHA-256$"):
        parameters = existing.split("$")[1].split(":")
        salt, iterations = base64.b64decode(parameters[1]), int(parameters[0])
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def stored_verifiers(stack: Stack) -> dict[str, str]:
    """Return the stored password verifier of each role, by name; empty for a role without a password."""
    answer = stack.query("SELECT rolname, coalesce(rolpassword, '') FROM pg_authid")
    return dict(line.split("|", 1) for line in answer.splitlines())


def reconcile_roles(stack: Stack, slots: Collection[str | None] | None = None, keep: bool = True) -> bool:
    """Set the database's roles, passwords and privileges as roles.sql and the secrets define them.

    Args:
        stack: the stack, with a running database.
        slots: the slots whose login is valid, by default the slot in service. Other slots lose their login.
        keep: if False, the transaction is rolled back, so that nothing changes.

    Returns:
        Whether anything was, or would be, changed.
    """
    slots = {stack.active()} if slots is None else slots
    stored = stored_verifiers(stack)
    variables = {
        f"{role}_verifier": scram_verifier(stack.secret(secret), stored.get(role))
        for role, secret in OWNERS.items()
    }
    for slot in SLOTS:
        role, password = f"blog_app_{slot}", stack.slot_secret(slot, "db_app_password")
        if slot not in slots:
            variables[role] = "NOLOGIN PASSWORD NULL"
        elif password:
            variables[role] = f"LOGIN PASSWORD ''{scram_verifier(password, stored.get(role))}''"
        else:
            variables[role] = ""  # unchanged
    script = (stack.directory / "roles.sql").read_text()
    lines = stack.compose(
        *("exec", "-T", "db", *PSQL),
        "--command=BEGIN",
        f"--command={ROLES}",
        "--file=-",
        f"--command={ROLES}",
        *(["--command=COMMIT", f"--command={END_SESSIONS}"] if keep else ["--command=ROLLBACK"]),
        stdin="\n".join([*(f"\\set {name} '{value}'" for name, value in variables.items()), script]),
    ).splitlines()
    return lines[:1] != lines[1:2]


def dump_path(stack: Stack, entry: Release) -> Path:
    """Return the path of the dump that was taken before the entry's migrations."""
    return stack.dumps / f"{entry.id}.dump"


def dump_database(stack: Stack, entry: Release) -> None:
    """Write the database to the entry's dump; raise Failure beforehand if the disk has too little space."""
    stack.dumps.mkdir(mode=0o700, exist_ok=True)
    # pg_dump writes pictures as hexadecimal digits; compressed, these are a seventh larger than the pictures.
    size = int(stack.query("SELECT pg_database_size('blog')")) * 6 // 5
    free = stack.host.free(stack.dumps)
    if free < size + SPARE_DISK:
        raise Failure(
            f"The dump before the migration may need {size // 10**6} MB, but {stack.dumps} has "
            f"{free // 10**6} MB of free space: free some space, then release again."
        )
    temporary = dump_path(stack, entry).with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        dump = (
            "exec",
            "-T",
            "db",
            "pg_dump",
            "--username=postgres",
            "--format=custom",
            "--schema=public",
            "blog",
        )
        stack.compose(*dump, into=file)
        os.fsync(file.fileno())
    replace(temporary, dump_path(stack, entry))


# All or nothing: COMMIT runs only after pg_restore has read the whole dump.
RESTORE = """
    { echo "BEGIN; SET LOCAL lock_timeout = '30s'; DROP SCHEMA public CASCADE;" \\
    && pg_restore --file=- && echo "COMMIT;"; } \\
    | psql --username=postgres --dbname=blog --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --output=/dev/null
"""


def restore_dump(stack: Stack, entry: Release) -> None:
    """Restore the database from the entry's dump."""
    with dump_path(stack, entry).open("rb") as file:
        stack.compose("exec", "-T", "db", "bash", "-euo", "pipefail", "-c", RESTORE, source=file)
    reconcile_roles(stack)
