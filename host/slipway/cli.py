"""The command line: the commands, and the functions that run them."""

import argparse
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from slipway import maintenance, nginx, release, rollback, rotation, status, tls, transfer
from slipway.credentials import ROTATIONS
from slipway.host import Host
from slipway.settings import Configuration, load
from slipway.shell import Failure
from slipway.stack import Stack

# The type that `add_subparsers` returns.
Commands: TypeAlias = "argparse._SubParsersAction[ArgumentParser]"


def add_release_arguments(command: ArgumentParser) -> None:
    """Add the arguments that release and rollback share."""
    command.add_argument(
        "--allow-destructive",
        metavar="REVISION",
        action="append",
        default=[],
        help="a pending migration, by name, that may remove what older releases need",
    )
    add_unit_arguments(command)


def add_unit_arguments(command: ArgumentParser) -> None:
    """Add the arguments of every command that runs as a systemd unit and writes to the ledger."""
    command.add_argument(
        "--by", default=os.environ.get("SUDO_USER", "root"), help="who, for the ledger (default %(default)s)"
    )
    command.add_argument(
        "--check", action="store_true", help="tell whether it would change anything, and change nothing"
    )
    command.add_argument("--json", action="store_true", help="end with one JSON object")
    command.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)


def add_sight(commands: Commands) -> None:
    """Add the commands that show releases: status, logs and history."""
    command = commands.add_parser("status", help="what runs, since when, by whom")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=status.command_status, needs_stack=True)

    command = commands.add_parser("logs", help="what the containers wrote")
    command.add_argument("service", nargs="?", choices=["nginx", "flask_blog", "db"], help="only this one")
    command.add_argument("-f", "--follow", action="store_true", help="go on as more is written")
    command.add_argument(
        "-n", "--lines", type=int, default=100, help="how many last lines of each (default %(default)s)"
    )
    command.set_defaults(run=status.command_logs, needs_stack=True)

    command = commands.add_parser("history", help="the latest releases, and how each ended")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.add_argument("-n", "--lines", type=int, default=20, help="how many (default %(default)s)")
    command.set_defaults(run=status.command_history, needs_stack=True)


def add_releases(commands: Commands) -> None:
    """Add the commands that deploy releases and undo them: release, rollback and restore-dump."""
    command = commands.add_parser("release", help="put an image into service")
    command.add_argument("image", help="id of an image on this host (sha256:…)")
    command.add_argument("--version", default="", help="version, for the ledger")
    command.add_argument("--revision", default="", help="git revision, for the ledger")
    command.add_argument(
        "--unblock", metavar="RELEASE", help="id or version of a blocked release that may be released again"
    )
    add_release_arguments(command)
    command.add_argument(
        "--compose", metavar="FILE", type=Path, help="with --check: what compose.yml would be by then"
    )
    command.set_defaults(run=release.command_release, needs_stack=True)

    command = commands.add_parser("rollback", help="put an earlier release back into service")
    command.add_argument(
        "release", nargs="?", help="its id or version (default: the one before); `slipway history` has them"
    )
    add_release_arguments(command)
    command.set_defaults(run=rollback.command_rollback, needs_stack=True)

    command = commands.add_parser(
        "restore-dump", help="bring the database back to before a release's migrations"
    )
    command.add_argument("release", help="id of the release; what was written since is lost")
    command.set_defaults(run=rollback.command_restore_dump, needs_stack=True)


def add_maintenance(commands: Commands) -> None:
    """Add the command that switches the maintenance page."""
    command = commands.add_parser("maintenance", help="show readers a page that says the blog will be back")
    command.add_argument("state", choices=["on", "off"])
    command.add_argument("--json", action="store_true", help="end with one JSON object")
    command.set_defaults(run=maintenance.command_maintenance, needs_stack=True)


def add_rotation(commands: Commands) -> None:
    """Add the command that rotates secrets."""
    command = commands.add_parser(
        "rotate",
        help="make secrets anew and put them into service",
        description="Makes secrets anew and puts them into service, as a release of the image that serves.",
    )
    command.add_argument(
        "what",
        nargs="+",
        choices=[*ROTATIONS, "all"],
        metavar="WHAT",
        help="database: the passwords of its roles; key: the app's key, which leaves sessions valid; "
        "admin: the admin's password; all",
    )
    command.add_argument(
        "--forget",
        action="store_true",
        help="believe no former key, so that every session ends: for one that leaked",
    )
    command.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="SECRET",
        help="put the value in the file of this secret into service and make none, as for one of the vault",
    )
    add_unit_arguments(command)
    command.set_defaults(run=rotation.command_rotate, needs_stack=True)


def add_blog(commands: Commands) -> None:
    """Add the commands that call the blog itself: import, export and metrics."""
    command = commands.add_parser("import", help="import Markdown posts, or an export, into the blog")
    command.add_argument("directory", type=Path)
    command.add_argument(
        "--existing",
        choices=["refuse", "skip", "update"],
        default="refuse",
        help="for a post whose slug the blog has with other content (default %(default)s)",
    )
    command.set_defaults(run=transfer.command_import, needs_stack=True)

    command = commands.add_parser("export", help="write the whole blog as files that `slipway import` reads")
    command.add_argument("directory", type=Path, help="new, empty, or with an export to bring up to date")
    command.set_defaults(run=transfer.command_export, needs_stack=True)

    command = commands.add_parser("metrics", help="the blog's metrics, in the text format of Prometheus")
    command.set_defaults(run=status.command_metrics, needs_stack=True)


def add_nginx(commands: Commands) -> None:
    """Add the commands that change nginx."""
    command = commands.add_parser("nginx", help="change nginx, and no reader loses a request")
    what = command.add_subparsers(required=True, metavar="WHAT")

    apply = what.add_parser("apply", help="have nginx be what compose.yml and its files say")
    apply.add_argument(
        "--check", action="store_true", help="tell what a compose.yml on standard input would need"
    )
    apply.set_defaults(run=nginx.command_apply)

    reload = what.add_parser("reload", help="have nginx read its configuration and certificate again")
    reload.set_defaults(run=nginx.command_reload)
    for each in (apply, reload):
        each.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)
        each.set_defaults(needs_stack=False)


def add_tls(commands: Commands) -> None:
    """Add the command that maintains the certificate."""
    command = commands.add_parser("tls", help="keep the certificate that nginx shows")
    command.add_argument(
        "what",
        choices=tls.COMMANDS,
        help="; ".join(f"{name}: {function.__doc__}" for name, function in tls.COMMANDS.items()),
    )
    command.add_argument(
        "--check", action="store_true", help="tell whether it would change anything, and change nothing"
    )
    command.set_defaults(run=tls.command, needs_stack=False)


def parser() -> ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="slipway",
        description="Puts releases of the blog into service on this host, and tells what runs.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_sight,
        add_releases,
        add_maintenance,
        add_rotation,
        add_blog,
        add_nginx,
        add_tls,
    ):
        add(commands)
    return top


def main(arguments: Sequence[str], host: Host | None = None) -> int:
    """Run the command that the arguments name, and return the exit status."""
    host = host or Host()
    options = parser().parse_args(arguments)
    # A systemd unit runs the program again with these arguments.
    options.arguments = arguments
    if not host.is_root():
        sys.exit("slipway: the containers and secrets are root's: run `sudo slipway …`.")
    try:
        if options.needs_stack:
            return int(options.run(stack_of(host), options))
        return int(options.run(host, options))
    except Failure as failure:
        print(f"slipway: {failure}", file=sys.stderr)
        return 1


def stack_of(host: Host) -> Stack:
    """Return the stack of this host; exit if its configuration is incomplete."""
    config = load(host.settings.configuration)
    if missing := Configuration.__required_keys__ - config.keys():
        sys.exit(
            f"slipway: {host.settings.project} has no configuration of {', '.join(sorted(missing))}: "
            "run the playbook site.yml for this host first."
        )
    return Stack(config, host)
