"""Fixtures shared by several test files."""

import os
import subprocess
import sys

import pytest
from parsers import check
from project import ROOT

# host/tests uses this fixture too.
__all__ = ["check"]


@pytest.fixture(scope="session")
def ansible():
    """A function that runs an Ansible command in this repository, as in ansible("playbook", "site.yml")."""

    def run(command, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "ansible", command, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )

    return run
