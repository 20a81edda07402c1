"""Slipway is taken off the host, and comes back to the data that it left there. For `make soak`."""

import pytest

pytestmark = pytest.mark.soak

# What is ours, by its name or its place.
FIND = """
find /etc /opt /usr/local /var/lib -path /var/lib/docker -prune -o -path /etc/slipway -prune \\
    -o \\( -name '*slipway*' -o -lname '*slipway*' \\) -print
docker ps --all --quiet
docker network ls --quiet --filter name=slipway
systemctl list-units --all --no-legend --plain 'slipway-*'
""".strip()
# What keeps the host safe stays, and so does what the sandbox is made of.
STAYS = {
    "/etc/apt/apt.conf.d/52slipway",
    "/etc/modprobe.d/slipway.conf",
    "/etc/ssh/sshd_config.d/00-slipway.conf",
    "/etc/sudoers.d/slipway",
    "/etc/sysctl.d/60-slipway.conf",
    "/etc/systemd/journald.conf.d/slipway.conf",
}


def test_teardown_leaves_data_packages_and_a_safe_host(
    host, deploy, sql, read_secrets, docker, get, healthy, ledger, scan, variables
):
    posts, secrets = sql("SELECT slug, body FROM post ORDER BY 1"), read_secrets()
    packages = host.check_output("dpkg-query --show")
    teardown = ("playbooks/teardown.yml", "--extra-vars", "teardown_data_of=")
    done = deploy(*teardown)
    assert done.status == 0, done.output
    assert set(host.check_output(FIND).splitlines()) == STAYS
    assert sorted(docker("volume ls --quiet").split()) == ["db_volume", "media_volume"]
    assert sorted(host.check_output("ls /etc/slipway").split()) == ["ca", "in-service", "secrets"]
    assert host.check_output("dpkg-query --show") == packages
    assert host.check_output("systemctl --failed --no-legend") == ""
    ssh = {variables["baseline_ssh_port"]}
    assert scan() == {"ipv4": ssh, "ipv6": ssh}
    assert set(deploy(*teardown).changed.values()) == {0}

    done = deploy("site.yml")
    assert done.status == 0, done.output
    healthy()
    assert (sql("SELECT slug, body FROM post ORDER BY 1") == posts, read_secrets() == secrets) == (True, True)
    assert [entry["outcome"] for entry in ledger()] == ["in service"]
    assert "Ropes: a table" in get("/", Cookie="after=teardown").text
