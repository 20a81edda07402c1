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
    commands += ["rotate", "import", "export", "metrics", "nginx", "up", "tls", "updates"]
    commands += ["backup", "restore", "drill", "upgrade-database", "heal"]
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
        ["backup"],
        ["backup", "run", "weekly"],
        ["restore", "--undo", "--forget"],
    ],
)
def test_wrong_arguments_exit_with_status_2_and_the_usage(arguments):
    done = command_line(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: slipway ")


@pytest.mark.parametrize("command", [["status"], ["nginx", "apply"], ["tls", "keep"], ["drill"]])
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[]", "it is not an object"),
        ('{"keep": "many", "slots": {"blue": 1}, "new": 1}', "values of the wrong type: keep, slots"),
    ],
    ids=["half", "empty", "list", "types"],
)
def test_broken_configuration_is_reported_with_a_remedy(main, engine, capsys, content, says):
    file = engine.settings.configuration[-1]
    main("history")
    file.write_text(content)
    assert cli.main(["history"], engine) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"slipway: {file} is broken ({says}")
    assert told.endswith("): run the playbook site.yml, which writes it.\n")


def test_error_of_the_operating_system_is_reported_without_a_traceback(main, stack, capsys):
    stack.ledger.path.mkdir()
    assert main("history") == 1
    assert capsys.readouterr().err.startswith(
        f"slipway: Is a directory: {stack.ledger.path}. `slipway status`"
    )


def test_unexpected_error_is_reported_with_its_place(main, monkeypatch, capsys):
    monkeypatch.setattr(cli.status, "command_history", lambda stack, options: {}["a key"])
    assert main("history") == 1
    assert re.match(
        r"slipway: KeyError: 'a key' \(test_cli\.py, line \d+\)\. `slipway", capsys.readouterr().err
    )


def test_interrupted_command_says_that_a_release_continues(main, engine, capsys):
    def interrupted(*command, **options):
        raise KeyboardInterrupt

    engine.run = interrupted
    assert main("status") == 130
    assert "A release under way continues" in capsys.readouterr().err
