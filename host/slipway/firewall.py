"""Problems of the firewall that its files do not show: rules that are missing, or that were not kept."""

import re
from collections.abc import Sequence
from typing import Any

from slipway.host import Host
from slipway.shell import Failure
from slipway.stack import Stack

SAVE = {"ipv4": "iptables-save", "ipv6": "ip6tables-save"}


def problems(stack: Stack, services: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for each problem, with its remedy.

    Args:
        stack: the stack.
        services: the containers from `docker compose ps --format json`.
    """
    return [*unconfirmed(stack), *unloaded(stack.host), *unforwarded(stack.host, services)]


def unconfirmed(stack: Stack) -> list[str]:
    """Report new rules that the role baseline loaded, but could not confirm by a new connection."""
    # The role writes this file before it loads new rules, and removes it afterwards.
    file = stack.state / "firewall-unconfirmed"
    if not file.exists():
        return []
    return [
        f"The rules that site.yml loaded at {file.read_text().strip()} were not confirmed, because the "
        "control node did not connect again. After a minute, the host restores the former rules: check "
        "baseline_* and run site.yml."
    ]


def unloaded(host: Host) -> list[str]:
    """Report that the rules of the role baseline are not in the kernel."""
    file = host.settings.firewall
    if not file.exists() or "table inet slipway" not in file.read_text():
        return []
    if ask(host, "nft", "list", "chain", "inet", "slipway", "forward") is not None:
        return []
    return ["The firewall is off: `systemctl restart nftables` loads its rules."]


def unforwarded(host: Host, services: Sequence[dict[str, Any]]) -> list[str]:
    """Report published ports that the engine's rules do not forward, as after `nft flush ruleset`."""
    published: dict[str, set[str]] = {family: set() for family in SAVE}
    for service in services:
        for port in service.get("Publishers") or []:
            if port["PublishedPort"]:
                published["ipv6" if ":" in port["URL"] else "ipv4"].add(str(port["PublishedPort"]))
    # If the engine's firewall backend is nftables, this table replaces the rules of iptables.
    if not any(published.values()) or ask(host, "nft", "list", "table", "ip", "docker-bridges") is not None:
        return []
    lost = {port for family in SAVE for port in published[family] - forwarded(host, SAVE[family])}
    if not lost:
        return []
    return [
        f"Docker's rules for port {', '.join(sorted(lost, key=int))} are missing, so readers cannot reach "
        "the blog: `systemctl restart docker` restores them, and stops no container."
    ]


def forwarded(host: Host, command: str) -> set[str]:
    """Return the ports that the engine's rules forward, as plugins/modules/host_facts.py does."""
    text = ask(host, command) or ""
    jumps = re.findall(r"^-A (PREROUTING|FORWARD) .*-j DOCKER", text, re.MULTILINE)
    if set(jumps) != {"PREROUTING", "FORWARD"}:
        return set()
    return set(re.findall(r"^-A DOCKER .*--dport (\d+) .*-j DNAT", text, re.MULTILINE))


def ask(host: Host, *command: str) -> str | None:
    """Return the output of a command, or None if it does not exist or fails."""
    try:
        return host.run(*command)
    except Failure:
        return None
