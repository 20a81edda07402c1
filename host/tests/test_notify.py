"""Hooks and the webhook."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import NEW, OLD, THIRD

from slipway.release import release
from slipway.shell import Failure


def test_hooks_get_the_release_in_their_environment(stack, engine, hook, tmp_path):
    told = hook(f"env | grep ^SLIPWAY_ | sort > {tmp_path}/$1")
    stack.config["hooks"] = {moment: f"{told} {moment}" for moment in ("before", "after", "failed")}
    entry = release(stack, NEW, "1.2", "abc", "anna smith")
    lines = dict(line.split("=", 1) for line in (tmp_path / "after").read_text().splitlines())
    assert lines == {
        "SLIPWAY_RELEASE": entry.id,
        "SLIPWAY_OUTCOME": "in service",
        "SLIPWAY_IMAGE": NEW,
        "SLIPWAY_VERSION": "1.2",
        "SLIPWAY_REVISION": "abc",
        "SLIPWAY_BY": "anna smith",
        "SLIPWAY_REASON": "",
        "SLIPWAY_INSTEAD_OF": "",
    }
    assert "SLIPWAY_OUTCOME=under way\n" in (tmp_path / "before").read_text()
    assert not (tmp_path / "failed").exists()
    engine.wrong["smoke"] = 500
    with pytest.raises(Failure):
        release(stack, OLD, "", "", "anna")
    assert "SLIPWAY_REASON=The blue slot behind nginx answered 500" in (tmp_path / "failed").read_text()


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ("echo no release on a friday; exit 3", r"`before` .* failed \(3\):\n    no release on a friday"),
        ("sleep 60", r"did not end within 0\.2 s"),
        (None, "cannot be run: .*No such file"),
    ],
)
def test_hook_before_can_refuse_a_release(stack, engine, hook, commands, says):
    stack.config |= {"hooks": {"before": hook(commands) if commands else "/nosuch"}, "hook_timeout": 0.2}
    with pytest.raises(Failure, match=says):
        release(stack, NEW, "", "", "anna")
    assert not {"database", "start"} & set(engine.events)


def test_failure_of_the_hook_after_is_only_reported(stack, engine, hook, capsys):
    stack.config["hooks"] = {"after": hook("echo oh; exit 1")}
    assert release(stack, NEW, "", "", "anna").outcome == "in service"
    assert re.search(r"hook `after` .* failed \(1\):\n    oh", capsys.readouterr().out)
    stack.config["hooks"] = {"after": hook("printf '\\377'; exit 1")}
    assert release(stack, OLD, "", "", "anna").outcome == "in service"
    assert "hook `after`" in capsys.readouterr().out
    stack.config["hooks"] = {"after": "echo it's"}
    engine.stored.add(THIRD)
    assert release(stack, THIRD, "", "", "anna").outcome == "in service"
    assert "hook `after` cannot be run: No closing quotation" in capsys.readouterr().out


@pytest.mark.parametrize("status", [200, 500, 302])
def test_webhook_gets_the_entry_and_its_status_does_not_affect_the_release(
    stack, engine, receiver, capsys, status
):
    receiver.status, stack.config["webhook_url"] = status, receiver.url
    (Path(stack.config["secrets"]) / "webhook_token").write_text("never-to-be-shown\n")
    entry = release(stack, NEW, "1.2", "", "anna")
    [(path, token, body)] = receiver.got
    assert path == "/hook"
    assert token == "Bearer never-to-be-shown"
    late = {"drain", "tidy", "pictures"}
    by_then = {stage: seconds for stage, seconds in entry.stages.items() if stage not in late}
    assert body == {"host": "blog.example.org", "release": entry.to_json() | {"stages": by_then}}
    told = capsys.readouterr().out
    assert ("The webhook request failed" in told) == (status != 200)
    assert "never-to-be-shown" not in told + stack.ledger.path.read_text()


@pytest.mark.parametrize(
    ("url", "says"), [("http://127.0.0.1:1/", ".*refused"), ("chat.example.org/hook", "unknown url type")]
)
def test_webhook_without_a_receiver_does_not_affect_the_release(stack, engine, capsys, url, says):
    stack.config["webhook_url"] = url
    assert release(stack, NEW, "", "", "anna")
    assert re.search(f"webhook request failed: {says}", capsys.readouterr().out)


def test_release_stops_waiting_for_a_slow_webhook(stack, engine, capsys, receiver):
    """The receiver sends each byte within the read timeout, but never ends."""
    engine.settings = replace(engine.settings, webhook_seconds=0.3)
    receiver.drips, stack.config["webhook_url"] = True, receiver.url
    assert release(stack, NEW, "", "", "anna").outcome == "in service"
    assert "The webhook did not answer within 0.3 s" in capsys.readouterr().out
