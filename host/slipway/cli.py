"""The command line: the commands, and the functions that run them."""

import argparse
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from slipway import (
    backups,
    drills,
    healing,
    maintenance,
    nginx,
    release,
    restore,
    rollback,
    rotation,
    startup,
    status,
    tls,
    transfer,
    updates,
    upgrade,
)
from slipway.credentials import ROTATIONS
from slipway.host import Host
from slipway.pgbackrest import KINDS
from slipway.settings import Configuration, load
from slipway.shell import Failure, describe
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


def add_name(command: ArgumentParser) -> None:
    """Add the argument with the name of the person who runs the command."""
    command.add_argument(
        "--by",
        default=os.environ.get("SUDO_USER", "root"),
        help="your name, for the ledger (default %(default)s)",
    )


def add_unit_arguments(command: ArgumentParser) -> None:
    """Add the arguments that release, rollback and rotate share."""
    add_name(command)
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
    """Add the commands that change nginx, and start nginx and the database."""
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

    up = commands.add_parser(
        "up",
        help="start nginx and the database as compose.yml defines them",
        description="Start nginx and the database as compose.yml defines them, and wait until they are "
        "healthy. If the definition of the database has changed, the blog waits for some seconds.",
    )
    up.set_defaults(run=startup.command_up)
    for each in (apply, reload, up):
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


def add_updates(commands: Commands) -> None:
    """Add the commands for security updates of the images' packages."""
    command = commands.add_parser("updates", help="install security updates in the images")
    what = command.add_subparsers(required=True, metavar="WHAT")
    for name, run, words in (
        ("check", updates.command_check, "look for pending updates; a timer does this daily"),
        ("build", updates.command_build, "install pending updates in the images; site.yml does this"),
        ("apply", updates.command_apply, "look for updates, install them, and put the images into service"),
    ):
        each = what.add_parser(name, help=words)
        each.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)
        each.set_defaults(run=run, needs_stack=True)
        if name == "apply":
            add_name(each)


def add_backups(commands: Commands) -> None:
    """Add the commands for backups, restores and drills."""
    command = commands.add_parser("backup", help="make and check backups of the database")
    what = command.add_subparsers(required=True, metavar="WHAT")
    for name, run, words in (
        ("run", backups.command_run, "make a backup now; timers do this"),
        (
            "check",
            backups.command_check,
            "check that the archive and the backups are current; a timer does this",
        ),
        (
            "files",
            backups.command_files,
            "back up secrets, certificates and the ledger now; each backup, release and rotation does this",
        ),
        ("verify", backups.command_verify, "read every file of the repository; a timer does this daily"),
        ("list", backups.command_list, "list the backups"),
        ("prepare", backups.command_prepare, "create the repository; site.yml does this"),
    ):
        each = what.add_parser(name, help=words)
        each.set_defaults(run=run, needs_stack=True)
        if name == "run":
            each.add_argument(
                "kind",
                nargs="?",
                choices=KINDS,
                default="incr",
                help="kind of the backup (default %(default)s)",
            )
        if name == "list":
            each.add_argument("--json", action="store_true", help="print one JSON array")

    files = what.add_parser(
        "restore-files",
        help="bring secrets, certificates and the ledger back on a new host; playbooks/recover.yml does this",
    )
    files.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="SECRET",
        help="leave the file of this secret as it is, such as one from the vault",
    )
    files.add_argument(
        "--media", action="store_true", help="bring back the files of an app instead, into an empty volume"
    )
    files.set_defaults(run=backups.command_restore_files, needs_stack=False)

    command = commands.add_parser(
        "restore",
        help="restore the database from the backups",
        description="Restore the database as it was at any moment since the oldest full backup. The present "
        "database is kept beside it.",
    )
    command.add_argument(
        "--to", metavar="TIME", help='such as "2026-11-22 10:00:00+00" (default: everything that is archived)'
    )
    command.add_argument("--yes", action="store_true", help="do not ask")
    instead = command.add_mutually_exclusive_group()
    instead.add_argument(
        "--into",
        metavar="DIRECTORY",
        type=Path,
        help="write posts and a dump of the restored database to this directory instead",
    )
    instead.add_argument(
        "--undo",
        metavar="FORMER",
        nargs="?",
        const="",
        help="put a former database back into service (default: the one from before the last restore)",
    )
    instead.add_argument("--forget", action="store_true", help="remove the former databases")
    command.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)
    add_name(command)
    command.set_defaults(run=restore.command_restore, needs_stack=True)

    command = commands.add_parser(
        "drill",
        help="restore the newest backup and a random moment into a throwaway container, and check both",
    )
    command.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)
    command.set_defaults(run=drills.command_drill, needs_stack=True)


def add_upgrade(commands: Commands) -> None:
    """Add the command that moves the database to another major version of Postgres."""
    command = commands.add_parser(
        "upgrade-database",
        help="move the database to another version of Postgres; playbooks/upgrade_database.yml does this",
        description="Move the database to the major version of Postgres in the images of a compose.yml on "
        "standard input. First, rehearse this on a database that is restored from the backups.",
    )
    instead = command.add_mutually_exclusive_group()
    instead.add_argument(
        "--rehearse", action="store_true", help="only rehearse it, and say how long it takes"
    )
    instead.add_argument(
        "--undo", action="store_true", help="put the database from before an upgrade back into service"
    )
    command.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)
    add_name(command)
    command.set_defaults(run=upgrade.command_upgrade, needs_stack=True)


def add_heal(commands: Commands) -> None:
    """Add the command that restarts unhealthy containers."""
    command = commands.add_parser(
        "heal", help=f"restart containers whenever they become unhealthy; {healing.UNIT} runs this"
    )
    command.set_defaults(run=healing.command_heal, needs_stack=False)


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
        add_updates,
        add_backups,
        add_upgrade,
        add_heal,
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
    except KeyboardInterrupt:
        print("slipway: interrupted. A release under way continues: see `slipway status`.", file=sys.stderr)
        return 130
    except Failure as failure:
        print(f"slipway: {failure}", file=sys.stderr)
    except Exception as error:
        message = describe(error)
        print(f"slipway: {message}. `slipway status` shows what serves readers.", file=sys.stderr)
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
