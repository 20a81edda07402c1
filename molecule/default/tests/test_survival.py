"""The blog recovers from the loss of a process, of all containers, or of the host's power."""

import pytest
from outside import wait_until


@pytest.fixture
def lasting_state(host, sql, ledger):
    """Return the state that must not be lost: the posts, the secrets, the ledger and the slot in service."""

    def lasting_state():
        return {
            "posts": sorted(sql("SELECT slug, body FROM post")),
            "secrets": host.check_output("cd /etc/slipway/secrets && sha256sum *"),
            "ledger": ledger(),
            "slot": host.file("/var/lib/slipway/slot/green").exists,
        }

    return lasting_state


@pytest.fixture
def assert_only_intended_ports_are_open(scan, open_ports):
    """Wait until the intended ports are open over IPv4 and IPv6, and assert that no other port is open."""

    def assert_only_intended_ports_are_open():
        expected = {"ipv4": open_ports, "ipv6": open_ports}
        # Before the kernel uses the IPv6 address of a new bridge, it looks for duplicates (DAD). With DAD,
        # the IPv6 ports opened 1.1 to 2.5 s after the IPv4 ports; without DAD, at the same time.
        wait_until(lambda: scan(open_ports) == expected, 5, "the ports are open")
        assert scan() == expected

    return assert_only_intended_ports_are_open


@pytest.fixture
def wait_until_served(get):
    """Wait until readers get a page that comes from the slot and the database, not from the cache."""

    def wait_until_served(seconds=60):
        def served():
            try:
                return "Ropes: a table" in get("/", Cookie="session=unknown").text
            except OSError:
                return False

        wait_until(served, seconds, "readers get a page")

    return wait_until_served


def test_killed_blog_starts_again(host, containers, healthy, wait_until_served, inspect):
    before = containers["flask_blog"]
    service = before["Config"]["Labels"]["com.docker.compose.service"]
    host.check_output("kill -9 %s", str(before["State"]["Pid"]))
    wait_until(lambda: inspect()[service]["RestartCount"] > before["RestartCount"], 30, "a restart")
    assert healthy()[service]["Id"] == before["Id"]
    wait_until_served()


def test_data_survives_the_removal_of_all_containers(
    host,
    lasting_state,
    healthy,
    wait_until_served,
    inspect,
    variables,
    scan,
    assert_only_intended_ports_are_open,
):
    before, ids = lasting_state(), {c["Id"] for c in inspect().values()}
    host.check_output("cd /opt/slipway && docker compose down")
    assert inspect() == {}
    ssh = {variables["baseline_ssh_port"]}
    assert scan() == {"ipv4": ssh, "ipv6": ssh}
    host.check_output("cd /opt/slipway && docker compose up --detach --wait")
    assert not ids & {c["Id"] for c in healthy().values()}
    wait_until_served()
    assert lasting_state() == before
    assert_only_intended_ports_are_open()


@pytest.fixture
def boot(host):
    """Restart the host with a given function, and wait until the host has booted."""

    def boot(how):
        since = "cut --delimiter=' ' --fields=22 /proc/1/stat"
        before = host.check_output(since)
        how()

        def back():
            try:
                return host.check_output(since) != before
            except (RuntimeError, AssertionError):
                return False

        wait_until(back, 60, "the host has booted")

    return boot


def test_blog_is_back_after_the_sandbox_host_was_stopped_and_started(
    host,
    deploy,
    boot,
    inspect,
    lasting_state,
    healthy,
    wait_until_served,
    assert_only_intended_ports_are_open,
):
    """This is also the test of a reboot: for the host, it is one."""

    def stop_and_start():
        assert deploy("playbooks/sandbox.yml", "--extra-vars=sandbox_state=stopped").status == 0
        assert deploy("playbooks/sandbox.yml").status == 0

    before = lasting_state()
    boot(stop_and_start)
    healthy(120)
    wait_until_served()
    assert lasting_state() == before
    assert host.check_output("systemctl --failed --no-legend") == ""
    assert "noexec" in host.check_output(
        "docker exec %s grep /srv/media /proc/mounts", inspect()["nginx"]["Id"]
    )
    assert_only_intended_ports_are_open()


def test_blog_is_back_after_a_power_loss_while_nginx_is_replaced(
    machine, host, boot, inspect, lasting_state, healthy, wait_until_served
):
    """Cut the power at the moment when the old nginx is removed, and the new nginx does not exist yet."""
    before, flag = lasting_state(), f"drain-{inspect()['nginx']['Config']['Hostname']}"
    host.check_output("cd /opt/slipway && docker compose up --detach --wait nginx_temporary")
    host.check_output("touch /var/lib/slipway/slot/%s", flag)
    host.check_output("cd /opt/slipway && docker compose rm --stop --force nginx")
    assert {"nginx", "nginx_temporary"} & inspect().keys() == {"nginx_temporary"}
    boot(machine.lose_power)
    healthy(120)
    wait_until_served()
    assert lasting_state() == before
    assert host.check_output("ls /var/lib/slipway/slot") in ("", "green")
    assert host.check_output("systemctl --failed --no-legend") == ""
