"""The lock, with another process."""

import multiprocessing
import subprocess
import types

import pytest

from slipway.host import Host
from slipway.lock import is_held, lock
from slipway.shell import Failure


@pytest.fixture
def host(settings):
    return Host(settings)


@pytest.fixture
def holder(host):
    """Another process, which holds the lock until it is released or killed."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def hold():
        with lock(host, "anna"):
            theirs.send("held")
            theirs.recv()

    process = context.Process(target=hold)
    process.start()
    assert ours.recv() == "held"
    yield types.SimpleNamespace(process=process, release=lambda: ours.send("go on"))
    process.kill()
    process.join()


def test_refusal_names_the_holder_of_the_lock(host, holder):
    with pytest.raises(Failure, match="Another release is under way: anna, since 2"), lock(host, "bert"):
        pass
    holder.release()
    holder.process.join(5)
    with lock(host, "bert"):
        assert host.settings.lock.read_text().startswith("bert, since 2")


def test_lock_is_free_after_its_holder_dies(host, holder):
    holder.process.kill()
    holder.process.join()
    with lock(host, "bert"):
        pass


def test_killed_holder_does_not_count_as_holding_the_lock(host):
    assert not is_held(host), "no process ever had the lock"
    with lock(host, "anna"):
        assert is_held(host)
    with subprocess.Popen(["true"]) as gone:
        pass
    host.settings.lock.write_text(f"anna, since noon, process {gone.pid}")
    assert not is_held(host)
