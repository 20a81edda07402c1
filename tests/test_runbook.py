"""Every command of docs/recovery.md is executed by a test."""

import sys

import pytest
from project import ROOT

sys.path.insert(0, str(ROOT / "molecule/default/tests"))

from runbook import commands

BACKUPS, RUNBOOK = "default/tests/test_backups.py", "default/tests/test_runbook.py"
LOST, REPOSITORIES = "recovery/tests/test_lost_host.py", "recovery/tests/test_repositories.py"
# For each command: the file in molecule/ that executes it, and how it is written there.
EXECUTED = {
    'slipway restore --to "2026-11-22 10:00:00+00"': (BACKUPS, "--to '{moment}'"),
    "slipway restore --to": (BACKUPS, "--to '{moment}'"),
    "slipway restore": (BACKUPS, "slipway restore --yes"),
    "slipway restore --undo": (BACKUPS, 'run("--undo")'),
    "slipway restore --forget": (BACKUPS, "slipway restore --forget"),
    "slipway backup run full": (BACKUPS, "slipway backup run full"),
    "slipway backup verify": (BACKUPS, "slipway backup verify"),
    "slipway drill": (BACKUPS, 'host.run("slipway drill")'),
    "slipway metrics": (BACKUPS, "slipway metrics"),
    "slipway backup files": (REPOSITORIES, "slipway backup files"),
    "ansible-playbook playbooks/restore.yml -e restore_to=2026-11-22T10:00:00Z": (
        BACKUPS,
        "playbooks/restore.yml",
    ),
    "ansible-playbook -i inventory/mine playbooks/recover.yml": (LOST, "playbooks/recover.yml"),
}
PRINTED = (
    (
        RUNBOOK,
        (
            "--into",
            "import --existing skip",
            "pg_restore",
            "expire",
            "slipway status",
            "slipway logs db",
            "slipway backup list",
        ),
    ),
    (RUNBOOK, ("slipway-backup-verify", "'slipway-backup@*'", "'slipway-drill*'", "timedatectl")),
    (REPOSITORIES, ("ssh-keyscan", "/srv/snapshots")),
)


def source(file):
    return (ROOT / "molecule" / file).read_text()


@pytest.mark.parametrize("command", commands())
def test_command_of_the_runbook_is_executed_by_a_test(command):
    if command in EXECUTED:
        file, words = EXECUTED[command]
        assert words in source(file)
        return
    users = [
        file for file, parts in PRINTED for part in parts if part in command and f'"{part}"' in source(file)
    ]
    assert users, f"no test executes {command}"


def test_list_has_no_command_that_is_not_in_the_runbook():
    assert EXECUTED.keys() - set(commands()) == set()
