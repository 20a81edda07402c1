"""The copy of a database into another major version of Postgres, and the comparison of all rows."""

import json
import time
from collections.abc import Callable

from slipway import containers
from slipway.containers import state_and_log
from slipway.shell import CommandFailure, Failure, say
from slipway.stack import PSQL, Stack

START_SECONDS = 120
# Copy all roles and the database `blog` with its settings, from the server $1. The roles and the databases
# that a new cluster has already are left out.
TRANSFER = """
    PGPASSWORD=$(< "$POSTGRES_PASSWORD_FILE")
    export PGPASSWORD
    from=(--host="$1" --port=5432 --username=postgres)
    into=(psql --username=postgres --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --output=/dev/null)
    pg_dumpall "${from[@]}" --globals-only | sed '/^CREATE ROLE postgres;$/d' | "${into[@]}" --dbname=postgres
    pg_dump "${from[@]}" --create --section=pre-data blog | sed '/^CREATE DATABASE /d' |
      "${into[@]}" --dbname=postgres
    pg_dump "${from[@]}" --section=data --section=post-data blog | "${into[@]}" --dbname=blog
    vacuumdb --username=postgres --all --analyze-only --quiet
"""
# Make sure that pgBackRest knows this version of Postgres.
STANZA = """
    unset PGBACKREST_CONFIG_INCLUDE_PATH  # this container has no secrets of the backups
    pgbackrest --stanza=blog --repo1-path=/tmp/repository --pg1-path="${PGDATA%/*}/$CLUSTER" --no-online \\
      --log-level-file=off stanza-create
"""
# For each table, the number of its rows, and a sum of the digests of all rows, whose order does not matter.
# Also each sequence with its value, and each index.
CONTENT = """
    WITH schemas AS (
        SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    ), tables AS (
        SELECT format('%I.%I', nspname, relname) AS name
        FROM pg_class JOIN schemas ON schemas.oid = relnamespace WHERE relkind IN ('r', 'm')
    )
    SELECT json_object_agg(name, content) FROM (
        SELECT 'table ' || name, (xpath('/row/content/text()', query_to_xml(format(
            'SELECT count(*) || '' rows, digest '' || coalesce(sum(
                 (''x'' || left(md5(the_row::text), 16))::bit(64)::bigint), 0) AS content
             FROM %s the_row', name
        ), false, true, '')))[1]::text FROM tables
        UNION ALL SELECT 'sequence ' || format('%I.%I', schemaname, sequencename),
            coalesce(last_value, 0)::text
        FROM pg_sequences
        UNION ALL SELECT 'index ' || format('%I.%I', schemaname, indexname), 'exists'
        FROM pg_indexes WHERE schemaname IN (SELECT nspname FROM schemas)
    ) parts (name, content)
"""


class Copy:
    """A database of the new version, into which another one is copied.

    Attributes:
        service: the service in the new compose.yml.
        host: the address at which its container reaches the database that is copied.
    """

    def __init__(self, stack: Stack, text: str, service: str, host: str) -> None:
        self.stack, self.text, self.service, self.host = stack, text, service, host

    def compose(self, *arguments: str) -> str:
        """Run docker compose with the new compose.yml."""
        return self.stack.compose("--file", "-", *arguments, stdin=self.text)

    def start(self) -> None:
        """Create an empty cluster, and start it; raise Failure with the last lines of its log."""
        self.compose("up", "--detach", "--no-deps", "--force-recreate", self.service)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                # The entry point creates the cluster with a server that accepts no TCP connections.
                self.compose("exec", "-T", self.service, "pg_isready", "--quiet", "--host=127.0.0.1")
                return
            except CommandFailure:
                found = containers.inspect(
                    self.stack.host, *containers.of_service(self.stack.host, self.service)[:1]
                )
                ended = [one for one in found if one["State"]["Status"] != "running"]
                if ended or time.monotonic() > deadline:
                    words = [state_and_log(self.stack.host, one) for one in found]
                    raise Failure("\n".join(["The new version did not start.", *words])) from None
            self.stack.host.sleep(0.5)

    def fill(self, query: Callable[[str], str]) -> int:
        """Copy the database, and compare both.

        Args:
            query: runs one SQL statement in the database that is copied.

        Returns:
            The number of rows.

        Raises:
            Failure: the copy differs, or it could not be made.
        """
        command = ("bash", "-euo", "pipefail", "-c", TRANSFER, "transfer", self.host)
        self.compose("exec", "-T", self.service, *command)
        say("comparing all rows")
        wanted: dict[str, str] = json.loads(query(CONTENT) or "{}")
        found: dict[str, str] = json.loads(
            self.compose("exec", "-T", self.service, *PSQL, f"--command={CONTENT}") or "{}"
        )
        names = sorted(wanted.keys() | found.keys())
        if wrong := [name for name in names if wanted.get(name) != found.get(name)]:
            told = "; ".join(f"{name}: {found.get(name)} instead of {wanted.get(name)}" for name in wrong)
            raise Failure(f"The copy differs from the database. {told}")
        return sum(int(value.split()[0]) for name, value in wanted.items() if name.startswith("table "))

    def check_backups(self) -> None:
        """Raise Failure unless pgBackRest can back up the database."""
        try:
            self.compose("exec", "-T", self.service, "bash", "-euc", STANZA)
        except CommandFailure as failure:
            raise Failure(f"The new version could not be backed up. {failure}") from None

    def stop(self) -> None:
        """Stop the database, and remove its container; the files stay."""
        self.compose("rm", "--stop", "--force", self.service)
