"""The command line."""

import re
import shutil
import subprocess
import sys

import pytest
from fakes import NEW
from project import ROOT

from slipway import cli

PROGRAM = ROOT / "host/slipway/__main__.py"


def command_line(*arguments):
    return subprocess.run([sys.executable, "-I", "-B", PROGRAM, *arguments], capture_output=True, text=True)


def test_help_lists_the_commands():
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
        ["nginx", "unknown"],
        ["tls", "renew"],
    ],
)
def test_wrong_arguments_exit_with_status_2_and_the_usage(arguments):
    done = command_line(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: slipway ")


@pytest.mark.parametrize("command", [["status"], ["nginx", "apply"], ["tls", "keep"]])
def test_program_tells_other_users_to_use_sudo(main, engine, command):
    engine.is_root = lambda: False
    with pytest.raises(SystemExit, match="sudo slipway"):
        main(*command)


def test_program_names_the_playbook_on_a_host_without_configuration(engine):
    with pytest.raises(SystemExit, match=r"has no admin_email, .*: run the playbook site\.yml"):
        cli.main(["status"], engine)


def test_launcher_starts_the_current_version(tmp_path):
    for version in ("old", "new"):
        package = tmp_path / version / "slipway"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copy(ROOT / "host/slipway/__main__.py", package)
        (package / "cli.py").write_text(
            "def main(arguments):\n    print(__file__, *arguments)\n    return 3\n"
        )
    launcher = tmp_path / "slipway"
    text = (ROOT / "roles/host_program/files/slipway").read_text()
    launcher.write_text(text.replace("/usr/local/lib/slipway/current", f"{tmp_path}/current"))
    (tmp_path / "current").symlink_to("old")
    done = subprocess.run(["sh", launcher, "status", "--json"], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == f"{tmp_path}/old/slipway/cli.py status --json\n"
    assert done.returncode == 3


def test_launcher_ignores_the_caller_s_python_path(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('another json')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert command_line("--help").returncode == 0
    assert "exec /usr/bin/python3 -I -B /" in (ROOT / "roles/host_program/files/slipway").read_text()
