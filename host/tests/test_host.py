"""The real host: its processes and its time."""

import math
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from slipway.host import Host, notify_systemd, wait_until


@pytest.fixture
def sleeper():
    """A child of this process that sleeps."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield str(process.pid)
        process.kill()


def test_children_are_selected_by_their_command_line(sleeper):
    host, here = Host(), str(os.getpid())
    # A new child gets its own command line a moment after the fork.
    assert wait_until(lambda: sleeper in host.children(here, "sleep\0" + "60"), 5)
    assert sleeper not in host.children(here, "sleep")


def test_start_time_of_a_process_is_correct(sleeper):
    # The kernel counts in hundredths of a second.
    assert Host().started(sleeper) == pytest.approx(time.time(), abs=5)


def test_time_is_in_utc():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", Host().now())
    assert re.fullmatch(r"\d{8}T\d{6}Z", Host().new_id(()))


def test_id_of_a_release_is_not_that_of_an_earlier_one_after_the_clock_was_set_back():
    taken = set()
    for _ in range(3):
        taken.add(Host().new_id(taken))
    assert len(taken) == 3


def test_wait_ends_with_the_condition_or_at_the_deadline():
    answers = iter([False, True])
    assert wait_until(lambda: next(answers), 5)
    assert not wait_until(lambda: False, 0)


def test_process_that_has_ended_has_no_children_and_no_start():
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert Host().children(str(ended.pid), "true") == set()
    assert Host().started(str(ended.pid)) == math.inf


def test_process_that_was_stopped_by_a_signal_is_frozen():
    with subprocess.Popen(["sleep", "60"]) as process:
        pid = str(process.pid)
        try:
            assert not Host().is_frozen(pid)
            process.send_signal(signal.SIGSTOP)
            assert wait_until(lambda: Host().is_frozen(pid), 5)
        finally:
            process.kill()
    assert not Host().is_frozen(pid), "it has ended"


def test_systemd_is_told_the_state_of_the_unit(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_systemd("READY=1")
    for address in (str(tmp_path / "notify"), "\0slipway-test-notify"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(address)
            systemd.settimeout(5)
            monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
            notify_systemd("READY=1")
            assert systemd.recv(100) == b"READY=1"
