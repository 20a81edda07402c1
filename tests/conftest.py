"""What several test files share."""

import os
import subprocess
import sys

import pytest
from project import ROOT


@pytest.fixture(scope="session")
def ansible():
    """A function that runs a command of Ansible in this repository, such as ansible("playbook", "--version")."""

    def run(command, *arguments, config=ROOT / "ansible.cfg"):
        return subprocess.run(
            [sys.executable, "-m", "ansible", command, *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, "ANSIBLE_CONFIG": str(config)},
        )

    return run
