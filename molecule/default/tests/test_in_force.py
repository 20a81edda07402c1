"""A file takes effect even if the run that wrote it ends before it restarts the program that reads it."""

import json
from dataclasses import dataclass

import pytest

# The first directory of the PATH of Ansible's modules.
CLIENT = "/usr/local/sbin/systemctl"
# A systemctl that fails to restart anything, as if the run was killed before its handlers.
NO_RESTART = """#!/bin/sh
case $* in *restart*) echo "no restart in this test" >&2; exit 1;; esac
exec /usr/bin/systemctl "$@"
"""


@dataclass(frozen=True)
class Change:
    """A change of a file that a program reads when it starts."""

    unit: str
    file: str
    tags: str
    variables: dict
    text: str


CHANGES = [
    Change(
        "docker.service",
        "/etc/docker/daemon.json",
        "docker_configure",
        {"docker_daemon_settings": {"max-concurrent-downloads": 4}},
        "max-concurrent-downloads",
    ),
    Change(
        "systemd-journald.service",
        "/etc/systemd/journald.conf.d/slipway.conf",
        "baseline_settings",
        {"baseline_journal_max_size": "400M"},
        "SystemMaxUse=400M",
    ),
]


@pytest.fixture
def started(host):
    """Return when a unit started last, in microseconds after the boot."""
    return lambda unit: int(
        host.check_output("systemctl show --value --property=ActiveEnterTimestampMonotonic %s", unit)
    )


@pytest.fixture(params=CHANGES, ids=lambda change: change.unit)
def change(request, deploy):
    """A change; after the test, a run without its variables undoes it."""
    yield request.param
    done = deploy("playbooks/provision.yml", "--tags", request.param.tags)
    assert done.status == 0, done.output


@pytest.fixture
def without_restarts(host):
    """A context in which systemctl restarts nothing. The function ends it."""
    host.check_output("echo %s > %s && chmod 0755 %s", NO_RESTART, CLIENT, CLIENT)
    yield lambda: host.check_output("rm %s", CLIENT)
    host.check_output("rm --force %s", CLIENT)


def test_file_that_a_failed_run_wrote_takes_effect_in_the_next_run(
    host, deploy, hostname, started, change, without_restarts
):
    def run():
        extra = ("--extra-vars", json.dumps(change.variables))
        return deploy("playbooks/provision.yml", "--tags", change.tags, *extra)

    before = started(change.unit)
    failed = run()
    assert failed.status == 2, failed.output
    assert "no restart in this test" in failed.output
    assert change.text in host.file(change.file).content_string
    assert started(change.unit) == before
    # In YAML, Ansible would fold long lines.
    told = deploy("playbooks/status.yml", ANSIBLE_CALLBACK_RESULT_FORMAT="json").output
    assert f"pending      {change.file} is not in force yet: run site.yml" in told

    without_restarts()
    done = run()
    assert done.status == 0, done.output
    assert started(change.unit) > before
    again = run()
    assert again.changed == {hostname: 0}, again.output


def test_kernel_setting_that_somebody_changed_is_in_force_again_after_a_run(host, deploy, hostname):
    setting = "net.ipv4.conf.all.log_martians"
    host.check_output("sysctl --write %s=0", setting)
    tags = ("playbooks/provision.yml", "--tags", "baseline_settings")
    done = deploy(*tags)
    assert done.status == 0, done.output
    assert host.check_output("sysctl --values %s", setting) == "1"
    assert deploy(*tags).changed == {hostname: 0}


def test_kernel_setting_that_an_operator_overrides_stays_so(host, deploy, hostname):
    setting, file = "net.ipv4.conf.all.log_martians", "/etc/sysctl.d/99-test.conf"
    host.check_output("echo %s=0 > %s && sysctl --write %s=0", setting, file, setting)
    try:
        done = deploy("playbooks/provision.yml", "--tags", "baseline_settings")
        assert done.changed == {hostname: 0}, done.output
        assert host.check_output("sysctl --values %s", setting) == "0"
    finally:
        host.check_output("rm %s && sysctl --write %s=1", file, setting)
