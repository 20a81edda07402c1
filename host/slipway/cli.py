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
        help="a pending destructive migration that may run; older releases cannot run after it",
    )
    add_unit_arguments(command)


def add_unit_arguments(command: ArgumentParser) -> None:
    """Add the arguments of every command that runs as a systemd unit and writes to the ledger."""
    command.add_argument(
        "--by",
        default=os.environ.get("SUDO_USER", "root"),
        help="your name, for the ledger (default %(default)s)",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="report whether the command would change anything, and change nothing",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    command.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)


def add_read_commands(commands: Commands) -> None:
    """Add the commands that show releases: status, logs and history."""
    command = commands.add_parser("status", help="show what runs, since when, and who released it")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=status.command_status, needs_stack=True)

    command = commands.add_parser("logs", help="show the logs of the containers")
    command.add_argument(
        "service", nargs="?", choices=["nginx", "flask_blog", "db"], help="show only this service"
    )
    command.add_argument("-f", "--follow", action="store_true", help="follow the logs")
    command.add_argument(
        "-n", "--lines", type=int, default=100, help="number of lines of each service (default %(default)s)"
    )
    command.set_defaults(run=status.command_logs, needs_stack=True)

    command = commands.add_parser("history", help="list the latest releases and their outcomes")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.add_argument(
        "-n", "--lines", type=int, default=20, help="number of releases (default %(default)s)"
    )
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
        "--compose", metavar="FILE", type=Path, help="with --check: use this file instead of compose.yml"
    )
    command.set_defaults(run=release.command_release, needs_stack=True)

    command = commands.add_parser("rollback", help="put an earlier release back into service")
    command.add_argument(
        "release", nargs="?", help="id or version, from `slipway history` (default: the previous release)"
    )
    add_release_arguments(command)
    command.set_defaults(run=rollback.command_rollback, needs_stack=True)

    command = commands.add_parser(
        "restore-dump", help="restore the database from the dump before a release's migrations"
    )
    command.add_argument("release", help="id of the release; data written since the dump is lost")
    command.set_defaults(run=rollback.command_restore_dump, needs_stack=True)


def add_maintenance(commands: Commands) -> None:
    """Add the command that switches the maintenance page."""
    command = commands.add_parser("maintenance", help="switch the maintenance page for readers on or off")
    command.add_argument("state", choices=["on", "off"])
    command.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    command.set_defaults(run=maintenance.command_maintenance, needs_stack=True)


def add_rotation(commands: Commands) -> None:
    """Add the command that rotates secrets."""
    command = commands.add_parser(
        "rotate",
        help="replace secrets with new values and put them into service",
        description="Replace secrets with new values, and put them into service by a release.",
    )
    command.add_argument(
        "what",
        nargs="+",
        choices=[*ROTATIONS, "all"],
        metavar="WHAT",
        help="database: the passwords of the database roles; key: the app's key (sessions stay valid); "
        "admin: the admin's password; all: all of these",
    )
    command.add_argument(
        "--forget",
        action="store_true",
        help="reject the former keys too, so that every session ends: for a key that leaked",
    )
    command.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="SECRET",
        help="use the value in the file of this secret, such as one from the vault, instead of a new one",
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
        help="what to do if the blog has a post with this slug and other content (default %(default)s)",
    )
    command.set_defaults(run=transfer.command_import, needs_stack=True)

    command = commands.add_parser("export", help="export the whole blog as files for `slipway import`")
    command.add_argument(
        "directory", type=Path, help="a new or empty directory, or one with an export to update"
    )
    command.set_defaults(run=transfer.command_export, needs_stack=True)

    command = commands.add_parser("metrics", help="print the blog's metrics in the text format of Prometheus")
    command.set_defaults(run=status.command_metrics, needs_stack=True)


def add_nginx(commands: Commands) -> None:
    """Add the commands that change nginx."""
    command = commands.add_parser("nginx", help="change nginx without losing a request")
    what = command.add_subparsers(required=True, metavar="WHAT")

    apply = what.add_parser("apply", help="make nginx match compose.yml and its files")
    apply.add_argument(
        "--check",
        action="store_true",
        help="report what nginx would need for a compose.yml on standard input",
    )
    apply.set_defaults(run=nginx.command_apply)

    reload = what.add_parser("reload", help="reload nginx's configuration and certificate")
    reload.set_defaults(run=nginx.command_reload)
    for each in (apply, reload):
        each.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)
        each.set_defaults(needs_stack=False)


def add_tls(commands: Commands) -> None:
    """Add the command that maintains the certificate."""
    command = commands.add_parser("tls", help="manage nginx's certificate")
    command.add_argument(
        "what",
        choices=tls.COMMANDS,
        help=" ".join(f"{name}: {function.__doc__}" for name, function in tls.COMMANDS.items()),
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="report whether the command would change anything, and change nothing",
    )
    command.set_defaults(run=tls.command, needs_stack=False)


def parser() -> ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="slipway",
        description="Deploy releases of the blog on this host, and show their state.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_read_commands,
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
        sys.exit("slipway: this program needs root's privileges: run `sudo slipway …`.")
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
            f"slipway: the configuration in {host.settings.project} has no {', '.join(sorted(missing))}: "
            "run the playbook site.yml for this host first."
        )
    return Stack(config, host)
