"""Releases fail in many ways under load. No request fails, and the container in service stays the same.

Each test also shows that its fault occurred.
"""

import json
import os
import signal
import subprocess
from dataclasses import dataclass

import pytest
from outside import ENVIRONMENT, ROOT, wait_until
from variants import MIGRATION, WRAPPED, program


@dataclass(frozen=True)
class Fault:
    """An image with a fault, and the texts that the error message must contain."""

    name: str
    dockerfile: str
    says: list


FAULTS = [
    Fault("crash", program("raise SystemExit('the reason is in the stars')"), ["the reason is in the stars"]),
    Fault("memory", program("b'x' * 2**31"), ["ran out of memory", "stack_flask_blog_memory_mb"]),
    Fault(
        "too slow", WRAPPED.format(sleep=60, answers={}), ["/readyz did not answer", "release_ready_timeout"]
    ),
    Fault(
        "broken home page",
        WRAPPED.format(sleep=0, answers={"/": "500 Broken"}),
        ["slot behind nginx answered 500 to / "],
    ),
    Fault(
        "migration",
        MIGRATION.format(statement="DROP TABLE no_such_table", destructive=False),
        ["no_such_table", "The dump from before the migration is /var/lib/slipway/dumps/"],
    ),
]
NEVER_READY = Fault(
    "never ready",
    WRAPPED.format(sleep=0, answers={"/readyz": "503 Not ready"}),
    ["/readyz answered 503", "release_ready_timeout"],
)
OTHERS = {
    "other": "",
    "slow": WRAPPED.format(sleep=3, answers={}),
    "contract": MIGRATION.format(statement="DROP TABLE comment", destructive=True),
}


@pytest.fixture(scope="module")
def images(variant):
    """Build images that each differ from the blog's image in one respect. Return their ids by name."""
    lines = {fault.name: fault.dockerfile for fault in [*FAULTS, NEVER_READY]} | OTHERS
    return {name: variant(dockerfile) for name, dockerfile in lines.items()}


@pytest.fixture
def short_ready_timeout(host):
    """Give a new release only 4 seconds to become ready, so that a test need not wait a minute."""
    path = "/opt/slipway/release.json"
    host.check_output("cp --preserve %s /run/slipway-test.json", path)
    host.check_output(r"sed -i 's/\"ready_timeout\": [0-9]*/\"ready_timeout\": 4/' %s", path)
    yield
    host.check_output("mv /run/slipway-test.json %s", path)


@pytest.fixture
def container_ids(inspect):
    """Return the ids of the containers by service."""
    return lambda: {service: c["Id"] for service, c in inspect().items()}


@pytest.fixture
def without_effect(images, load, request, container_ids, status):
    """Run the load during a test. Assert that no request fails, and that the containers stay the same."""
    before = container_ids()
    with load.step(request.node.name) as step:
        yield step
    assert step.failures == []
    assert step.requests > 20
    assert container_ids() == before
    now = status()
    assert now["drift"] == []
    assert now["under_way"] is None
    assert now["image"] == now["release"]["image"]


@pytest.mark.parametrize(
    "fault",
    [*FAULTS, pytest.param(NEVER_READY, marks=pytest.mark.soak)],
    ids=lambda fault: fault.name,
)
def test_release_of_a_faulty_image_is_refused(
    fault, images, short_ready_timeout, without_effect, host, ledger, sql
):
    schema = sql("SELECT version_num FROM alembic_version")
    done = host.run("slipway release %s", images[fault.name])
    told = done.stdout + done.stderr
    assert done.rc == 1, told
    assert [words for words in fault.says if words not in told] == [], told
    entry = ledger()[-1]
    assert entry["image"] == images[fault.name]
    assert entry["outcome"] == "failed"
    assert sql("SELECT version_num FROM alembic_version") == schema


def test_release_of_a_missing_image_is_refused(without_effect, host, ledger):
    image = f"sha256:{'0' * 64}"
    assert host.run("docker image inspect %s", image).rc == 1
    done = host.run("slipway release %s", image)
    assert done.rc == 1, done.stdout + done.stderr
    assert "No such image" in done.stdout + done.stderr
    assert ledger()[-1]["outcome"] == "failed"


def test_destructive_migration_is_refused_unless_it_is_allowed(images, without_effect, host, sql):
    """test_undone_migrations.py has the release that allows such a migration."""
    done = host.run("slipway release %s", images["contract"])
    assert done.rc == 1
    assert "9001 is destructive" in done.stderr + done.stdout
    assert "--allow-destructive 9001" in done.stderr + done.stdout
    assert sql("SELECT to_regclass('comment') IS NOT NULL") == [("t",)]


def test_release_is_refused_while_nginx_has_a_broken_configuration(images, without_effect, host, docker):
    path = "/opt/slipway/nginx/blog.conf"
    host.check_output("cp --preserve %s /run/slipway-test.conf && echo 'server {' >> %s", path, path)
    try:
        nginx = docker("ps --quiet --filter name=-nginx-")
        assert host.run("docker exec %s nginx -t", nginx).rc == 1
        done = host.run("slipway release %s", images["other"])
    finally:
        host.check_output("cat /run/slipway-test.conf > %s && rm /run/slipway-test.conf", path)
    assert done.rc == 1
    assert "nginx rejects its current configuration" in done.stdout + done.stderr
    assert "unexpected end of file" in done.stdout + done.stderr


def test_release_is_refused_while_the_disk_is_full(images, without_effect, host):
    state = "/var/lib/slipway"
    host.check_output(
        "mkdir /run/slipway-test && mount -t tmpfs -o size=256k none /run/slipway-test"
        " && cp --archive %s/releases.json %s/slots.env %s/slot /run/slipway-test"
        " && (cat /dev/zero > /run/slipway-test/zeros || true) 2>/dev/null"
        " && mount --bind /run/slipway-test %s",
        *[state] * 4,
    )
    try:
        assert host.run("echo more > %s/more", state).rc != 0
        done = host.run("slipway release %s", images["other"])
    finally:
        host.check_output("umount %s /run/slipway-test && rmdir /run/slipway-test", state)
    assert done.rc == 1
    assert "No space left on device" in done.stdout + done.stderr


def test_concurrent_release_is_refused_within_two_seconds(host, images, without_effect, ledger):
    entries = ledger()
    host.check_output(
        "systemd-run --quiet --unit=slipway-test-holder flock /run/slipway/lock sh -c %s",
        "echo anna, since noon > /run/slipway/lock; exec sleep infinity",
    )
    try:
        wait_until(lambda: host.run("grep anna /run/slipway/lock").rc == 0, 10, "the lock is held")
        done = host.run("timeout 2 slipway release %s", images["other"])
    finally:
        host.check_output("systemctl stop slipway-test-holder")
    assert done.rc == 1
    assert "Another release is under way: anna, since noon" in done.stdout + done.stderr
    assert ledger() == entries


@pytest.mark.soak
def test_release_survives_the_loss_of_its_control_node_and_stays_rolled_back(
    host, images, load, inspect, ledger, healthy, deploy, inventory, hostname
):
    """Kill the play during a slow release, then roll back. A deploy must not release the image again."""
    before = inspect()
    [old] = [c["Image"] for service, c in before.items() if "flask_blog" in service]
    ids = {"nginx": before["nginx"]["Image"], "db": before["db"]["Image"], "flask_blog": images["slow"]}
    extra = ["--extra-vars", json.dumps({"images_ids": ids, "blog_version": "2.0"})]
    limit = ["--inventory", inventory, "--limit", hostname]
    with load.step("control node killed, and a rollback by the playbook") as step:
        control = subprocess.Popen(
            ["ansible-playbook", "playbooks/deploy.yml", "--tags", "release", *limit, *extra],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(
            lambda: ledger()[-1]["outcome"] == "under way" or control.poll() is not None,
            120,
            "the release is under way",
        )
        assert control.poll() is None, "the play ended before the release began"
        os.killpg(control.pid, signal.SIGKILL)
        assert control.wait() == -signal.SIGKILL
        entry = wait_until(
            lambda: ledger()[-1]["outcome"] == "in service" and ledger()[-1], 60, "the release continues"
        )
        assert entry["image"] == images["slow"]
        assert entry["version"] == "2.0"
        assert entry["stages"]["admin"] + entry["stages"]["ready"] > 3, "the release must start slowly"
        wait_until(lambda: host.run("systemctl is-active 'slipway-release-*'").rc != 0, 60, "the unit ends")

        rolled = deploy("playbooks/rollback.yml")
        assert rolled.status == 0, rolled.output
        assert rolled.changed == {hostname: 1}, rolled.output
        back = ledger()[-1]
        assert back["image"] == old
        assert back["instead_of"] == entry["id"]
        assert back["switched"] <= 10, back["stages"]
        assert old in [c["Image"] for c in healthy().values()]

        again = deploy("playbooks/deploy.yml", "--tags", "release", *extra)
        assert again.status == 0, again.output
        assert again.changed == {hostname: 0}, again.output
        assert f"Release {entry['id']} (2.0) was rolled back by " in again.output
        assert f"-e release_unblock={entry['id']}" in again.output
    assert step.failures == []
    assert step.requests > 20
