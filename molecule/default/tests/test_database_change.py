"""A change of the database's definition, under load."""

import json

import pytest

# Seconds that a request may take while the database is replaced.
PAUSE = 3


def test_dry_run_announces_the_change_of_the_database_and_makes_none(larger_database, inspect):
    before = inspect()["db"]["Id"]
    done = larger_database("--check")
    assert done.status == 0, done.output
    assert "would be replaced" in " ".join(done.output.split())
    assert inspect()["db"]["Id"] == before


@pytest.mark.drill
def test_change_of_the_database_is_announced_and_delays_requests_without_errors(
    larger_database, inspect, under_load
):
    before = inspect()["db"]["Id"]
    with under_load() as load, load.step("the database is replaced") as step:
        done = larger_database()
    assert done.status == 0, done.output
    told = " ".join(done.output.split())
    assert "definition of the database has changed: command, memory." in told
    assert "Its container is now being replaced" in told
    assert told.index("Announce the change of the database") < told.index("Start nginx and the database")
    assert inspect()["db"]["Id"] != before
    assert step.failures == []
    print(f"The slowest of the requests took {load.report.slowest:.1f} s.")
    assert load.report.slowest < PAUSE
    assert load.problems == []


def test_release_does_not_replace_the_database(host, inspect):
    """A play that was interrupted after it wrote compose.yml may leave another definition there."""
    before = inspect()["db"]["Id"]
    path = "/opt/slipway/compose.yml"
    host.check_output("cp --preserve %s /run/slipway-test.yml", path)
    try:
        host.check_output("sed --in-place 's/max_connections=50/max_connections=51/' %s", path)
        assert json.loads(host.check_output("slipway nginx apply"))["database"] == ["command"]
        host.check_output("slipway rotate key")
    finally:
        host.check_output("mv /run/slipway-test.yml %s", path)
    assert inspect()["db"]["Id"] == before
