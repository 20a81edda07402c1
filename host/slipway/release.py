"""Put an image into service."""

import contextlib
import json
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, replace
from typing import Any

from slipway.checks import check_host, check_public, expect_page, wait_until_ready
from slipway.credentials import (
    admin_password_changed,
    changed_secrets,
    copy_secrets,
    run_user_command,
    set_admin_password,
)
from slipway.database import dump_database, reconcile_roles, start_database
from slipway.ledger import Release
from slipway.lock import lock
from slipway.notify import notify, run_hook
from slipway.pictures import adopt_pictures
from slipway.recovery import inconsistencies, left_over, locked, reconcile, undo
from slipway.retention import copy_static, tidy
from slipway.schema import end_migration, plan_migrations
from slipway.shell import Failure, describe
from slipway.stack import Stack
from slipway.unit import detach


class Stages:
    """Times the stages of a release, and prints each when it begins and when it ends."""

    def __init__(self, begins: Callable[[str], object] = lambda name: None) -> None:
        self.seconds: dict[str, float] = {}
        self.begins, self.started = begins, time.monotonic()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the enclosed block."""
        print(f"{name:<10} …", flush=True)
        self.begins(name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)
        print(f"{name:<10} {self.seconds[name]:6.2f} s", flush=True)

    def total(self) -> float:
        """Return the seconds since the first stage began."""
        return round(time.monotonic() - self.started, 2)


class Rollout:
    """One release on its way into service.

    Attributes:
        entry: its entry in the ledger.
        slot: the idle slot, which gets the release.
        active: the slot in service, or None before the first release.
        serving: the image of the slot in service, by slot; empty before the first release.
        allow: revisions whose destructive migration was acknowledged.
    """

    def __init__(self, stack: Stack, entry: Release, allow: Collection[str]) -> None:
        self.stack, self.entry, self.allow = stack, entry, allow
        self.slot, self.image = entry.slot, entry.image
        self.active, self.serving = stack.active(), stack.serving()
        self.is_rollback = entry.instead_of is not None
        self.stages = Stages(self.note)
        self.stage = self.stages.stage

    def note(self, stage: str) -> None:
        """Record the stage in the ledger, so that the next run can recover if this one is killed."""
        if self.entry.outcome == "under way":
            self.stack.ledger.put(replace(self.entry, stage=stage))

    def attempt(self) -> None:
        """Put the release into service; raise the error of the first stage that fails."""
        stack, slot = self.stack, self.slot
        with self.stage("check"):
            check_host(stack, self.image)
            run_hook(stack, "before", self.entry)
            stack.remove(slot)
            copy_secrets(stack, slot)
        with self.stage("database"):
            start_database(stack)
            if self.active:
                self.entry.secrets = changed_secrets(stack)
            reconcile_roles(stack, {*self.serving, slot})
        if not self.is_rollback:
            self.prepare_schema()
        self.start()
        self.smoke_test()
        with self.stage("switch"):
            stack.switch(slot)
            check_public(stack, self.entry)

    def prepare_schema(self) -> None:
        """Dump the database, then run the pending migrations."""
        stack, entry = self.stack, self.entry
        with self.stage("schema"):
            end_migration(stack)
            plan = plan_migrations(stack, self.image, self.slot, self.allow)
            entry.schema = plan["head"]
        if plan["pending"]:
            # Before the first migration there is nothing to dump.
            if plan["current"]:
                with self.stage("dump"):
                    dump_database(stack, entry)
            entry.applied = plan["pending"]
            with self.stage("migrate"):
                stack.flask(self.image, "migrate", slot=self.slot, service="flask_migrate")
                # The first migration created tables that the blog may only read.
                reconcile_roles(stack, {*self.serving, self.slot})

    def start(self) -> None:
        """Start the slot, and wait until it is ready."""
        stack, slot = self.stack, self.slot
        with self.stage("start"):
            stack.isolate(slot)
            stack.set_slots({**self.serving, slot: self.image})
            self.entry.config = stack.wanted_hash(slot, self.image)
            # `--no-recreate` keeps compose from replacing the database. `--no-deps` would do that too, but it
            # changes the hash of the slot's definition.
            stack.compose("up", "--detach", "--no-recreate", f"flask_blog_{slot}")
        if not self.is_rollback:
            with self.stage("admin"):
                run_user_command(stack, self.image, "ensure-admin", slot)
        with self.stage("ready"):
            # In a rollback, the slot is nearly always ready at once: check the schema only if it is not.
            wait_until_ready(stack, slot, if_not_ready=self.prepare_schema if self.is_rollback else None)

    def smoke_test(self) -> None:
        """Request pages of the new slot through nginx, while readers still use the other slot."""
        with self.stage("smoke"):
            copy_static(self.stack, self.slot, self.entry.id)
            for path in self.stack.config["smoke_paths"]:
                expect_page(
                    self.stack, self.stack.config["preview"], path, f"the {self.slot} slot behind nginx"
                )

    def finish(self) -> None:
        """Record that the release serves, and stop the slot that served before."""
        stack, entry, stages = self.stack, self.entry, self.stages
        # Record it at once: this release serves even if stopping the old slot fails.
        entry.outcome, entry.at = "in service", stack.host.now()
        entry.stages, entry.switched = dict(stages.seconds), stages.total()
        stack.ledger.set_in_service(entry)
        notify(stack, "after", entry)
        if self.active:
            with self.stage("drain"):
                stack.host.sleep(stack.config["drain_seconds"])
                stack.set_slots({self.slot: self.image})
                # Requests that are under way may then take as long as `graceful_timeout` in
                # app/gunicorn.conf.py and `stop_grace_period` in compose.yml.j2 allow.
                stack.remove(self.active)
                reconcile_roles(stack, {self.slot})
        with self.stage("tidy"):
            try:
                tidy(stack)
            except Exception as failure:
                print(
                    "Images, dumps or static files of old releases could not be removed: "
                    f"{describe(failure)}",
                    flush=True,
                )
        with self.stage("pictures"):
            adopt_pictures(stack, self.image, self.slot)
        print(f"switched after {entry.switched:.2f} s, {stages.total():.2f} s in all", flush=True)
        entry.stages = stages.seconds
        with contextlib.suppress(OSError):
            stack.ledger.put(entry)


def release(
    stack: Stack,
    image: str,
    version: str,
    revision: str,
    by: str,
    *,
    allow: Collection[str] = (),
    instead_of: Release | None = None,
) -> Release | None:
    """Put image into service: migrate, start the idle slot, test it, switch, drain, stop the old slot.

    The release also puts the values in the secrets' files into service.

    Args:
        stack: the stack, under the lock and reconciled.
        image: id of the image.
        version, revision, by: values for the ledger's new entry.
        allow: revisions whose destructive migration was acknowledged.
        instead_of: the entry that this release rolls back, which is then blocked.

    Returns:
        The ledger's new entry, or None when image, configuration and secrets are already in service.

    Raises:
        Failure: the new slot was removed, and the former slot still serves; or a step after the switch
            failed, and the new slot serves.
    """
    active = stack.active()
    if active and stack.serves(active, image):
        return None
    entry = Release(
        id=stack.new_id(),
        image=image,
        version=version,
        revision=revision,
        slot=stack.idle(),
        by=by,
        at=stack.host.now(),
        outcome="under way",
    )
    if instead_of:
        past = next(e for e in reversed(stack.ledger.successful()) if e.image == image)
        entry.instead_of, entry.schema = instead_of.id, past.schema
    rollout = Rollout(stack, entry, allow)
    try:
        rollout.attempt()
    except Exception as failure:
        raise undo(stack, entry, rollout.serving, failure) from None
    try:
        rollout.finish()
    except Exception as failure:
        raise Failure(
            f"Release {entry.id} serves readers in the {entry.slot} slot, but a step after the switch "
            f"failed: {describe(failure)}\nCorrect the cause, then run `slipway release {image}`, which "
            "finishes the rest."
        ) from None
    return entry


def put_into_service(
    stack: Stack, image: str, version: str, revision: str, by: str, **how: Any
) -> tuple[bool, Release | None]:
    """Apply the wanted image, secrets, database roles and admin password.

    Args:
        stack, image, version, revision, by, how: as for `release`.

    Returns:
        Whether anything changed, and the ledger's new entry, or None when there was nothing to release.
    """
    changed = reconcile(stack)
    entry = release(stack, image, version, revision, by, **how)
    changed = entry is not None or reconcile_roles(stack) or changed
    stack.forget_flag.unlink(missing_ok=True)
    return set_admin_password(stack, image) or changed, entry


def image_in_service(stack: Stack) -> str:
    """Return the image in service, for flask commands; raise Failure before the first release."""
    active = stack.active()
    if not active:
        raise Failure("No release is in service yet: run the playbook deploy.yml first.")
    image = stack.image(active)
    if not image:
        raise Failure(f"The {active} slot has no container and no image: run the playbook deploy.yml.")
    return image


def command_release(stack: Stack, options: Namespace) -> int:
    if not options.image.startswith("sha256:") and not options.check:
        raise Failure(
            f"{options.image} is not an image id. A tag can point to another image later: "
            "use an IMAGE ID from `docker images --no-trunc`."
        )
    if options.check:
        print(json.dumps(plan(stack, options)))
        return 0
    if not options.in_unit:
        if answer := nothing_to_do(stack, options):
            print(json.dumps(answer) if options.json else answer["message"])
            return 0
        return detach(stack.host, options.by, options.arguments)
    with locked(stack, options.by) as recovered:
        blocked = find_block(stack, options)
        chosen = stack.ledger.in_service() if blocked else options
        changed, entry = put_into_service(
            stack,
            chosen.image,
            chosen.version,
            chosen.revision,
            options.by,
            allow=options.allow_destructive,
        )
        if entry:
            message = f"Release {entry.id} is in service in the {entry.slot} slot."
        else:
            message, renamed = nothing_to_release(stack, chosen)
            message += " Database roles, passwords or lost state were corrected." if changed else ""
            if renamed:
                stack.ledger.put(renamed)
            changed = changed or renamed is not None
    if blocked:
        message = "\n".join([block_message(stack, blocked), *([message] if entry else [])])
    if options.json:
        answer = result(changed or bool(recovered), message, blocked)
        print(json.dumps(answer | (entry.to_json() if entry else {})))
    else:
        print(message)
    return 0


def result(changed: bool, message: str, blocked: Release | None) -> dict[str, Any]:
    """Return the object that `slipway release --json` prints, except the ledger's new entry."""
    about = {"blocked": {"id": blocked.id, **asdict(blocked)["blocked"]}} if blocked else {}
    return {"changed": changed, "message": message, **about}


def nothing_to_release(stack: Stack, wanted: Namespace | Release) -> tuple[str, Release | None]:
    """Return why nothing is released, and the changed entry of the image in service if its version changes.

    The entry gets the wanted version, unless that is only the git revision (the default of release_version):
    two revisions can have the same image.
    """
    current = stack.ledger.current()
    if not current or current.image != wanted.image:
        return "Nothing to release: this image already serves, with the current configuration.", None
    serves = f"{current.id} ({current.version or 'no version'}) of {current.at}"
    message = f"Nothing to release: {serves} already serves this image, with the current configuration."
    if wanted.version in ("", wanted.revision, current.version):
        return message, None
    message += f" Its version in the ledger becomes {wanted.version}."
    return message, replace(current, version=wanted.version)


def nothing_to_do(stack: Stack, options: Namespace) -> dict[str, Any] | None:
    """Return the answer if the release would change nothing; None if it would, or if that is unknown.

    Most runs of site.yml change nothing. This saves them a unit with a second interpreter.
    """
    try:
        with lock(stack.host, options.by):
            answer = plan(stack, options)
            incomplete = stack.forget_flag.exists() or not (stack.in_service / "admin_password").exists()
    except Failure:
        return None  # The release repairs it, or fails with the reason.
    return None if answer["changed"] or incomplete else answer


def plan(stack: Stack, options: Namespace) -> dict[str, Any]:
    """Return whether a release would change anything, and whether the image is blocked; change nothing."""
    blocked, active = find_block(stack, options), stack.active()
    image = stack.ledger.in_service().image if blocked else options.image
    text = options.compose.read_text() if options.check and options.compose else None
    serves = active and stack.serves(active, image, text) and not stack.ledger.under_way()
    message, renamed = nothing_to_release(stack, options) if serves and not blocked else ("", None)
    changed = (
        not serves
        or bool(renamed)
        or bool(inconsistencies(stack))
        or left_over(stack)
        or reconcile_roles(stack, keep=False)
        or admin_password_changed(stack)
    )
    return result(changed, block_message(stack, blocked) if blocked else message, blocked)


def find_block(stack: Stack, options: Namespace) -> Release | None:
    """Return the release that blocks the requested image, or None if the image is not blocked.

    If the image is blocked, the image in service stays, and still gets the present configuration.
    """
    entry = stack.ledger.blocked(options.image)
    if not entry or not stack.active() or options.unblock in (entry.id, entry.version):
        return None
    return entry


def block_message(stack: Stack, entry: Release) -> str:
    """Return who blocked a release, since when, what serves instead, and how to release it anyway."""
    current, blocked = stack.ledger.in_service(), asdict(entry)["blocked"]
    return (
        f"Release {entry.id} ({entry.version or 'no version'}) was rolled back by {blocked['by']} at "
        f"{blocked['since']} and is blocked; release {current.id} ({current.version or 'no version'}) stays "
        f"in service. To release {entry.id} anyway, run the playbook with -e release_unblock={entry.id}, or "
        f"`slipway rollback {entry.id}` on the host."
    )
