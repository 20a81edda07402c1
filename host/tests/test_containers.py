"""Queries to the Docker engine about containers."""

import json

from slipway.containers import state_and_log
from slipway.host import Host


class Engine(Host):
    """An engine that has restarted a container twice."""

    def run(self, *command, **options):
        assert command[:2] == ("docker", "events")
        assert "container=id" in command
        assert "event=die" in command
        return "".join(f"{json.dumps({'exitCode': code})}\n" for code in "13")

    def output(self, *command):
        assert command == ("docker", "logs", "--tail", "15", "id")
        return "first\nlast\n"


def test_description_has_the_state_of_a_container_and_its_last_log_lines():
    container = {"Id": "id", "Name": "/slipway-db-1", "State": {"Status": "restarting"}}
    assert state_and_log(Engine(), container | {"Created": "2026-01-01T00:00:00Z"}) == (
        "The container slipway-db-1 is restarting (exit code 3). Its last lines:\n    first\n    last"
    )
