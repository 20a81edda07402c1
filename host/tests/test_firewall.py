"""Problems of the firewall: rules that are missing, or that were not kept."""

import pytest

from slipway.firewall import problems
from slipway.shell import CommandFailure, Failure

FORWARDING = """*filter
-A FORWARD -j DOCKER-USER
-A DOCKER -d 10.83.1.2/32 ! -i slipway-edge -o slipway-edge -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
*nat
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i slipway-edge -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.83.1.2:80
-A DOCKER ! -i slipway-edge -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.83.1.2:443
COMMIT
"""
SERVICES = [
    {
        "Service": "nginx",
        "Publishers": [
            {"URL": url, "TargetPort": port, "PublishedPort": port, "Protocol": "tcp"}
            for url in ("0.0.0.0", "::")
            for port in (80, 443)
        ],
    },
    {"Service": "db", "Publishers": [{"URL": "", "TargetPort": 5432, "PublishedPort": 0}]},
    {"Service": "flask_blog_blue"},
]
LOST = "Docker's rules for port {} are missing, so readers cannot reach the blog: `systemctl restart docker`"


@pytest.fixture
def rules(stack):
    """The output of the commands that list rules, by their first words; a missing one fails."""
    rules = {"iptables-save": FORWARDING, "ip6tables-save": FORWARDING}

    def run(*command, **options):
        told = next((rules[start] for start in rules if " ".join(command).startswith(start)), None)
        if told is None:
            raise CommandFailure(command, 1, "no such table")
        return told

    stack.host.run = run
    return rules


def lost_ports(stack):
    """Return the ports that the only problem names."""
    [sentence] = problems(stack, SERVICES)
    start, _, rest = sentence.partition("port ")
    ports, _, end = rest.partition(" are missing")
    assert f"{start}port {{}} are missing{end}".startswith(LOST)
    return ports


def test_complete_rules_are_no_problem(stack, rules):
    assert problems(stack, SERVICES) == []


@pytest.mark.parametrize("command", ["iptables-save", "ip6tables-save"])
@pytest.mark.parametrize(
    "kept",
    ["", "*filter\n", FORWARDING.replace("-j DOCKER-USER", "-j OTHER"), FORWARDING.replace("-A P", "-A O")],
)
def test_rules_that_were_flushed_are_reported_for_each_family(stack, rules, command, kept):
    rules[command] = kept
    assert lost_ports(stack) == "80, 443"


def test_missing_rule_of_one_port_is_reported(stack, rules):
    rules["iptables-save"] = FORWARDING.replace("--dport 443", "--dport 444")
    assert lost_ports(stack) == "443"


def test_missing_program_counts_as_missing_rules(stack, rules):
    def run(*command, **options):
        raise Failure(f"`{command[0]}` cannot be run: No such file or directory.")

    stack.host.run = run
    assert lost_ports(stack) == "80, 443"


def test_rules_of_another_firewall_backend_are_not_judged(stack, rules):
    rules |= {"iptables-save": "", "ip6tables-save": "", "nft list table ip docker-bridges": "table"}
    assert problems(stack, SERVICES) == []


def test_stack_that_publishes_nothing_needs_no_rules(stack, rules):
    rules.clear()
    assert problems(stack, SERVICES[1:]) == []


def test_firewall_that_is_off_is_reported(stack, rules):
    stack.host.settings.firewall.write_text("table inet slipway {\n}\n")
    assert problems(stack, SERVICES) == ["The firewall is off: `systemctl restart nftables` loads its rules."]
    rules["nft list chain inet slipway forward"] = "table inet slipway {}"
    assert problems(stack, SERVICES) == []


def test_firewall_of_somebody_else_is_not_judged(stack, rules):
    stack.host.settings.firewall.write_text("flush ruleset\n")
    assert problems(stack, SERVICES) == []


def test_rules_that_were_not_confirmed_are_reported(stack, rules):
    (stack.state / "firewall-unconfirmed").write_text("2026-01-01T00:00:00Z\n")
    [sentence] = problems(stack, SERVICES)
    assert sentence == (
        "The rules that site.yml loaded at 2026-01-01T00:00:00Z were not confirmed, because the control node "
        "did not connect again. After a minute, the host restores the former rules: check baseline_* and run "
        "site.yml."
    )
