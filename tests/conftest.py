"""What several test files share."""

import os
import subprocess
import sys

import pytest
import yaml
from project import ROOT


@pytest.fixture(scope="session")
def ansible():
    """A function that runs a command of Ansible in this repository, as in ansible("playbook", "site.yml")."""

    def run(command, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "ansible", command, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )

    return run


def docker(*command, **options):
    return subprocess.run(["docker", *command], capture_output=True, text=True, **options)


@pytest.fixture(scope="session")
def check():
    """A function that runs a command in a container with the parsers, with options of `docker run`."""
    base = yaml.safe_load((ROOT / "roles/sandbox/vars/main.yml").read_text())["__sandbox_base_image"]
    if docker("image", "inspect", base).returncode:
        pytest.fail(f"The engine has no image {base}: run `make sandbox-base` first.", pytrace=False)
    image = "slipway/checkers"
    built = docker("build", "--build-arg", f"BASE_IMAGE={base}", "--tag", image, str(ROOT / "tests/checkers"))
    assert built.returncode == 0, built.stderr

    def run(*options, command, stdin=""):
        always = ["--rm", "--interactive", "--network=none", "--label=slipway.test=unit"]
        return docker("run", *always, *options, image, *command, input=stdin)

    return run
