"""Rotate secrets: put new values into service with a release of the image in service.

Each slot has a database role of its own (`reconcile_roles` in database.py) and copies of its secrets. So the
new slot uses the new passwords while the old slot still uses the former ones, and no request fails.
`regenerate` in credentials.py decides which characters a new value has, and how many.
"""

import json
from argparse import Namespace

from slipway.credentials import ROTATIONS, changed_secrets, regenerate
from slipway.files import sync
from slipway.ledger import Release
from slipway.notify import notify
from slipway.recovery import locked, reconcile
from slipway.release import image_in_service, put_into_service
from slipway.shell import Failure
from slipway.stack import Stack
from slipway.unit import detach


def command_rotate(stack: Stack, options: Namespace) -> int:
    image_in_service(stack)
    parts = [part for part in ROTATIONS if {part, "all"} & set(options.what)]
    names = [name for part in parts for name in ROTATIONS[part]]
    if options.forget and "key" not in parts:
        raise Failure("--forget applies only to the app's key: rotate `key` too.")
    if options.check:
        print(json.dumps({"changed": True, "secrets": names, "waiting": changed_secrets(stack)}))
        return 0
    if unknown := [name for name in options.given if not stack.secret_file(name).exists()]:
        raise Failure(f"There is no secret {' or '.join(unknown)} on this host. Nothing was changed.")
    if not options.in_unit:
        return detach(stack.host, options.by, options.arguments)
    with locked(stack, options.by):
        # Reconcile, and read each secret, before making new values: if that fails, no secret has changed.
        reconcile(stack)
        changed_secrets(stack)
        image = image_in_service(stack)
        if options.forget:
            stack.forget_flag.touch()
            sync(stack.in_service)
        regenerate(stack, [name for name in names if name not in options.given])
        entry = release_new_secrets(stack, image, names, options.by)
    if options.json:
        print(json.dumps({"changed": True, **entry.to_json()}))
    else:
        print(f"New values are in service: {', '.join(names)}.")
    return 0


def release_new_secrets(stack: Stack, image: str, names: list[str], by: str) -> Release:
    """Release the image in service with the new values of secrets; return the ledger's new entry.

    If only the admin's password is new, no release is needed.
    """
    current = stack.ledger.current()
    version, revision = (current.version, current.revision) if current else ("", "")
    try:
        _changed, entry = put_into_service(stack, image, version, revision, by)
    except Failure as failure:
        after = "The new secrets stay in their files: fix the cause, then rotate again or release."
        raise Failure(f"{failure}\n{after}") from None
    if entry is None:
        entry = Release(
            id=stack.new_id(),
            image=image,
            version=version,
            revision=revision,
            slot=stack.active() or stack.routed(),
            by=by,
            at=stack.host.now(),
            outcome="rotated",
            secrets=names,
        )
        stack.ledger.put(entry)
        notify(stack, "after", entry)
    return entry
