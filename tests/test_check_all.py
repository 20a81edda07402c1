"""The action plugin check_all."""

import json
import subprocess

import pytest
from project import ROOT


@pytest.fixture
def run_checks(tmp_path):
    """A function that runs checks in a play; it returns whether the play failed, and the output."""

    def run_checks(checks, lists=None, **variables):
        task = {"slipway.blog.check_all": {"checks": checks, "lists": lists or {}}, "vars": variables}
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
        (tmp_path / "play.yml").write_text(json.dumps([play]))
        command = ["ansible-playbook", "--inventory", "localhost,", tmp_path / "play.yml"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode != 0, done.stdout

    return run_checks


def test_each_failed_check_shows_its_message(run_checks):
    checks = [
        {"name": "One", "that": "one == 1", "fail_msg": "one is {{ one }}"},
        {"name": "Two", "that": ["two > 1", "two < 3"], "fail_msg": "two is {{ two }}"},
        {"name": "Three", "that": "two == 3", "fail_msg": "three is {{ two }}", "when": "one == 2"},
        {"name": "Four", "that": "two == 4", "fail_msg": "four is {{ two }}", "when": "one == 5"},
    ]
    failed, said = run_checks(checks, one=5, two=2)
    assert failed
    assert "one is 5" in said
    assert "four is 2" in said
    assert "two is" not in said
    assert "three is" not in said


def test_check_that_cannot_be_evaluated_hides_no_other_message(run_checks):
    checks = [
        {"name": "One", "that": "one == 1", "fail_msg": "one is {{ one }}"},
        {"name": "Two has a length", "that": "two | length > 0", "fail_msg": "two is {{ two }}"},
        {"name": "Three", "that": "one == 3", "fail_msg": "three is {{ one }}"},
    ]
    failed, said = run_checks(checks, one=5, two=2)
    assert failed
    for text in ("one is 5", "Two has a length: ", "three is 5"):
        assert text in said


def test_passed_checks_show_no_message(run_checks):
    failed, said = run_checks([{"name": "One", "that": "one == 1", "fail_msg": "one is {{ one }}"}], one=1)
    assert not failed
    assert "one is" not in said


def test_text_in_place_of_a_list_is_refused_before_the_checks_and_not_shown(run_checks):
    checks = [{"name": "One", "that": "one | first == 1", "fail_msg": "one is {{ one }}"}]
    lists = {"one": 443, "two": "GET"}
    for one in ("a private key", {"key": 443}, 443):
        failed, said = run_checks(checks, lists, one=one, two=["{{ one }}"])
        assert failed
        assert "one is not a list. Write it like [443], even for one value." in said
        assert "one is a" not in said
        assert "private" not in said
        assert "two is" not in said
    assert run_checks(checks, lists, one="{{ [1] }}", two=[])[0] is False
