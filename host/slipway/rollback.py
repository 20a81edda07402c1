"""Roll back to an earlier release, or restore the database from before a release's migrations.

The image itself decides whether it can run on the present schema: `check_compatible` in app/blog/schema.py.
"""

import contextlib
import json
from argparse import Namespace

from slipway.database import dump_path, restore_dump
from slipway.ledger import Release
from slipway.lock import lock
from slipway.recovery import locked
from slipway.release import put_into_service
from slipway.shell import Failure
from slipway.stack import Stack
from slipway.unit import detach


def command_rollback(stack: Stack, options: Namespace) -> int:
    if not options.in_unit and not options.check:
        return detach(stack.host, options.by, options.arguments)
    with contextlib.nullcontext() if options.check else locked(stack, options.by) as recovered:
        target = stack.ledger.find(options.release) if options.release else previous_release(stack)
        current, active = stack.ledger.in_service(), stack.active()
        if options.check:
            changed = not active or stack.running(active) != target.image
            print(json.dumps({"changed": changed, "instead_of": current.id, "to": target.id}))
            return 0
        replaced = current if current.image != target.image else None
        print(f"Rolling back to {target.id} ({target.version or 'no version'}) of {target.at}.", flush=True)
        changed, entry = put_into_service(
            stack,
            target.image,
            target.version,
            target.revision,
            options.by,
            instead_of=replaced,
            allow=options.allow_destructive,
        )
    if options.json:
        print(
            json.dumps(
                {"changed": changed or bool(recovered), "to": target.id, **(entry.to_json() if entry else {})}
            )
        )
    elif entry and replaced:
        blocked = f" {replaced.id} is blocked." if stack.ledger.blocked(replaced.image) else ""
        print(f"{target.id} serves again, in the {entry.slot} slot.{blocked}")
    else:
        print(f"{target.id} {'serves again' if entry else 'is already in service'}.")
    return 0


def previous_release(stack: Stack) -> Release:
    """Return the release that served last before the one in service, by its place in history (Ledger.places).

    Its image is not blocked and is still on this host. If there is no such release before that place, return
    the newest of the later ones.
    """
    served = stack.ledger.successful()
    if not served:
        raise Failure(
            "No release is in service yet, so a rollback is not possible: run the playbook deploy.yml."
        )
    here = set(stack.host.run("docker", "image", "ls", "--no-trunc", "--quiet", "--all").split())
    usable = here - {served[-1].image} - {entry.image for entry in stack.ledger.all_blocked()}
    newest = {entry.image: entry for entry in served}
    place = stack.ledger.places()[served[-1].image]
    for entry in (*reversed(served[:place]), *reversed(served[place:])):
        if entry.image in usable:
            return newest[entry.image]
    raise Failure(
        "There is no earlier release to roll back to: each one is blocked, or its image is no longer on this "
        "host. `slipway history` lists all releases; name a blocked release to roll back to it."
    )


def command_restore_dump(stack: Stack, options: Namespace) -> int:
    if not stack.maintenance_flag.exists():
        raise Failure("The restore replaces tables that readers use: run `slipway maintenance on` first.")
    with lock(stack.host, f"a restore of the dump of {options.release}"):
        entry = next((e for e in stack.ledger.entries() if e.id == options.release), None)
        if not entry or not dump_path(stack, entry).exists():
            dumps = ", ".join(sorted(path.stem for path in stack.dumps.glob("*.dump"))) or "none"
            raise Failure(f"There is no dump of a release {options.release}. Existing dumps: {dumps}.")
        restore_dump(stack, entry)
    print(f"The database has its content from before the migrations of {entry.id}. Roll back next.")
    return 0
