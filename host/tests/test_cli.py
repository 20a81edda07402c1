"""The command line."""

import re
import subprocess
import sys

import pytest
from fakes import NEW
from project import ROOT

from slipway import cli

PROGRAM = ROOT / "host/slipway/__main__.py"


def command_line(*arguments):
    return subprocess.run([sys.executable, "-I", "-B", PROGRAM, *arguments], capture_output=True, text=True)


def test_help_names_the_commands():
    done = command_line("--help")
    assert done.returncode == 0
    commands = ["status", "logs", "history", "release", "rollback", "restore-dump", "maintenance"]
    commands += ["rotate", "import", "export", "metrics", "nginx", "tls"]
    assert re.findall(r"^    ([a-z-]+)(?:  |$)", done.stdout, re.MULTILINE) == commands


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["relaese"],
        ["release"],
        ["logs", "redis"],
        ["release", NEW, "--bye"],
        ["rotate"],
        ["rotate", "tls"],
        ["nginx"],
        ["nginx", "settle"],
        ["tls", "renew"],
    ],
)
def test_bad_usage_is_told_apart(arguments):
    done = command_line(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: slipway ")


@pytest.mark.parametrize("command", [["status"], ["nginx", "apply"], ["tls", "keep"]])
def test_other_users_are_told_to_use_sudo(main, engine, command):
    engine.is_root = lambda: False
    with pytest.raises(SystemExit, match="sudo slipway"):
        main(*command)


def test_host_without_configuration_is_told_to_get_it(engine):
    with pytest.raises(SystemExit, match=r"slipway\.json is missing: run the playbook site\.yml"):
        cli.main(["status"], engine)
