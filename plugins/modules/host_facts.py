#!/usr/bin/python
"""Tells in one round trip what a host has already, so that roles skip what is done."""

import json
import re
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_facts
short_description: What a host has already
description:
  - Returns as facts which packages are installed, which units run, which passwords are locked, which chains
    the firewall has, and who listens at which port. What a bare host lacks a program for, it has none of.
options: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: always
  type: dict
  contains:
    host_packages:
      description: Names of the installed packages.
      type: list
    host_units:
      description: Names of the units of systemd that are active now and enabled for the next boot.
      type: list
    host_locked:
      description: Names of the users whose password is locked.
      type: list
    host_chains:
      description: Chains of nftables as C(FAMILY TABLE CHAIN).
      type: list
    host_ports:
      description:
        - Who listens at a TCP port or has it published, by its number.
        - Programs go by their names, a container as C(container NAME).
      type: dict
"""


def ask(*command):
    """Return the lines that a command prints; none where there is no such program, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C", "PATH": PATH})
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def packages():
    lines = ask("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n")
    return [line.split()[1] for line in lines if line.startswith("installed ")]


def units():
    plain = ("--plain", "--no-legend", "--no-pager")
    active = {line.split()[0] for line in ask("systemctl", "list-units", "--state=active", *plain)}
    enabled = {line.split()[0] for line in ask("systemctl", "list-unit-files", "--state=enabled", *plain)}
    return sorted(active & enabled)


def locked():
    lines = [line.split(":") for line in Path("/etc/shadow").read_text().splitlines()]
    return [user for user, password, *_ in lines if password.startswith("!")]


def chains():
    told = json.loads("".join(ask("nft", "--json", "list", "chains")) or '{"nftables": []}')
    found = [item["chain"] for item in told["nftables"] if "chain" in item]
    return [f"{chain['family']} {chain['table']} {chain['name']}" for chain in found]


def ports():
    found = {}
    for line in ask("ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"):
        port = line.split()[3].rpartition(":")[2]
        found.setdefault(port, set()).update(re.findall(r'"([^"]+)",pid=', line))
    for line in ask("docker", "ps", "--format={{.Names}}\t{{.Ports}}"):
        name, published = line.split("\t")
        for first, last in re.findall(r":(\d+)(?:-(\d+))?->", published):
            for port in range(int(first), int(last or first) + 1):
                found.setdefault(str(port), set()).add(f"container {name}")
    return {port: sorted(names) for port, names in found.items()}


def main():
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    facts = {
        "host_packages": packages(),
        "host_units": units(),
        "host_locked": locked(),
        "host_chains": chains(),
        "host_ports": ports(),
    }
    module.exit_json(ansible_facts=facts)


if __name__ == "__main__":
    main()
