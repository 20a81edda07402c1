"""Two runs of ansible-playbook do not change the host at the same time, and other users cannot block them."""

import json
import os
import signal
import subprocess

import pytest
from outside import ENVIRONMENT, ROOT, wait_until

LOCK = "/run/slipway/run.lock"


@pytest.fixture
def is_held(host):
    """Tell whether a run has the lock."""
    return lambda: host.run("flock --nonblock %s true", LOCK).rc == 1


@pytest.fixture
def other_run(host, inventory, hostname, is_held, tmp_path):
    """Another run of ansible-playbook, which has the lock and waits."""
    play = {
        "hosts": "slipway",
        "become": True,
        "gather_facts": False,
        "tasks": [{"slipway.blog.host_facts": {"lock": True}}, {"ansible.builtin.raw": "sleep 600"}],
    }
    (tmp_path / "other.yml").write_text(json.dumps([play]))
    process = subprocess.Popen(
        ["ansible-playbook", "--inventory", inventory, "--limit", hostname, tmp_path / "other.yml"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    # Two processes open the FIFO: the one that holds the lock, and the one that the control node starts.
    opened = "find /proc/[0-9]*/fd -lname /run/slipway/run.fifo 2>/dev/null | wc --lines"
    wait_until(
        lambda: host.run(opened).stdout.strip() == "2" or process.poll() is not None, 60, "the lock is held"
    )
    assert process.poll() is None
    assert is_held()
    yield process
    process.kill()
    process.wait()
    wait_until(lambda: not is_held(), 10, "the lock ends with the killed run")


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/deploy.yml", "playbooks/rollback.yml"])
def test_playbook_is_refused_before_it_changes_anything(other_run, deploy, hostname, playbook):
    done = deploy(playbook)
    assert done.status != 0, done.output
    assert set(done.changed.values()) <= {0}
    [message] = done.errors
    assert "Another run is under way on this host: " in message
    assert "other.yml by " in message
    assert "-e host_take_over=" in message


def test_status_and_dry_run_work_during_another_run_and_name_it(other_run, deploy, host):
    assert "other.yml by " in host.check_output("slipway status | grep ^run")
    assert deploy("playbooks/status.yml").status == 0
    dry = deploy("site.yml", "--check", "--tags", "baseline")
    assert dry.status == 0, dry.output
    assert "Another run is under way on this host" in " ".join(dry.output.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_lock_ends_as_soon_as_its_run_is_killed(other_run, is_held, number):
    os.kill(other_run.pid, number)
    wait_until(lambda: not is_held(), 5, "the lock ends")


def test_run_with_nothing_to_do_takes_the_lock_and_frees_it(deploy, is_held, host, hostname):
    before = host.check_output("cat %s", LOCK)
    done = deploy("site.yml")
    assert done.status == 0, done.output
    assert done.changed == {hostname: 0}, done.output
    wait_until(lambda: not is_held(), 5, "the lock ends with its run")
    assert host.check_output("cat %s", LOCK) != before


def test_rollback_on_the_host_works_during_a_run_of_a_playbook(other_run, host):
    """An operator must be able to roll back at any time. This rollback has nothing to do."""
    current = json.loads(host.check_output("slipway status --json"))["release"]["id"]
    assert "already in service" in host.check_output("slipway rollback %s", current)


@pytest.mark.parametrize("name", ["lock", "run.lock"])
def test_another_user_can_neither_read_nor_hold_the_locks(host, name):
    path = f"/run/slipway/{name}"
    assert host.check_output("stat --format=%%a /run/slipway %s", path).split() == ["700", "600"]
    for command in ("cat %s", "flock --nonblock %s true"):
        assert host.run(f"runuser --user nobody -- {command}", path).rc != 0
