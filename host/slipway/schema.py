"""Migrations: the changes that an image would make to the schema, and how to undo them.

The image itself tells which changes it would make, and whether it can run on the schema: app/blog/schema.py.
"""

import contextlib
from collections.abc import Collection
from typing import Any

from slipway.containers import PROJECT
from slipway.database import dump_path
from slipway.shell import Failure
from slipway.stack import Stack

# End the sessions of a migration, and wait at most ten seconds for the end of each.
END_MIGRATION = (
    "SELECT bool_and(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename = 'blog_migrator'"
)


def plan_migrations(stack: Stack, image: str, slot: str, allow: Collection[str]) -> dict[str, Any]:
    """Return the image's plan for the schema; refuse a plan that must not run.

    Args:
        image: the release's image.
        slot: the slot that the release is for.
        allow: revisions whose destructive migration was acknowledged.

    Returns:
        The output of `flask migrate --check`: pending, current, head, destructive.

    Raises:
        Failure: the image cannot run on the schema, or a destructive migration was not acknowledged.
    """
    plan = stack.flask(image, "migrate", "--check", slot=slot, service="flask_migrate")
    if plan.get("blocked_by"):
        raise Failure(
            "This release cannot run on the current schema: "
            f"{restore_advice(stack, image, plan['blocked_by'])}"
        )
    not_allowed = [revision for revision in plan.get("destructive", []) if revision not in allow]
    if not_allowed:
        named = ", ".join(not_allowed)
        raise Failure(
            f"The pending migration {named} is destructive: older releases cannot run after it, so a "
            "rollback to them becomes impossible. If you need no such rollback, allow the migration by name: "
            f"{' '.join(f'--allow-destructive {revision}' for revision in not_allowed)} "
            f"(-e release_allow_destructive={','.join(not_allowed)} for the playbook deploy.yml)."
        )
    return plan


def restore_advice(stack: Stack, image: str, revision: str) -> str:
    """Return a text that says which migration keeps an older image from running, and how to go back.

    To go back, the operator restores the dump that was taken before this migration.
    """
    # If the revision was pending in several releases, the newest one applied it: the others failed.
    applied_by = next((e for e in reversed(stack.ledger.entries()) if revision in (e.applied or [])), None)
    if not applied_by or not dump_path(stack, applied_by).exists():
        return (
            f"revision {revision} removed parts that this release needs, and this host has no dump from "
            "before that revision."
        )
    name = next((e.id for e in reversed(stack.ledger.successful()) if e.image == image), "RELEASE")
    return (
        f"revision {revision}, applied by release {applied_by.id}, removed parts that this release needs. To "
        f"roll back, restore the dump from before that revision; data written since then is lost:\n"
        f"    slipway maintenance on\n"
        f"    slipway restore-dump {applied_by.id}\n"
        f"    slipway rollback {name}\n"
        f"    slipway maintenance off"
    )


def remove_oneoff_containers(stack: Stack, which: str) -> None:
    """Remove the containers of flask commands that match a filter of `docker ps`."""
    filters = [f"--filter={one}" for one in ("label=com.docker.compose.oneoff=True", which)]
    if found := stack.host.run("docker", "ps", "--all", "--quiet", PROJECT, *filters).split():
        stack.host.run("docker", "rm", "--force", *found)


def end_migration(stack: Stack) -> None:
    """End a migration whose run was killed or whose engine restarted; a migration is one transaction.

    Raises:
        Failure: the engine failed, or the database has not ended the migration.
    """
    remove_oneoff_containers(stack, "label=com.docker.compose.service=flask_migrate")
    ended = ""
    # Otherwise the database would finish the abandoned statement, and the next migration would wait for it. A
    # database that does not run has no migration.
    with contextlib.suppress(Failure):
        ended = stack.query(END_MIGRATION)
    if ended == "f":
        raise Failure("The database has not ended the migration within 10 s: see `slipway logs db`.")
