"""The blog recovers from the loss of processes, of all containers, and of the host's power."""

import pytest
from outside import wait_until


@pytest.fixture
def lasting(host, sql, ledger):
    """Return what must not be lost: posts, secrets, and which release is in service in which slot."""

    def lasting():
        return {
            "posts": sorted(sql("SELECT slug, body FROM post")),
            "secrets": host.check_output("cd /etc/slipway/secrets && sha256sum *"),
            "ledger": ledger(),
            "slot": host.file("/var/lib/slipway/slot/green").exists,
        }

    return lasting


@pytest.fixture
def opens(scan, open_ports):
    """Wait until the intended ports are open over both families, and assert that no others are."""

    def opens():
        expected = {"ipv4": open_ports, "ipv6": open_ports}
        # The kernel checks the IPv6 address of a new bridge for duplicates before it uses it (DAD): with DAD
        # the IPv6 ports opened 1.1 to 2.5 s after the IPv4 ports, without it at the same time.
        wait_until(lambda: scan(open_ports) == expected, 5, "the ports are open")
        assert scan() == expected

    return opens


@pytest.fixture
def serves(get):
    """Wait until readers get the blog from the slot and the database, not from the cache."""

    def serves(seconds=60):
        def served():
            try:
                return "Ropes: a table" in get("/", Cookie="session=unknown").text
            except OSError:
                return False

        wait_until(served, seconds, "the blog serves")

    return serves


def test_killed_blog_starts_again(host, containers, healthy, serves, inspect):
    before = containers["flask_blog"]
    service = before["Config"]["Labels"]["com.docker.compose.service"]
    host.check_output("kill -9 %s", str(before["State"]["Pid"]))
    wait_until(lambda: inspect()[service]["RestartCount"] > before["RestartCount"], 30, "a new process")
    assert healthy()[service]["Id"] == before["Id"]
    serves()


def test_data_survives_the_removal_of_all_containers(
    host, lasting, healthy, serves, inspect, variables, scan, opens
):
    before, ids = lasting(), {c["Id"] for c in inspect().values()}
    host.check_output("cd /opt/slipway && docker compose down")
    assert inspect() == {}
    ssh = {variables["baseline_ssh_port"]}
    assert scan() == {"ipv4": ssh, "ipv6": ssh}
    host.check_output("cd /opt/slipway && docker compose up --detach --wait")
    assert not ids & {c["Id"] for c in healthy().values()}
    serves()
    assert lasting() == before
    opens()


@pytest.fixture
def booted(host):
    """Call a function that makes the host boot, and wait until it has."""

    def booted(how):
        since = "cut --delimiter=' ' --fields=22 /proc/1/stat"
        before = host.check_output(since)
        how()

        def back():
            try:
                return host.check_output(since) != before
            except (RuntimeError, AssertionError):
                return False

        wait_until(back, 60, "the host has booted")

    return booted


def test_blog_is_back_after_a_reboot(machine, host, booted, lasting, healthy, serves, opens):
    before = lasting()
    booted(machine.restart)
    healthy(120)
    serves()
    assert lasting() == before
    assert host.check_output("systemctl --failed --no-legend") == ""
    opens()


def test_blog_is_back_after_a_power_loss_while_nginx_is_replaced(
    machine, host, booted, inspect, lasting, healthy, serves
):
    """A state of `slipway nginx` for a second: the old one is drained and gone, the new one not yet made."""
    before, flag = lasting(), f"drain-{inspect()['nginx']['Config']['Hostname']}"
    host.check_output("cd /opt/slipway && docker compose up --detach --wait nginx_stand_in")
    host.check_output("touch /var/lib/slipway/slot/%s", flag)
    host.check_output("cd /opt/slipway && docker compose rm --stop --force nginx")
    assert {"nginx", "nginx_stand_in"} & inspect().keys() == {"nginx_stand_in"}
    booted(machine.lose_power)
    healthy(120)
    serves()
    assert lasting() == before
    assert host.check_output("ls /var/lib/slipway/slot") in ("", "green")
    assert host.check_output("systemctl --failed --no-legend") == ""
