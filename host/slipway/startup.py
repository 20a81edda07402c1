"""Start nginx and the database as compose.yml defines them.

A changed definition of the database replaces its container, so the blog waits for some seconds. This happens
under the lock, so that it never interrupts a migration, a release or a dump. POSTs that have begun finish
first, and others wait; the blog repeats requests that only read (app/blog/outage.py).
"""

import contextlib
import json
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from slipway import containers
from slipway.containers import Inspected, compose
from slipway.host import Host
from slipway.lock import lock
from slipway.shell import CommandFailure, Failure
from slipway.stack import PSQL
from slipway.unit import exec_in_unit

SERVICES = ("db", "nginx")

# Let POSTs of the blog finish, and let none begin, before the database stops. The transaction of a POST has
# read alembic_version (`_begin_transaction` in app/blog/outage.py), so this lock waits until it ends, but at
# most two seconds. A POST that begins meanwhile waits for this lock, and has done nothing when the database
# stops. A request may write a little more after its transaction, so wait for another moment. If this program
# is killed, the lock ends after 10 seconds. Postgres is the first process of the container, and takes the
# failure of an orphaned psql for a crash of its own, so the shell around it ends with `true`.
LOCK_TABLE = "BEGIN; SET LOCAL lock_timeout = '2s'; LOCK TABLE public.alembic_version; SELECT pg_sleep(10)"
HOLD = f'PGAPPNAME=slipway_hold psql --username=postgres --dbname=blog --command="{LOCK_TABLE}"'
HOLD_POSTS = f"""
CHECKPOINT;
\\! {{ {HOLD}; true; }} >/dev/null 2>&1 &
DO $$
BEGIN
    FOR attempt IN 1..60 LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN EXISTS (
            SELECT FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'
            AND relation = to_regclass('public.alembic_version')
        );
        EXIT WHEN attempt > 20 AND NOT EXISTS (
            SELECT FROM pg_stat_activity WHERE application_name = 'slipway_hold'
        );
        PERFORM pg_sleep(0.05);
    END LOOP;
    PERFORM pg_sleep(0.3);
END $$;
"""
RELEASE_POSTS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'slipway_hold'"
)


def database_changes(host: Host, wanted: str, text: str | None = None) -> list[str]:
    """Return how compose.yml changes the database's container; empty if its definition stays.

    Args:
        host: the host.
        wanted: compose's hash of the database's definition.
        text: used instead of the content of compose.yml.
    """
    found = containers.inspect(host, *containers.of_service(host, "db")[:1])
    if not found or containers.config_hash(found[0]) == wanted:
        return []
    service = json.loads(compose(host, "config", "--format", "json", stdin=text))["services"]["db"]
    return [name for name, differs in differences(found[0], service).items() if differs] or ["other settings"]


def differences(container: Inspected, service: dict[str, Any]) -> dict[str, bool]:
    """Tell for each part of a definition whether it differs from a container.

    Args:
        container: the `docker inspect` output.
        service: the definition, from `docker compose config --format json`.
    """
    config, limits = container["Config"], container["HostConfig"]
    environment = {f"{name}={value}" for name, value in service.get("environment", {}).items()}
    return {
        "image": container["Image"] != service["image"],
        "command": config["Cmd"] != service.get("command"),
        "environment": not environment <= set(config["Env"]),
        "memory": limits["Memory"] != int(service.get("mem_limit", 0)),
        "processors": limits["NanoCpus"] != round(float(service.get("cpus", 0)) * 1e9),
        "volume": config["Labels"].get("slipway.volume") != service.get("labels", {}).get("slipway.volume"),
    }


def is_running(container: Inspected) -> bool:
    """Tell whether a container runs and is healthy."""
    state = container["State"]
    return (state["Status"], state.get("Health", {}).get("Status")) == ("running", "healthy")


def found_services(host: Host) -> list[Inspected]:
    """Return the `docker inspect` output of the containers of nginx and the database."""
    return containers.inspect(host, *(one for name in SERVICES for one in containers.of_service(host, name)))


def state(host: Host) -> object:
    """Return what `docker compose up` may change: containers and their starts, networks and volumes."""
    objects = [
        host.run("docker", kind, "ls", "--quiet", containers.PROJECT) for kind in ("network", "volume")
    ]
    return objects, [(found["Id"], found["State"].get("StartedAt")) for found in found_services(host)]


@contextlib.contextmanager
def posts_held(host: Host) -> Iterator[None]:
    """If the definition of the database has changed, hold POSTs while the block replaces its container."""
    running = containers.of_service(host, "db", "--filter=status=running")
    if not running or not database_changes(host, compose(host, "config", "--hash=db").split()[-1]):
        yield
        return
    # The database may hang.
    psql = ("docker", "exec", "--interactive", *running, "timeout", "20", *PSQL)
    with contextlib.suppress(Failure):
        host.run(*psql, stdin=HOLD_POSTS)
    try:
        yield
    except BaseException:
        with contextlib.suppress(Failure):
            host.run(*psql, stdin=RELEASE_POSTS)
        raise


def up(host: Host) -> bool:
    """Start nginx and the database, and wait until they are healthy; return whether anything changed.

    Raises:
        Failure: with the state and the last log lines of each container that does not run.
    """
    before = state(host)
    try:
        with posts_held(host):
            compose(host, "up", "--detach", "--pull=never", "--wait", "--wait-timeout=120", *SERVICES)
    except CommandFailure as failure:
        down = [found for found in found_services(host) if not is_running(found)]
        words = [str(failure), *(containers.state_and_log(host, container) for container in down)]
        raise Failure("\n".join(words)) from None
    return state(host) != before


def command_up(host: Host, options: Namespace) -> int:
    if not options.in_unit:
        exec_in_unit("slipway-up", options.arguments)
    with lock(host, "a start of nginx and the database", other="Another operation"):
        print(json.dumps({"changed": up(host)}))
    return 0
