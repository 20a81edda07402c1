"""Start nginx and the database as compose.yml defines them.

A changed definition of the database replaces its container, so the blog waits for some seconds. This happens
under the lock, so that it never interrupts a migration, a release or a dump. Requests that have begun finish
first; requests that begin meanwhile wait in the blog (app/blog/outage.py).
"""

import contextlib
import json
from argparse import Namespace
from typing import Any

from slipway import containers
from slipway.containers import Inspected, compose
from slipway.host import Host
from slipway.lock import lock
from slipway.shell import CommandFailure, Failure
from slipway.unit import exec_in_unit

SERVICES = ("db", "nginx")
PSQL = ("psql", "--username=postgres", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--output=/dev/null")

# Let the blog's transactions finish, and let none begin, before the database stops: after SIGTERM, Postgres
# refuses new connections, and stops when the last one has ended ("smart shutdown"). So end the blog's
# connections that are in no transaction, until none is left or two seconds are over. Spare a connection that
# was used in the last 0.2 s: its request may be about to begin another transaction.
# The connection slipway_hold keeps Postgres from stopping by itself, because the engine would then start it
# again. If this program is killed, Postgres stops when that connection ends, the engine starts it again, and
# nothing else is left to undo.
FINISH_TRANSACTIONS = r"""
CHECKPOINT;
\! PGAPPNAME=slipway_hold psql --username=postgres --command='SELECT pg_sleep(20)' >/dev/null 2>&1 &
DO $$
BEGIN
    FOR attempt IN 1..100 LOOP
        PERFORM pg_stat_clear_snapshot();
        IF EXISTS (
            SELECT FROM pg_stat_activity WHERE application_name = 'slipway_hold' AND state = 'active'
        ) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RAISE 'The connection slipway_hold did not begin.';
END $$;
\! kill -TERM 1
DO $$
BEGIN
    FOR attempt IN 1..40 LOOP
        PERFORM pg_stat_clear_snapshot();
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE usename ~ '^blog_app_' AND state = 'idle'
            AND state_change < clock_timestamp() - interval '0.2 s';
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename ~ '^blog_app_');
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
"""


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


def up(host: Host) -> bool:
    """Start nginx and the database, and wait until they are healthy; return whether anything changed.

    Raises:
        Failure: with the state and the last log lines of each container that does not run.
    """
    before = state(host)
    for container in containers.of_service(host, "db", "--filter=status=running"):
        if database_changes(host, compose(host, "config", "--hash=db").split()[-1]):
            # The database may not answer.
            with contextlib.suppress(Failure):
                host.run(*("docker", "exec", "--interactive", container), *PSQL, stdin=FINISH_TRANSACTIONS)
    try:
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
