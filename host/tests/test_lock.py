"""The lock, with another process."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import tempfile
import threading
import types
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.host import Host
from slipway.lock import DRILL, HEALING, Busy, end_drill, is_held, lock, playbook_run
from slipway.settings import Settings
from slipway.shell import Failure


@pytest.fixture
def host(settings):
    return Host(settings)


@pytest.fixture
def name():
    """How the holder describes itself."""
    return "anna"


@contextlib.contextmanager
def another_process(host, name, begin=lambda pipe: None):
    """Run a process that holds the lock until `release` is called or the process is killed.

    The process first calls `begin` with its end of a pipe.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def hold():
        begin(theirs)
        with lock(host, name):
            theirs.send("held")
            theirs.recv()

    process = context.Process(target=hold)
    process.start()
    assert ours.recv() == "held"
    yield types.SimpleNamespace(process=process, pipe=ours, release=lambda: ours.send("go on"))
    process.kill()
    process.join()


@pytest.fixture
def holder(host, name):
    """Another process, which holds the lock until it is released or killed."""
    with another_process(host, name) as process:
        yield process


def test_refusal_names_the_holder_of_the_lock(host, holder):
    with pytest.raises(Failure, match="Another release is under way: anna, since 2"), lock(host, "bert"):
        pass
    holder.release()
    holder.process.join(5)
    with lock(host, "bert"):
        assert host.settings.lock.read_text().startswith("bert, since 2")


@pytest.mark.parametrize("name", [f"{HEALING} db"])
def test_others_wait_until_a_restart_of_an_unhealthy_container_ends(host, holder):
    threading.Timer(0.3, holder.release).start()
    with lock(host, "bert"):
        assert host.settings.lock.read_text().startswith("bert, since 2")


@pytest.mark.parametrize("name", [f"{HEALING} db"])
def test_others_do_not_wait_for_ever_for_a_restart(host, holder):
    host.settings = replace(host.settings, heal_seconds=0.2)
    with pytest.raises(Busy, match="a restart of db, since 2"), lock(host, "bert"):
        pass


@pytest.mark.parametrize("name", [DRILL])
def test_drill_that_holds_the_lock_gets_sigterm_and_the_other_one_gets_the_lock(host, holder):
    with lock(host, "bert"):
        assert host.settings.lock.read_text().startswith("bert, since 2")
        holder.process.join(5)
        assert holder.process.exitcode == -signal.SIGTERM


@pytest.fixture
def stubborn(host):
    """A drill that reports SIGTERM, but goes on until it is released or killed."""

    def ignore_signals(pipe):
        signal.signal(signal.SIGTERM, lambda number, frame: pipe.send("told to end"))

    with another_process(host, DRILL, ignore_signals) as process:
        yield process


def test_others_wait_while_a_drill_removes_what_it_made(host, stubborn):
    threading.Timer(0.3, stubborn.pipe.send, ["go on"]).start()
    with lock(host, "bert"):
        assert host.settings.lock.read_text().startswith("bert, since 2")
    assert stubborn.pipe.recv() == "told to end"


def test_others_do_not_wait_for_ever_for_the_end_of_a_drill(host, stubborn):
    host.settings = replace(host.settings, heal_seconds=0.2)
    with pytest.raises(Busy, match="a restore drill, since 2"), lock(host, "bert"):
        pass


@pytest.mark.parametrize("name", ["anna", f"{HEALING} db", "a restore by anna"])
def test_other_holders_of_the_lock_get_no_signal(host, holder):
    host.settings = replace(host.settings, heal_seconds=0.2)
    with pytest.raises(Busy), lock(host, "bert"):
        pass
    holder.release()
    holder.process.join(5)
    assert holder.process.exitcode == 0


def test_drill_that_has_ended_meanwhile_is_no_error():
    with subprocess.Popen(["true"]) as gone:
        pass
    end_drill(f"{DRILL}, since noon, process {gone.pid}")


def test_holder_without_a_process_gets_no_signal():
    end_drill(DRILL)


def test_lock_is_free_after_its_holder_dies(host, holder):
    holder.process.kill()
    holder.process.join()
    with lock(host, "bert"):
        pass


def test_killed_holder_does_not_count_as_holding_the_lock(host):
    assert not is_held(host), "no process ever had the lock"
    with lock(host, "anna"):
        assert is_held(host)
    assert not is_held(host), "this process goes on, but no longer has the lock"
    with subprocess.Popen(["true"]) as gone:
        pass
    host.settings.lock.write_text(f"anna, since noon, process {gone.pid}")
    assert not is_held(host)


@pytest.fixture
def former_host():
    """A host with the lock of a former version, which every user could open, and so hold."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)  # unlike tmp_path, which other users cannot reach
        settings = Settings(runtime=Path(place, "run"))
        settings.runtime.mkdir(mode=0o755)
        settings.lock.touch(mode=0o644)
        yield Host(settings)


def test_lock_is_for_root_only_even_if_a_former_version_created_it(former_host):
    path = former_host.settings.lock
    with lock(former_host, "anna"):
        assert [stat.S_IMODE(found.stat().st_mode) for found in (path.parent, path)] == [0o700, 0o600]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_hold_the_lock(former_host):
    hold = ["flock", "--nonblock", former_host.settings.lock, "true"]

    def as_another_user():
        return subprocess.run(hold, user="nobody", extra_groups=[], capture_output=True).returncode

    assert as_another_user() == 0, "the user must reach the lock of the former version"
    with lock(former_host, "anna"):
        pass
    assert as_another_user() == 66  # flock's status if it cannot open the file


def test_run_of_a_playbook_is_known_while_it_has_its_lock(host):
    run = {"id": "1a", "playbook": "site.yml", "by": "anna@laptop", "since": "2026-01-01T00:00:00Z"}
    assert playbook_run(host) is None
    host.settings.runtime.mkdir()
    with (host.settings.runtime / "run.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(run, file)
        file.flush()
        assert playbook_run(host) == {key: run[key] for key in ("playbook", "by", "since")}
    assert playbook_run(host) is None
