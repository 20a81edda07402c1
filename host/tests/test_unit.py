"""Work in a systemd unit, with a fake systemd-run."""

import os
import sys

import pytest

from slipway import unit
from slipway.host import Host
from slipway.lock import lock
from slipway.shell import Failure


@pytest.fixture
def host(settings):
    """A host on which nothing is under way."""
    return Host(settings)


def test_unit_runs_the_same_modules_and_its_output_is_shown(host, systemd_run, tmp_path, capsys):
    systemd_run(f'echo a stage >> "$log"; echo "$@" > {tmp_path}/asked; exit 3')
    assert unit.detach(host, "anna", ["release", "sha256:1"]) == 3
    assert capsys.readouterr().out == "a stage\n"
    asked = (tmp_path / "asked").read_text().split()
    program = [sys.executable, "-I", "-B", unit.__file__.replace("unit.py", "__main__.py")]
    assert asked[-8:] == [*program, "release", "sha256:1", "--by=anna", "--in-unit"]
    assert list(host.settings.runtime.glob("*.log")) == []


def test_killed_unit_is_reported_differently_from_a_failed_one(host, systemd_run):
    systemd_run(f"exit {unit.KILLED}")
    with pytest.raises(Failure, match=r"was killed\. Run the command again"):
        unit.detach(host, "anna", ["rollback"])


def test_unit_does_not_start_while_another_process_holds_the_lock(host, systemd_run, tmp_path):
    systemd_run(f"touch {tmp_path}/started")
    with lock(host, "bert"), pytest.raises(Failure, match="under way: bert"):
        unit.detach(host, "anna", ["rollback"])
    assert not (tmp_path / "started").exists()


def test_log_of_a_killed_program_is_removed(host, tmp_path):
    host.settings.runtime.mkdir()
    left, used = (host.settings.runtime / f"slipway-release-{pid}.log" for pid in (2**22 + 1, os.getpid()))
    left.touch()
    used.touch()
    unit.remove_logs(host.settings.runtime)
    assert not left.exists()
    assert used.exists()
