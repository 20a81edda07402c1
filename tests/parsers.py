"""A container with the programs that parse rendered files, for tests of the templates and of slipway."""

import subprocess

import pytest
import yaml
from project import ROOT


def docker(*command, **options):
    return subprocess.run(["docker", *command], capture_output=True, text=True, **options)


@pytest.fixture(scope="session")
def check():
    """A function that runs a command in a container of the parsers; it takes options of `docker run`."""
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
