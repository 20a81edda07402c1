"""Maintenance."""

import json

from fakes import NEW

from slipway.release import release


def test_command_sets_and_removes_the_maintenance_flag(main, stack, capsys):
    for state, changed in (("on", True), ("on", False), ("off", True), ("off", False)):
        assert main("maintenance", state, "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"changed": changed}
        assert stack.maintenance_flag.exists() == (state == "on")


def test_release_succeeds_during_maintenance(stack, engine):
    stack.maintenance_flag.touch()
    engine.wrong["switch"] = 503
    assert release(stack, NEW, "", "", "anna").outcome == "in service"
