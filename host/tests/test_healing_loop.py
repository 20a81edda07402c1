"""The loop of the command that restarts unhealthy containers, and what the status says of it."""

import json
from dataclasses import replace

import pytest
from fakes import Killed
from ward import HUNG, NOON, shown

from slipway import healing
from slipway.lock import lock
from slipway.shell import CommandFailure


class Events:
    """A fake `docker events`: each wait runs the next step of the test; after the last, it raises Killed."""

    def __init__(self, steps):
        self.steps, self.goes_on, self.waits, self.commands = iter(steps), True, [], []

    def __call__(self, *command):
        self.goes_on = True
        self.commands.append(command)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def wait(self, seconds):
        self.waits.append(seconds)
        step = next(self.steps, None)
        if step is None:
            raise Killed
        step()

    def end(self):
        self.goes_on = False


def watch(engine, *steps):
    """Run the healer until the steps have ended; return the events, and what systemd was told."""
    engine.follow, told = Events(steps), []
    engine.sleep = lambda seconds: None
    with pytest.raises(Killed):
        healing.watch(engine, told.append)
    return engine.follow, told


def test_healer_looks_at_its_start_and_after_each_event(engine, ward):
    ward.frozen.add("nginx")
    ward.fall_ill("db")
    events, told = watch(engine, lambda: ward.fall_ill("nginx"))
    assert [service for service, _time in ward.restarted] == ["db", "nginx"]
    assert events.waits == [engine.settings.heal_look_seconds] * 2
    assert told == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    [command] = events.commands
    assert command[:2] == ("docker", "events")
    assert "--filter=event=health_status" in command
    assert "--filter=label=com.docker.compose.project=slipway" in command


def test_healer_looks_again_after_the_engine_was_away(engine, ward):
    events = Events([])

    def restart():
        events.end()
        ward.fall_ill("db")

    events.steps = iter([restart])
    engine.follow, engine.sleep = events, lambda seconds: None
    with pytest.raises(Killed):
        healing.watch(engine, lambda state: None)
    assert [service for service, _time in ward.restarted] == ["db"]
    assert [f"--since={shown(NOON)}" in command for command in events.commands] == [True, True]


def test_healer_survives_an_engine_that_does_not_answer_and_says_so_once(engine, ward, capsys):
    run, engine.run = engine.run, None

    def refuse(*command, **options):
        raise CommandFailure(command, 1, "Cannot connect to the Docker daemon")

    def back():
        engine.run = run
        ward.fall_ill("db")

    engine.run = refuse
    watch(engine, lambda: None, lambda: None, back)
    assert capsys.readouterr().out.count("Cannot connect to the Docker daemon") == 1
    assert ward.restarted == [("db", 3)]


def test_healer_looks_again_soon_while_it_must_wait(engine, ward):
    ward.fall_ill("db")
    with lock(engine, "anna"):
        events, _told = watch(engine)
    assert events.waits == [engine.settings.heal_again_seconds]


def test_newly_installed_version_replaces_the_healer(main, engine, ward, started, tmp_path):
    link = tmp_path / "current"
    engine.settings = replace(engine.settings, program=link)
    link.symlink_to(healing.CODE)
    (tmp_path / "other").mkdir()

    def install():
        link.unlink()
        link.symlink_to(tmp_path / "other")

    engine.follow = Events([lambda: None, install])
    with pytest.raises(Killed):
        main("heal")
    assert len(engine.follow.waits) == 2
    [command] = started
    assert command[-2:] == [f"{link}/slipway/__main__.py", "heal"]


# --- The status ---------------------------------------------------------------------------------------------


def listed(**service):
    return json.dumps({"Service": "db", "State": "running", "Health": "healthy"} | service) + "\n"


@pytest.fixture
def compose_ps(engine, ward):
    """A function that sets what `docker compose ps` lists, and how often the database has been restarted."""

    def told(line, restarts=0):
        def run(*command, **options):
            if command[-4:] == ("ps", "--all", "--format", "json"):
                return line
            if command[-1] == "--filter=label=com.docker.compose.service=db":
                return "id-db\n"
            if command == ("docker", "inspect", "id-db"):
                container = {"Id": "id-db", "Name": "/slipway-db-1", "Created": "2026-01-01T00:00:00Z"}
                return json.dumps([container | {"State": {"Status": "restarting"}, "RestartCount": restarts}])
            return ward.run(*command, **options)

        engine.run = run

    return told


def test_status_shows_the_healed_containers_of_the_last_day(main, ward, healer, compose_ps, capsys):
    ward.fall_ill("db")
    healer.look()
    compose_ps(listed())
    capsys.readouterr()
    assert main("status") == 0
    told = capsys.readouterr().out
    assert f"healed       db {shown(NOON)} (unhealthy for 19 s)\n" in told
    assert "healer " not in told
    assert "failing" not in told
    assert main("status", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healed"] == [{"service": "db", "at": shown(NOON), "seconds": 19, "reason": HUNG["Output"]}]
    assert (told["healer"], told["failing"]) == ([], [])


def test_status_says_that_the_healer_does_not_run(main, engine, compose_ps, capsys):
    compose_ps(listed())
    for engine.unit in ("failed", "inactive", "activating"):
        assert main("status") == 0
        assert "healer       slipway-heal.service does not run, so nothing" in capsys.readouterr().out


@pytest.mark.parametrize("state", [{"State": "restarting", "Health": ""}, {"Health": "starting"}])
def test_status_says_why_a_container_starts_again_and_again(main, engine, compose_ps, capsys, state):
    compose_ps(listed(**state), restarts=4)
    assert main("status") == 0
    told = capsys.readouterr().out
    assert "failing      The container slipway-db-1 is restarting (exit code none). Its last lines:\n" in told
    assert "    of db\n" in told


def test_status_has_no_log_of_a_container_that_has_just_started(main, compose_ps, capsys):
    compose_ps(listed(Health="starting"))
    assert main("status") == 0
    assert "failing" not in capsys.readouterr().out
