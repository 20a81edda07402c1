"""Migrate the database schema, and tell whether this code can run on the schema.

A migration is destructive if it removes something that older code needs. Code whose newest revision is R can
run on a database if R was applied there and no destructive revision was applied after R. So the previous
release can still run while and after the next release adds something to the schema.

A destructive migration has `destructive = True` in its file. While it is pending, a release is refused unless
somebody has allowed this migration by name: plan_migrations in host/slipway/schema.py.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import Revision
from flask import current_app
from psycopg2.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, create_engine, insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import aliased
from sqlalchemy.pool import NullPool

from .config import CONNECT_TIMEOUT_S
from .models import SchemaHistory

MIGRATIONS = Path(__file__).parent.parent / "migrations"
ADVISORY_LOCK = 5_133_847  # any number, as long as every release uses the same one
LOCK_TIMEOUT_S = 5  # how long a statement may wait for a table lock; readers wait behind this statement


class SchemaError(Exception):
    """The schema cannot be migrated, or this code cannot run on it. The message says how to correct this."""


class BlockedError(SchemaError):
    """The destructive `revision` of a newer release removed parts of the schema that this code needs."""

    def __init__(self, revision: str):
        super().__init__(f"revision {revision} removed parts that this release needs: deploy a newer release")
        self.revision = revision


@dataclass(frozen=True)
class SchemaState:
    """The revisions of the database compared with those of this code.

    current: the database's newest revision, or None. head: this code's newest revision.
    pending: the revisions to apply. destructive: the pending revisions that are destructive.
    blocked_by: the destructive revision of a newer release that blocks this code, or None.
    """

    current: str | None
    head: str
    pending: list[str]
    destructive: list[str]
    blocked_by: str | None = None


def head() -> str:
    """Return the newest revision of this code."""
    newest = _scripts(MIGRATIONS).get_current_head()
    if newest is None:
        raise SchemaError(f"{MIGRATIONS} contains no migrations: install the release again")
    return newest


def check_compatible(connection: Connection) -> None:
    """Raise SchemaError if this code cannot run on the schema of `connection`."""
    mine, later = SchemaHistory, aliased(SchemaHistory)
    broken_by = select(later.revision).where(later.id > mine.id, later.destructive).limit(1).scalar_subquery()
    row = connection.execute(select(mine.revision, broken_by).where(mine.revision == head())).one_or_none()
    if row is None:
        raise SchemaError(f"revision {head()} has not been applied: run `flask migrate`")
    if row[1] is not None:
        raise BlockedError(row[1])


def inspect_state(connection: Connection) -> SchemaState:
    """Compare the database with this code. Change nothing.

    Raises SchemaError if the database's revisions belong neither to this code nor to a newer release.
    """
    scripts = _scripts(MIGRATIONS)
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is None or current in known:
        steps = [*scripts.iterate_revisions("head", current or "base")][::-1]
        destructive = [step.revision for step in steps if _destructive(step)]
        return SchemaState(current, head(), [step.revision for step in steps], destructive)
    try:
        check_compatible(connection)
    except BlockedError as error:
        return SchemaState(current, head(), [], [], error.revision)
    return SchemaState(current, head(), [], [])


def migrate(wait_s: float) -> SchemaState:
    """Migrate the database to this code's newest revision in one transaction; return the former state.

    wait_s: the time in seconds to wait until the migration of another process ends.
    Raises SchemaError if the other migration does not end, if a table stays locked, or if the database is
    newer than this code and not compatible with it.
    """
    with migrator_engine().connect() as connection:
        _lock(connection, wait_s)
        with connection.begin():
            state = inspect_state(connection)
            if state.blocked_by:
                raise BlockedError(state.blocked_by)
            if state.pending:
                _upgrade(connection)
        return state


def migrator_engine() -> Engine:
    """Return an engine without a pool, so that closing its connection releases the advisory lock."""
    return create_engine(
        current_app.config["DATABASE_URL"],
        poolclass=NullPool,
        connect_args={"application_name": "slipway migrate", "connect_timeout": CONNECT_TIMEOUT_S},
    )


def record_revision(*, ctx: MigrationContext, step: MigrationInfo, **_: Any) -> None:
    """Record an applied migration in `schema_history`. Alembic calls this function."""
    if ctx.connection is None:
        raise SchemaError("Alembic's offline mode does not work with this schema: run `flask migrate`")
    row = {"revision": step.up_revision_id, "destructive": _destructive(step.up_revision)}
    ctx.connection.execute(insert(SchemaHistory).values(row))


def _destructive(revision: Revision | None) -> bool:
    """Tell whether a migration is marked as destructive."""
    return isinstance(revision, Script) and bool(getattr(revision.module, "destructive", False))


def _upgrade(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        raise SchemaError(
            f"a table stayed locked for {LOCK_TIMEOUT_S} s, so nothing was changed: "
            "run `flask migrate` again when the transaction that holds the lock has ended"
        ) from error


def _lock(connection: Connection, wait_s: float) -> None:
    """Take the advisory lock. Postgres releases the lock when `connection` is closed."""
    with connection.begin():
        milliseconds = max(1, round(wait_s * 1000))  # a timeout of 0 would mean no limit
        connection.execute(text(f"SET lock_timeout = {milliseconds}"))
    try:
        with connection.begin():
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
            connection.execute(text("RESET lock_timeout"))
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        raise SchemaError(
            f"another migration still runs after {wait_s:g} s ({_lock_holder(connection)}): wait until it "
            "has ended and run `flask migrate` again, or end that connection with pg_terminate_backend"
        ) from error


def _lock_holder(connection: Connection) -> str:
    row = connection.execute(
        text(
            "SELECT a.pid, a.usename, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
            "AND l.classid = 0 AND l.objid = :key AND l.database = a.datid"
        ),
        {"key": ADVISORY_LOCK},
    ).first()
    if row is None:
        return "the other process has just ended"
    return f"process {row.pid} of role {row.usename}, {row.application_name!r}"


@cache
def _scripts(migrations: Path) -> ScriptDirectory:
    return ScriptDirectory(str(migrations))
