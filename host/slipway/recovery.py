"""Undo a release that failed; finish or undo a release whose program was killed.

A lost control node does not kill the program: it runs in a systemd unit of its own (unit.py).
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from slipway import restic
from slipway.checks import check_public
from slipway.containers import state_and_log, wait_for_engine
from slipway.database import dump_path, reconcile_roles
from slipway.ledger import Release
from slipway.lock import lock
from slipway.notify import notify
from slipway.schema import end_migration
from slipway.settings import SLOTS
from slipway.shell import Failure, describe
from slipway.stack import Stack


def reconcile(stack: Stack) -> bool:
    """Make the flag, slots.env and the containers match the slot in service, whatever their state.

    Returns:
        Whether anything was changed.
    """
    active = stack.active()
    if not active:
        return False
    # Route readers first.
    if lost := stack.routed() != active:
        stack.switch(active)
    serving = stack.serving()
    if undeclared := stack.slot_images() != serving:
        stack.set_slots(serving)
    if left := left_over(stack):
        stack.remove(stack.idle())
    return lost or undeclared or left


def left_over(stack: Stack) -> bool:
    """Tell whether a run killed while draining left a container, or only the copies of its secrets."""
    idle = stack.idle()
    return idle in stack.slot_states() or (stack.in_service / idle).exists()


def inconsistencies(stack: Stack) -> list[str]:
    """Return sentences about differences between the flag, slots.env and the slots' containers."""
    declared, states, active = stack.slot_images(), stack.slot_states(), stack.active()
    if not active:
        return []
    found, image, idle = [], stack.image(active), next(slot for slot in SLOTS if slot != active)
    if stack.routed() != active:
        found.append(
            f"nginx sends readers to the {stack.routed()} slot, but only the {active} slot runs: run "
            f"site.yml, or `slipway release {image}`."
        )
    if not declared:
        found.append(f"slots.env is missing, but the {active} slot serves: run site.yml.")
    elif set(declared) != {active}:
        found.append(f"slots.env lists {', '.join(declared)}, but the {active} slot serves: run site.yml.")
    elif declared[active] != image:
        found.append(
            f"slots.env has the image {declared[active]} for the {active} slot, which runs {image}: "
            "run site.yml."
        )
    if idle in states:
        found.append(
            f"The {idle} slot has a container ({states[idle]}), but the {active} slot serves: run site.yml."
        )
    return found


def undo(stack: Stack, entry: Release, serving: dict[str, str], failure: BaseException | str) -> Failure:
    """Restore the slot that served before a release.

    Args:
        entry: the release that is under way.
        serving: the image of the slot that served, by slot; empty before the first release.
        failure: the problem.

    Returns:
        A Failure with the reason, and with the migrations and the dump that remain.
    """
    slot, problems, tail = entry.slot, [], ""
    had_readers = stack.routed() == slot
    entry = replace(entry, outcome="failed", at=stack.host.now(), reason=describe(failure), stage=None)

    def log() -> None:
        nonlocal tail
        tail = slot_log(stack, slot)

    # Route readers first, then write the state, so that a failing engine or disk does not affect readers.
    steps: list[Callable[[], object]] = [
        lambda: stack.isolate(slot),
        lambda: stack.switch(next(other for other in SLOTS if other != slot)),
        lambda: stack.set_slots(serving),
        lambda: stack.ledger.put(entry),
        # If the engine restarts, the command that runs the migration ends, but the migration goes on.
        lambda: wait_for_engine(stack.host),
        lambda: end_migration(stack),
        log,
        lambda: stack.remove(slot, at_once=not had_readers),
    ]
    for step in steps:
        try:
            step()
        except Exception as problem:
            problems.append(f"A step of undoing the release failed: {describe(problem)}\n")
    end_logins(stack, serving)
    active = next(iter(serving), None)
    after = f"The {active} slot serves as before." if active else "No release was in service before."
    if not problems:
        after = f"The new slot was removed. {after}"
    if entry.applied:
        after += f" If the migration {', '.join(entry.applied)} was applied, it stays."
        if dump_path(stack, entry).exists():
            after += f" The dump from before the migration is {dump_path(stack, entry)}."
    notify(stack, "failed", entry)
    return Failure(f"{entry.reason}\n{tail}{''.join(problems)}{after}")


def slot_log(stack: Stack, slot: str) -> str:
    """Return the state and last log lines of the slot's container; empty without a container."""
    container = stack.container(slot)
    return f"{state_and_log(stack.host, container)}\n" if container else ""


def end_logins(stack: Stack, slots: Collection[str]) -> None:
    """End the database logins of all other slots. If the database is down, the next release ends them."""
    with contextlib.suppress(Failure, OSError):
        reconcile_roles(stack, slots)


@contextlib.contextmanager
def locked(stack: Stack, by: str) -> Iterator[str | None]:
    """Hold the lock and first recover from a killed run; yield the result of `recover`."""
    with lock(stack.host, by):
        before = stack.ledger.entries()
        try:
            if recovered := recover(stack):
                print(recovered, flush=True)
            yield recovered
        finally:
            if stack.ledger.entries() != before:
                restic.begin(stack)


def recover(stack: Stack) -> str | None:
    """Finish or undo a release whose program was killed; return a sentence about it, or None.

    Finish it if it already serves readers. Otherwise undo it: the former slot still serves.
    """
    entry = stack.ledger.under_way()
    if not entry:
        return None
    end_migration(stack)
    slot, stage = entry.slot, entry.stage or "check"
    entry.stage = None
    others = {other: stack.image(other) for other in stack.slot_states() if other != slot}
    serving = {other: image for other, image in others.items() if image}
    # In the stage `switch`, the flag may have been lost: `active` also checks the containers.
    had_readers = slot == (stack.active() if stage == "switch" else stack.routed())
    what = f"Release {entry.id} was interrupted during the stage `{stage}`"
    if had_readers and stack.running(slot) == entry.image:
        try:
            stack.switch(slot)
            check_public(stack, entry)
        except Failure as failure:
            undo(stack, entry, serving, failure)
            return f"{what}; it did not answer readers, so it was undone."
        entry.outcome, entry.at = "in service", stack.host.now()
        stack.ledger.set_in_service(entry)
        notify(stack, "after", entry)
        stack.set_slots({slot: entry.image})
        for other in serving:
            stack.remove(other)
        end_logins(stack, {slot})
        return f"{what}, after the switch; it was finished."
    undo(stack, entry, serving, f"The program was killed during the stage `{stage}`.")
    return f"{what}; it was undone."
