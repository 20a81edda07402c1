"""The maintenance page, for readers while the blog is down on purpose."""

import json
from argparse import Namespace

from slipway.files import sync
from slipway.stack import Stack


def command_maintenance(stack: Stack, options: Namespace) -> int:
    """Switch the maintenance page. nginx checks the flag for each request, so it needs no reload."""
    # From now on, the operator decides, also after an interrupted restore.
    stack.restore_flag.unlink(missing_ok=True)
    changed = stack.maintenance_flag.exists() != (options.state == "on")
    if options.state == "on":
        stack.maintenance_flag.touch()
    else:
        stack.maintenance_flag.unlink(missing_ok=True)
    sync(stack.maintenance_flag.parent)
    if options.json:
        print(json.dumps({"changed": changed}))
    else:
        print(f"Maintenance is {options.state}{'' if changed else ' already'}.")
    return 0
