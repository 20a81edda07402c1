"""Readers reach a release in the idle slot only after the switch, also if the slot in service is down."""

import pytest
from outside import wait_until
from variants import WRAPPED

UNIT = "slipway-test-release"
# This release answers pages, but it never passes its tests.
UNREADY = WRAPPED.format(sleep=0, answers={"/": "200 OK", "/readyz": "503 Not ready"})


@pytest.fixture
def statuses(reader):
    """Return the statuses of several requests for a page that no cache answers."""

    def statuses():
        client = reader()
        found = [client.request("/", Cookie="session=1; __Host-session=1").status for _ in range(5)]
        client.close()
        return found

    return statuses


@pytest.fixture
def release_under_test(host, variant, slot):
    """Begin a release that stays in the stage `ready`, and return its slot. Afterwards the release fails."""
    idle = "blue" if slot() == "green" else "green"
    host.check_output(
        "systemd-run --quiet --collect --unit=%s /usr/local/bin/slipway release %s", UNIT, variant(UNREADY)
    )
    address = host.check_output(
        "python3 -c %s",
        f"import json; print(json.load(open('/opt/slipway/stack.json'))['slots']['{idle}'])",
    )
    listens = f"exec 3<>/dev/tcp/{address}/8000"
    wait_until(lambda: host.run("bash -c %s", listens).rc == 0, 60, "the release listens")
    yield idle
    host.run("docker rm --force slipway-flask_blog_%s-1", idle)
    wait_until(lambda: host.run("systemctl is-active %s", UNIT).rc != 0, 60, "the release ends")


def test_readers_get_no_release_under_test_while_the_slot_in_service_is_down(
    release_under_test, slot, docker, inspect, statuses, host
):
    serving = slot()
    container = inspect()[f"flask_blog_{serving}"]["Id"]
    assert host.file(f"/var/lib/slipway/slot/isolated-{release_under_test}").exists
    docker(f"stop --time 1 {container}")
    try:
        during = statuses()
    finally:
        docker(f"start {container}")
    assert during == [503] * 5
    wait_until(lambda: statuses() == [200] * 5, 60, "the slot in service answers again")


def test_failed_release_leaves_no_isolated_slot(host, ledger, slot, assert_consistent):
    """This is the state after the test above."""
    assert ledger()[-1]["outcome"] == "failed"
    assert_consistent(slot())
    assert not {"isolated-blue", "isolated-green"} & set(host.file("/var/lib/slipway/slot").listdir())


def test_nginx_uses_the_other_slot_if_the_flag_was_lost(host, slot, statuses):
    flag = "/var/lib/slipway/slot/green"
    serving = slot()
    host.check_output("rm %s" if serving == "green" else "touch %s", flag)
    try:
        assert statuses() == [200] * 5
    finally:
        host.check_output("touch %s" if serving == "green" else "rm %s", flag)
