"""Containers whose processes hang serve again within 30 seconds, and no write is lost."""

import contextlib
import json
import time

import pytest
from load import wrong_posts
from outside import wait_until

UNIT = "slipway-heal.service"
RECORD = "/var/lib/slipway/healing.json"
# Seconds from the moment when the processes are stopped to the next page.
SERVES_AGAIN = 30
# Seconds until a container is unhealthy, and some more. Three checks must fail: each begins after five
# seconds, and times out after three (x-patience in compose.yml.j2).
UNHEALTHY = 24 + 6
BYSTANDER = "--health-cmd=false --health-interval=1s --health-retries=1 --network=none --entrypoint=sleep"


@pytest.fixture(autouse=True)
def own_record(host, healthy):
    """Begin each test with healthy containers, and without a record of earlier restarts."""
    healthy()
    host.check_output("rm --force %s", RECORD)
    yield
    healthy()
    host.check_output("rm --force %s", RECORD)


@pytest.fixture
def page(reader):
    """Tell whether readers get a page that comes from the blog and the database, not from the cache."""

    def page():
        with contextlib.closing(reader()) as one:
            one.connection.timeout = 2
            try:
                return "Ropes: a table" in one.request("/", Cookie="session=unknown").text
            except OSError:
                return False

    return page


@pytest.fixture
def started(inspect):
    """Return when each container was started, by service."""
    return lambda: {service: c["State"]["StartedAt"] for service, c in inspect().items()}


@pytest.fixture
def journal(host):
    """Return the lines that the healer wrote since the beginning of the test."""
    since = host.check_output("date +@%s")
    return lambda: host.check_output("journalctl --unit=%s --output=cat --since=%s", UNIT, since).splitlines()


@pytest.fixture
def held_lock(host):
    """Let another process hold the lock of the host program. The function releases the lock."""
    host.check_output(
        "systemd-run --quiet --unit=slipway-test-holder flock /run/slipway/lock sh -c %s",
        "echo anna, since noon > /run/slipway/lock; exec sleep infinity",
    )
    wait_until(lambda: host.run("grep anna /run/slipway/lock").rc == 0, 10, "the lock is held")
    yield lambda: host.check_output("systemctl stop slipway-test-holder")
    host.run("systemctl stop slipway-test-holder")


@pytest.fixture
def bystanders(docker, containers, slot):
    """Start unhealthy containers with services that only a release or a change of nginx uses.

    Return their states.
    """
    idle = "green" if slot() == "blue" else "blue"
    image, ids = containers["flask_blog"]["Image"], []
    for service in (f"flask_blog_{idle}", "nginx_temporary"):
        labels = {"com.docker.compose.project": "slipway", "com.docker.compose.service": service}
        options = " ".join(f"--label {name}={value}" for name, value in labels.items())
        ids.append(
            docker(f"run --detach --label slipway.test {options} {BYSTANDER} %s infinity", image).strip()
        )

    def states():
        found = json.loads(docker(f"inspect {' '.join(ids)}"))
        return [(one["State"]["StartedAt"], one["State"]["Health"]["Status"]) for one in found]

    wait_until(lambda: {health for _, health in states()} == {"unhealthy"}, 20, "unhealthy bystanders")
    yield states
    docker(f"rm --force {' '.join(ids)}")


@pytest.mark.parametrize("service", ["flask_blog", "db", pytest.param("nginx", marks=pytest.mark.drill)])
def test_frozen_container_serves_again_and_no_write_is_lost(
    service, freeze, name_of, page, bystanders, under_load, started, status, journal
):
    name, before, others = name_of(service), started(), bystanders()
    with under_load() as load:
        wait_until(lambda: load.look().written > 20, 20, "some POSTs were sent")
        began = freeze(service)
        # A page that was rendered before may still be on its way.
        wait_until(lambda: not page(), 5, f"{name} serves no more")
        left = SERVES_AGAIN - (time.monotonic() - began)
        wait_until(page, left, f"{name} serves again")
        load.look()
    after = started()
    assert {one for one in before if after[one] != before[one]} == {name}
    assert bystanders() == others
    # If a container hangs, nginx may answer a POST with an error although the blog stores the post.
    problems = wrong_posts(load.report.posts, load.titles)
    assert [problem for problem in problems if "although the blog refused it" not in problem] == []
    assert len(load.report.posts["done"]) > 10

    [healed] = status()["healed"]
    assert healed["service"] == name
    assert 8 <= healed["seconds"] <= SERVES_AGAIN
    assert status()["healer"] == []
    [line] = [line for line in journal() if line.startswith(name)]
    assert line == f"{name}: restarted, unhealthy for {healed['seconds']} s: {healed['reason']}"


def test_container_is_not_restarted_while_another_operation_has_the_lock(
    freeze, held_lock, started, journal, page
):
    before = started()
    freeze("db")
    words = "db is unhealthy, but is not restarted now. Another operation is under way: anna, since noon."
    wait_until(lambda: any(words in line for line in journal()), UNHEALTHY, "the healer waits")
    assert started() == before
    held_lock()
    wait_until(page, 15, "the database serves again")
    assert started()["db"] != before["db"]


@pytest.mark.drill
def test_restarts_pause_after_three_in_ten_minutes(host, freeze, started, journal, page, status):
    now = host.check_output("date --utc +%Y-%m-%dT%H:%M:%SZ")
    entry = {"service": "nginx", "at": now, "seconds": 15, "reason": "of a test"}
    host.check_output("echo %s > %s", json.dumps([entry] * 3), RECORD)
    before = started()
    freeze("nginx")
    words = "nginx is unhealthy again after 3 restarts in 10 minutes; the next restart is at "
    wait_until(lambda: any(words in line for line in journal()), UNHEALTHY, "the healer pauses")
    [sentence] = status()["healer"]
    assert sentence.startswith(words)
    assert f"healer       {sentence}" in host.check_output("slipway status")
    assert started() == before
    assert not page()

    host.check_output("rm %s", RECORD)
    host.check_output("systemctl restart %s", UNIT)  # the healer checks the containers when it starts
    wait_until(page, 15, "nginx serves again")
    assert [one["service"] for one in status()["healed"]] == ["nginx"]


@pytest.mark.drill
def test_healer_runs_again_after_its_end_and_after_a_restart_of_the_engine(host, status):
    def process():
        return host.check_output("systemctl show --value --property=MainPID %s", UNIT)

    assert host.service("slipway-heal").is_enabled
    for ended in (f"systemctl kill --signal=KILL {UNIT}", "systemctl restart docker.service"):
        before = process()
        host.check_output(ended)
        wait_until(lambda before=before: process() not in ("0", before), 30, "another process")
        wait_until(lambda: host.service("slipway-heal").is_running, 30, "the healer runs")
        assert status()["healer"] == []


def test_healer_does_not_start_an_engine_that_was_stopped(host, healthy):
    """The engine's socket starts the engine for any client that connects."""
    host.check_output("systemctl stop docker.service")
    try:
        assert not host.service("slipway-heal").is_running
        assert not host.service("docker").is_running
    finally:
        host.check_output("systemctl start docker.service")
    wait_until(lambda: host.service("slipway-heal").is_running, 30, "the healer runs")
    healthy()


def test_status_says_that_the_healer_does_not_run(host, status, deploy, hostname):
    host.check_output("systemctl stop %s", UNIT)
    [sentence] = status()["healer"]
    assert sentence.startswith(f"{UNIT} does not run")
    done = deploy("site.yml", "--tags", "stack")
    assert done.status == 0, done.output
    assert status()["healer"] == []
    assert deploy("site.yml", "--tags", "stack").changed == {hostname: 0}


def test_status_says_why_the_database_does_not_start(host, docker, containers, status, healthy):
    db, volume = containers["db"], docker("volume inspect --format '{{.Mountpoint}}' db_volume").strip()
    [file] = host.check_output("ls %s/*/*/postgresql.auto.conf", volume).split()
    host.check_output("cp --preserve %s /run/slipway-test.conf && echo no_such_setting=1 >> %s", file, file)
    try:
        host.check_output("kill -9 %s", str(db["State"]["Pid"]))
        wait_until(lambda: status()["failing"], 30, "a restart loop")
        [text] = status()["failing"]
        assert f"The container {db['Name'].lstrip('/')} is" in text
        assert "no_such_setting" in text
        assert "no_such_setting" in host.check_output("slipway status")
    finally:
        host.check_output("cat /run/slipway-test.conf > %s && rm /run/slipway-test.conf", file)
        docker("restart %s", db["Id"])
    healthy()
    assert status()["failing"] == []
