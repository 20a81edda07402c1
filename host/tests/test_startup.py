"""The start of nginx and the database, and changes of the database's definition."""

import copy
import json

import pytest
from fakes import Killed
from nginx_host import DB, NEW, OLD, make_host

from slipway import cli, startup
from slipway.lock import lock
from slipway.shell import CommandFailure


@pytest.fixture
def host(tmp_path):
    """A host where nginx and the database run."""
    host = make_host(tmp_path)
    host.create("db", OLD)
    for container in host.containers.values():
        container["State"] |= {"Status": "running", "Health": {"Status": "healthy"}}
    return host


def up(host):
    return cli.main(["up", "--in-unit"], host)


def test_up_changes_nothing_if_compose_changes_nothing(host, capsys):
    assert up(host) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False}


@pytest.mark.parametrize(
    "change",
    [
        lambda host: host.create("db", OLD),
        lambda host: host.containers["nginx-1"]["State"].update(StartedAt="2026-01-02T00:00:00Z"),
    ],
    ids=["created", "started"],
)
def test_up_reports_containers_that_it_created_or_started(host, capsys, change):
    host.start_all = lambda: change(host)
    assert up(host) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True}


def test_posts_are_held_before_a_changed_database_is_replaced(host):
    host.database = NEW
    assert up(host) == 0
    assert host.events == ["hold posts of db-2", "up"]


def test_posts_go_on_if_the_database_could_not_be_replaced(host):
    def fail():
        raise CommandFailure("compose up", 1, "no such image")

    host.database, host.start_all = NEW, fail
    assert up(host) == 1
    assert host.events == ["hold posts of db-2", "up", "release posts of db-2"]


def test_posts_are_not_held_if_the_database_stays(host):
    up(host)
    assert host.events == ["up"]


def test_database_that_does_not_run_is_replaced_at_once(host):
    host.database = NEW
    host.stopped.add("db-2")
    assert up(host) == 0
    assert host.events == ["up"]


def test_database_that_does_not_answer_is_replaced(host):
    host.database, run = NEW, host.run

    def refuse(*command, stdin=None):
        if "psql" in command:
            raise CommandFailure("psql", 2, "the database does not answer")
        return run(*command, stdin=stdin)

    host.run = refuse
    assert up(host) == 0
    assert host.events == ["up"]


def test_database_is_not_replaced_during_a_release_or_a_migration(host, capsys):
    with lock(host, "anna"):
        assert up(host) == 1
        holder = host.settings.lock.read_text()
    assert f"Another operation is under way: {holder}." in capsys.readouterr().err
    assert host.events == []


def test_release_is_refused_while_the_database_is_replaced(host):
    holders = []
    host.start_all = lambda: holders.append(host.settings.lock.read_text())
    up(host)
    assert holders[0].startswith("a start of nginx and the database, since 2")


def test_up_runs_in_a_systemd_unit(host, started):
    """A lost control node must not leave the host without its database."""
    with pytest.raises(Killed):
        cli.main(["up"], host)
    assert started[0][0] == "systemd-run"
    assert started[0][-2:] == ["up", "--in-unit"]
    assert host.events == []


def test_failed_start_shows_the_log_of_the_containers_that_do_not_run(host, capsys):
    def fail():
        host.containers["db-2"]["State"] |= {"Status": "exited", "Health": {"Status": "unhealthy"}}
        raise CommandFailure(["docker"], 1, "container slipway-db-1 exited (1)")

    host.start_all = fail
    assert up(host) == 1
    told = capsys.readouterr().err
    assert "container slipway-db-1 exited (1)" in told
    assert "The container db is exited (exit code 1). Its last lines:\n    last words of db" in told
    assert "nginx" not in told


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image", {"image": "sha256:other"}),
        ("command", {"command": ["postgres"]}),
        ("environment", {"environment": {"POSTGRES_DB": "other"}}),
        ("memory", {"mem_limit": "1"}),
        ("processors", {"cpus": 0.5}),
        ("volume", {"labels": {"slipway.volume": "other"}}),
    ],
)
def test_each_change_of_the_database_is_named(host, name, change):
    found = startup.differences(host.containers["db-2"], copy.deepcopy(DB) | change)
    assert [part for part, differs in found.items() if differs] == [name]


def test_change_of_another_setting_is_announced_too(host):
    assert startup.database_changes(host, "another-definition") == ["other settings"]


def test_first_start_of_the_database_is_no_change(host):
    del host.containers["db-2"]
    assert startup.database_changes(host, "another-definition") == []
