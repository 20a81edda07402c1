"""The action plugin program, with a shell script in place of the program."""

import json
import subprocess

import pytest
from project import ROOT

SHOWN = "{{ [done.changed, done is skipped, done.answer, done.lines, done.msg | default('')] | to_json }}"


@pytest.fixture
def run_program(tmp_path):
    """A function that runs shell commands as the program; it returns the result or a failed play's output."""

    def run_program(commands, *options, **arguments):
        program = tmp_path / "slipway"
        if commands:
            program.write_text(f"#!/bin/sh\n{commands}\n")
            program.chmod(0o755)
        task = {"arguments": ["nginx", "apply"], "executable": str(program)} | arguments
        tasks = [
            {"slipway.blog.program": task, "register": "done"},
            {
                "ansible.builtin.copy": {"dest": str(tmp_path / "result"), "content": SHOWN},
                "check_mode": False,
            },
        ]
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        (tmp_path / "play.yml").write_text(json.dumps([play]))
        command = ["ansible-playbook", "--inventory", "localhost,", *options, tmp_path / "play.yml"]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(ran.stderr)
        return json.loads((tmp_path / "result").read_text()) if ran.returncode == 0 else ran.stdout

    return run_program


def test_answer_is_the_last_line_if_it_is_an_object(run_program):
    answer = {"changed": False, "message": "Nothing to do."}
    said = f"echo one; echo two; cat; echo '{json.dumps(answer)}'"
    assert run_program(said, stdin="three") == [
        False,
        False,
        answer,
        ["one", "two", "three"],
        "Nothing to do.",
    ]
    assert run_program("echo $@") == [True, False, {}, ["nginx apply"], ""]
    assert run_program("true") == [True, False, {}, [], ""]


def test_failed_command_fails_with_its_output_and_its_error(run_program):
    said = run_program("echo 'the stage'; echo 'the reason' >&2; exit 1")
    assert "msg: |-\n        the stage\n        the reason" in said
    assert "stdout" not in said


def test_missing_program_fails_with_its_path(run_program, tmp_path):
    assert f"The host has no program {tmp_path}/slipway. Run site.yml" in run_program("")


def test_check_mode_runs_only_a_command_with_a_dry_run(run_program, tmp_path):
    said = f"""touch {tmp_path}/ran; echo '{{"changed": false}}'; test "$3" = --check"""
    assert run_program(said, "--check") == [False, True, {}, [], ""]
    assert not (tmp_path / "ran").exists()
    assert run_program(said, "--check", dry_run=True) == [False, False, {"changed": False}, [], ""]
    assert (tmp_path / "ran").exists()


def test_dry_run_that_fails_would_change_and_warns_of_the_reason(run_program, capsys):
    changed, skipped, answer, lines, message = run_program(
        "echo 'the reason' >&2; exit 1", "--check", dry_run=True
    )
    assert [changed, skipped, answer, lines, message] == [True, False, {}, [], "the reason"]
    warning = " ".join(capsys.readouterr().out.split())
    assert "[WARNING]: The dry run of `" in warning
    assert "nginx apply` failed: the reason" in warning


def test_module_that_does_not_run_fails(run_program):
    broken = {"ansible_python_interpreter": "/bin/false"}
    said = run_program("true", "--extra-vars", json.dumps(broken))
    assert "failed=1" in said
    assert "The host has no program" not in said


def test_host_without_the_program_would_change_in_check_mode(run_program, tmp_path):
    changed, skipped, answer, lines, _message = run_program("", "--check", dry_run=True)
    assert [changed, skipped, answer, lines] == [True, False, {}, []]
