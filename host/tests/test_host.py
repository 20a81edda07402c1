"""The real host: its processes and its time."""

import os
import re
import subprocess
import time

import pytest

from slipway.host import Host, wait_until


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
    assert re.fullmatch(r"\d{8}T\d{6}Z", Host().new_id())


def test_wait_ends_with_the_condition_or_at_the_deadline():
    answers = iter([False, True])
    assert wait_until(lambda: next(answers), 5)
    assert not wait_until(lambda: False, 0)
