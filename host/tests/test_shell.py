"""The command runner, with real commands."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import NEW

import slipway
from slipway.shell import CommandFailure, Failure, Follower, output, printable, run


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


@pytest.mark.parametrize("function", [run, output])
def test_missing_program_is_reported(function):
    with pytest.raises(Failure, match=r"`no-such-program` cannot be run: No such file or directory\."):
        function("no-such-program", "--help")


def test_control_characters_are_escaped_and_texts_stay():
    assert printable("a\tb\x1b[2J\x9b2J\r\x7f\u202e\nAnna ünï 🚢") == (
        "a\tb\\x1b[2J\\x9b2J\\r\\x7f\\u202e\nAnna ünï 🚢"
    )


def test_message_of_a_failure_has_no_control_characters():
    assert str(Failure("The container said:\n\x1b[2J\x9b")) == "The container said:\n\\x1b[2J\\x9b"


def test_last_lines_of_a_failed_command_have_no_control_characters():
    with pytest.raises(CommandFailure) as failure:
        run("sh", "-c", r"printf '\033[2J\302\233' >&2; exit 3")
    assert "\\x1b[2J\\x9b" in str(failure.value)


def show(*command, **options):
    """Run shell.show in a Python process of its own, because it changes how signals are handled."""
    program = "import sys; from slipway.shell import show; sys.exit(show(*sys.argv[1:]))"
    path = {"PYTHONPATH": str(Path(slipway.__file__).parents[1]), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *command], check=False, capture_output=True, env=path, **options
    )


def test_shown_output_has_no_control_characters_and_no_forged_line():
    done = show("printf", r"nginx | a\302\2332J\233\rb\033]0;c\007 \303\274\nlast")
    assert done.stdout.decode() == "nginx | a\\x9b2J\\x9b\\rb\\x1b]0;c\\x07 ü\nlast"


def test_command_that_erases_a_line_before_it_prints_is_shown_without_that():
    assert show("printf", r"\033[2Knginx | a\033[2K\n").stdout == b"nginx | a\\x1b[2K\n"


def test_show_prints_errors_and_returns_the_exit_status():
    done = show("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\nerr\n")


def test_show_ends_without_a_traceback_when_its_reader_ends():
    path = str(Path(slipway.__file__).parents[1])
    program = "from slipway.shell import show; show('yes')"
    piped = f'PYTHONPATH={path} {sys.executable} -c "{program}" | head -1'
    done = subprocess.run(["bash", "-c", piped], check=False, capture_output=True)
    assert (done.stdout, done.stderr) == (b"y\n", b"")


def test_follower_waits_for_each_line_and_notices_the_end():
    with Follower("sh", "-c", "echo one; sleep 0.3; echo two") as events:
        began = time.monotonic()
        events.wait(10)
        assert events.goes_on
        events.wait(10)
        assert events.goes_on
        assert 0.2 < time.monotonic() - began < 5
        events.wait(10)
        assert not events.goes_on


def test_follower_waits_no_longer_than_it_is_told_and_ends_its_command():
    with Follower("sleep", "60") as events:
        events.wait(0.05)
        assert events.goes_on
        process = events.process
    assert process.returncode == -9


def test_follower_of_a_missing_program_is_a_failure():
    with pytest.raises(Failure, match="`no-such-program` cannot be run"):
        Follower("no-such-program")
