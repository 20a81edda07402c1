"""The command runner, with real commands."""

import pytest
from fakes import NEW

from slipway.shell import CommandFailure, output, run


def test_command_gets_only_the_given_environment(monkeypatch):
    monkeypatch.setenv("BLUE_IMAGE", "of the caller")
    output = run("env", env={"GREEN_IMAGE": NEW})
    assert {line.split("=")[0] for line in output.splitlines()} == {"PATH", "HOME", "GREEN_IMAGE"}


def test_failed_command_is_reported_with_its_last_lines():
    with pytest.raises(CommandFailure, match=r"`sh -c .* failed \(3\)") as failure:
        run("sh", "-c", "seq 100 >&2; exit 3")
    lines = str(failure.value).splitlines()
    assert lines[1:] == [f"    {number}" for number in range(86, 101)]
    assert failure.value.output.startswith("1\n2\n")


def test_output_has_both_streams_of_a_failed_command(monkeypatch):
    monkeypatch.setenv("BLUE_IMAGE", "of the caller")
    assert output("sh", "-c", "echo first; echo last >&2; echo $BLUE_IMAGE; exit 3") == "first\nlast\n\n"
