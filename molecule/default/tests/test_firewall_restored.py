"""Firewall rules that disappeared are restored, and new rules that lock the control node out are not kept."""

import subprocess

import pytest
from outside import ENVIRONMENT, ROOT, answers, wait_until

FAMILIES = ("ipv4", "ipv6")

# --- Rules that disappeared ---------------------------------------------------------------------------------


@pytest.fixture
def flushed_ruleset(host):
    """Flush all rules of the host, those of the engine too, as an operator may do by mistake.

    The engine of the machine that runs the tests has put rules for its DNS server into the host's table nat.
    Keep those.
    """
    host.check_output(
        "dns=$(iptables-save --table nat | grep -E '^[*C]|DOCKER_(OUTPUT|POSTROUTING)') "
        '&& nft flush ruleset && echo "$dns" | iptables-restore --noflush'
    )
    # The engine itself listens at the published ports, so a connection succeeds even without its rules.
    assert host.run("nft list chain ip nat DOCKER").rc == 1, "the engine's rules must be gone"
    yield
    # Restore the rules even if the test fails. systemd does not start a unit that has started too often.
    host.check_output("systemctl reset-failed docker && systemctl restart nftables docker")


@pytest.mark.parametrize(
    "playbook", [pytest.param("site.yml", marks=pytest.mark.drill), "playbooks/deploy.yml"]
)
def test_flushed_rules_are_reported_and_restored_without_a_restart_of_containers(
    host, deploy, hostname, inspect, scan, open_ports, flushed_ruleset, playbook
):
    before = {service: c["State"]["Pid"] for service, c in inspect().items()}
    told = host.check_output("slipway status")
    ports = ", ".join(map(str, sorted({80, 443} & open_ports)))
    assert f"firewall     Docker's rules for port {ports} are missing" in told
    assert "firewall     The firewall is off" in told

    done = deploy(playbook)
    assert done.status == 0, done.output
    assert done.changed[hostname] > 0
    if playbook == "site.yml":
        assert scan() == {family: open_ports for family in FAMILIES}
        assert "firewall" not in host.check_output("slipway status")
    assert {service: c["State"]["Pid"] for service, c in inspect().items()} == before
    again = deploy(playbook)
    assert again.changed == {hostname: 0}, again.output


# --- Wrong rules --------------------------------------------------------------------------------------------

FIREWALL = ("playbooks/provision.yml", "--tags", "baseline_firewall")
WRONG = ("--extra-vars", "baseline_ssh_port=2", "--extra-vars", "__baseline_firewall_guard=10")


@pytest.fixture
def rules(host):
    """Return what must stay the same if new rules are not confirmed: the rules and the service's state."""
    return lambda: {
        "kernel": host.check_output("nft --stateless list chain inet slipway input"),
        "file": host.check_output("sha256sum /etc/nftables.conf"),
        "service": host.run("systemctl is-enabled nftables; systemctl is-active nftables").stdout,
    }


@pytest.fixture
def confirmed_rules(deploy):
    """After the test, load the right rules, and confirm them."""
    yield
    done = deploy(*FIREWALL)
    assert done.status == 0, done.output


def test_firewall_rules_that_lock_everybody_out_are_replaced_by_the_former_ones(
    host, machine, variables, deploy, hostname, scan, open_ports, rules, confirmed_rules
):
    before = rules()
    wrong = deploy(*FIREWALL, *WRONG)
    assert wrong.status == 2
    assert "does not answer at port 2 (baseline_ssh_port)" in wrong.output, wrong.output
    assert "restores the former rules" in " ".join(wrong.output.split())
    wait_until(
        lambda: answers(machine.ipv4, variables["baseline_ssh_port"]), 30, "the host can be reached again"
    )
    assert rules() == before
    assert scan() == {family: open_ports for family in FAMILIES}
    assert "were not confirmed" in host.check_output("slipway status")

    right = deploy(*FIREWALL)
    assert right.status == 0, right.output
    assert "were not confirmed" not in host.check_output("slipway status")
    assert deploy(*FIREWALL).changed == {hostname: 0}
    assert rules() == before


@pytest.mark.drill
def test_reboot_before_the_rules_are_confirmed_loads_the_former_ones(
    host, machine, variables, inventory, hostname, rules, confirmed_rules, healthy
):
    """A reboot loses the timer that restores the former rules, so the files must not have the new ones."""
    before = rules()
    forever = ("--extra-vars", "baseline_ssh_port=2", "--extra-vars", "__baseline_firewall_guard=3600")
    with subprocess.Popen(
        ["ansible-playbook", *FIREWALL, *forever, "--inventory", inventory, "--limit", hostname],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        port = variables["baseline_ssh_port"]
        wait_until(lambda: not answers(machine.ipv4, port, timeout=1), 60, "the new rules are loaded")
        run.kill()
    machine.restart()
    wait_until(lambda: answers(machine.ipv4, port), 60, "the host can be reached again")
    healthy()
    assert rules() == before
    assert "were not confirmed" in host.check_output("slipway status")
