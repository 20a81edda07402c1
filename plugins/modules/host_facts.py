#!/usr/bin/python
# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Return a host's packages, units, files and more in one round trip, so that roles skip finished work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_facts
short_description: Facts about what a host already has
description:
  - Returns as facts the installed packages, the units that run and are enabled, the kernel settings that are
    not in force, the users with a locked password, the chains of the firewall, the programs that listen at
    ports, the objects and images of the container engine, the images that SBOMs describe, the sizes of the
    secrets' files, and what M(slipway.blog.host_files) wrote.
  - With O(system=true), also returns the distribution, memory, file systems and addresses, as
    M(ansible.builtin.setup) does.
  - If a host lacks the program that reads a fact, the fact is empty.
options:
  system:
    description: Whether to gather the facts of M(ansible.builtin.setup) too. This takes half a second.
    type: bool
    default: false
  record:
    description: Path of the record of M(slipway.blog.host_files).
    type: path
    default: /var/lib/slipway/files.json
  sbom_directory:
    description: Directory of the images' SBOMs.
    type: path
    default: /var/lib/slipway/sbom
  lock:
    description:
      - Whether this run of ansible-playbook takes the host's lock first, and keeps it until the run ends.
        If another run has the lock, or the program C(slipway) is at work, the task fails with C(held).
      - A run that has the lock may take it again. In check mode, no lock is taken, and a warning names a run
        that has it.
      - If the variable C(host_take_over) has the id of another run, which the error names, the lock is taken
        from that run.
      - Only over connections of the plugin P(ansible.builtin.ssh#connection), because they tell the host when
        the run ends. Over other connections, a warning says that there is no lock.
    type: bool
    default: false
  runtime:
    description: Directory of the lock.
    type: path
    default: /run/slipway
  run:
    description: Description of the run that takes the lock. The control node fills it in.
    type: dict
  take_over:
    description: Id of the run to take the lock from. The control node fills it in.
    type: str
    default: ''
attributes:
  check_mode:
    description: Can run in check mode, in which it reports changes and makes none.
    support: full
  diff_mode:
    description: Returns the differences in diff mode.
    support: none
author:
  - The Slipway developers (@slipway)
"""

EXAMPLES = r"""
- name: Gather packages, units, ports and containers
  slipway.blog.host_facts:

- name: Keep other runs away until this run ends, and gather the facts
  slipway.blog.host_facts:
    lock: true
    system: true

- name: Install a package only where it is missing
  ansible.builtin.apt:
    name: nftables
  when: "'nftables' not in ansible_facts['host_packages']"
"""

RETURN = r"""
held:
  description: Present if another run or C(slipway) keeps this run away, or the lock cannot be written.
  returned: if the lock cannot be taken
  type: bool
taken:
  description: Whether the task has taken the lock. It is false if the run has the lock already.
  returned: always
  type: bool
ansible_facts:
  description:
    - The facts. Those without C(host_) are the facts of M(ansible.builtin.setup) for the subsets
      C(distribution), C(env), C(hardware), C(network) and C(platform).
  returned: always
  type: dict
  contains:
    host_packages:
      description: Names of the installed packages.
      type: list
    host_units:
      description: Names of the systemd units that are active now and enabled for the next boot.
      type: list
    host_sysctl:
      description: Names of Slipway's kernel settings whose value in the kernel is not that of the files.
      type: list
    host_locked:
      description: Names of the users whose password is locked.
      type: list
    host_uids:
      description:
        - The users of the host that have a uid of a container's user. Each has its C(uid), its C(name), and
          whether it can C(login).
      type: list
      elements: dict
    host_chains:
      description: Chains of nftables as C(FAMILY TABLE CHAIN).
      type: list
    host_unforwarded:
      description: Published ports of Slipway's containers that the engine's firewall rules do not forward.
      type: list
    host_maintenance:
      description: Whether readers get the maintenance page.
      type: bool
    host_ports:
      description:
        - Names of the programs that listen at a TCP port, by the port's number.
        - A container that publishes the port is listed as C(container NAME).
      type: dict
    host_secrets:
      description: The size in bytes of each secret's file, by its name.
      type: dict
    host_files:
      description:
        - The digest of each entry of M(slipway.blog.host_files) that is unchanged and in force, by its path.
      type: dict
    host_manifest:
      description:
        - What M(slipway.blog.host_files) wrote. Each item has the C(path), its C(kind), the C(role) that
          wrote it, the unit that reads it as C(reader), the digest of its C(entry), whether it is
          C(unchanged), and whether the reader has read it since its last change (C(in_force)).
      type: list
      elements: dict
    host_images:
      description:
        - The engine's images by each of their names, which are their tags, their digests in registries and
          their ids.
        - Each has its C(id), the C(label) slipway.image, the name of its C(base) image, and the C(revision)
          of the code in it.
      type: dict
    host_sbom:
      description: The image that each file C(SERVICE.cdx.json) describes, as C(REPOSITORY:TAG), by service.
      type: dict
    host_updates:
      description:
        - The ids of the images in service whose packages have pending security updates, by the last check of
          C(slipway updates check).
      type: list
      elements: str
    host_engine:
      description:
        - All C(volumes), C(networks) and C(containers) of the engine; null if no engine answers.
        - Each has its C(name), whether its labels show that it is C(managed) by Slipway, its compose
          C(project), and as C(compose_key) its key in compose.yml.
        - A volume has its C(mountpoint). The volume of Slipway's database also has the version of each
          Postgres cluster in it, as C(clusters) by directory.
        - A network has its C(bridge).
        - A container has its C(image), its C(state), the C(ports) that it publishes, its C(volumes), its
          C(networks), and the C(families) of its addresses.
      type: dict
"""

import contextlib
import json
import pwd
import re
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.slipway.blog.plugins.module_utils.engine import ask_engine, engine, images
from ansible_collections.slipway.blog.plugins.module_utils.managed_files import RECORD, manifest
from ansible_collections.slipway.blog.plugins.module_utils.run_lock import RUNTIME, Held, other_run, take
from ansible_collections.slipway.blog.plugins.module_utils.system_facts import system


def ask(*command):
    """Return the lines that a command prints; none if the program does not exist or fails."""
    try:
        environment = {"LC_ALL": "C", "PATH": PATH}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


# The uids of the containers' users, as in roles/host/vars/main.yml.
UIDS = (101, 999, 10001)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def packages():
    lines = ask("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n")
    return [line.split()[1] for line in lines if line.startswith("installed ")]


def units():
    """Return the active units by name.

    Each has `since`, the time of its last start or reload in seconds since the epoch, `outdated`, whether
    systemd must read its files again, and whether it is `enabled`.
    """
    # This command takes half as long as list-unit-files, which reads every unit on the disk.
    wanted = "Id,ActiveState,UnitFileState,NeedDaemonReload,StateChangeTimestampMonotonic"
    lines = ask("systemctl", "show", f"--property={wanted}", "*")
    boot = time.time() - time.monotonic()
    found = [
        dict(line.split("=", 1) for line in unit.splitlines()) for unit in "\n".join(lines).split("\n\n")
    ]
    return {
        unit["Id"]: {
            "since": boot + int(unit["StateChangeTimestampMonotonic"]) / 10**6,
            "outdated": unit["NeedDaemonReload"] == "yes",
            "enabled": unit.get("UnitFileState") == "enabled",
        }
        for unit in found
        if unit.get("ActiveState") == "active"
    }


def outdated_sysctl(root):
    """Return the names of Slipway's kernel settings whose value in the kernel is not that of the files.

    As at boot, a file with a later name overrides ours, so an operator may choose other values. Settings that
    this kernel does not have are left out.
    """
    places = [root / place for place in ("usr/lib/sysctl.d", "run/sysctl.d", "etc/sysctl.d")]
    files = {file.name: file for place in places for file in place.glob("*.conf")}
    wanted = {}
    for name in sorted(files):
        wanted |= sysctl_values(files[name])
    own = sysctl_values(root / "etc/sysctl.d/60-slipway.conf")
    kernel = {name: root / "proc/sys" / name.replace(".", "/") for name in own}
    return [
        name
        for name, file in kernel.items()
        if file.exists() and file.read_text().split() != wanted[name].split()
    ]


def sysctl_values(file):
    """Return the values in a file of sysctl.d by name, or none if there is no such file."""
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith(("#", ";"))]
    return {name.strip().lstrip("-"): value for name, value in pairs}


def locked():
    lines = [line.split(":") for line in Path("/etc/shadow").read_text().splitlines()]
    return [user for user, password, *_rest in lines if password.startswith("!")]


def owners(uids):
    """Return the users that have these uids, also those of a directory service."""
    found = []
    for uid in uids:
        with contextlib.suppress(KeyError):
            user = pwd.getpwuid(uid)
            login = Path(user.pw_shell).name not in ("nologin", "false")
            found.append({"uid": uid, "name": user.pw_name, "login": login})
    return found


def chains():
    told = json.loads("".join(ask("nft", "--json", "list", "chains")) or '{"nftables": []}')
    found = [item["chain"] for item in told["nftables"] if "chain" in item]
    return [f"{chain['family']} {chain['table']} {chain['name']}" for chain in found]


def ports(containers):
    found = {}
    for line in ask("ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"):
        port = line.split()[3].rpartition(":")[2]
        found.setdefault(port, set()).update(re.findall(r'"([^"]+)",pid=', line))
    for container in containers:
        for port in container["ports"]:
            found.setdefault(str(port), set()).add(f"container {container['name']}")
    return {port: sorted(names) for port, names in found.items()}


def unforwarded(containers, tables):
    """Return the published ports of Slipway's containers that the engine's rules do not forward."""
    # With its nftables backend, the engine has tables with the name docker-bridges, and no rules of iptables.
    if any(" docker-bridges " in chain for chain in tables):
        return []
    lost = set()
    for family, command in {"ipv4": "iptables-save", "ipv6": "ip6tables-save"}.items():
        wanted = {
            port
            for one in containers
            if one["managed"] and family in one["families"]
            for port in one["ports"]
        }
        lost |= wanted - forwarded("\n".join(ask(command))) if wanted else set()
    return sorted(lost)


def forwarded(text):
    """Return the ports that the engine's rules forward, as host/slipway/firewall.py does."""
    jumps = re.findall(r"^-A (PREROUTING|FORWARD) .*-j DOCKER", text, re.MULTILINE)
    if set(jumps) != {"PREROUTING", "FORWARD"}:
        return set()
    return {int(port) for port in re.findall(r"^-A DOCKER .*--dport (\d+) .*-j DNAT", text, re.MULTILINE)}


def sizes(directory):
    """Return the size in bytes of each file in a directory, by its name, but not its content."""
    return {file.name: file.lstat().st_size for file in directory.iterdir()} if directory.is_dir() else {}


def subjects(directory):
    """Return the image that each CycloneDX file in a directory describes, by the file's service."""
    found = {}
    for file in directory.glob("*.cdx.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            image = json.loads(file.read_text())["metadata"]["component"]
            found[file.name.removesuffix(".cdx.json")] = f"{image['name']}:{image['version']}"
    return found


def pending_updates(record, containers):
    """Return the ids of the containers' images that have pending security updates, by the last check."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        pending = json.loads(record.read_text())["images"]
        return sorted({one["image"] for one in containers if pending.get(one["image"])})
    return []


def take_lock(module):
    """Take the lock of the run; tell whether it was taken now. In check mode, only warn of another run."""
    run, runtime = module.params["run"], module.params["runtime"]
    try:
        if not module.check_mode:
            return take(run, module.params["take_over"], runtime)
        if other := other_run(run, runtime):
            module.warn(other)
    except Held as held:
        module.fail_json(msg=str(held), held=True)
    except OSError as error:
        module.fail_json(msg=f"The lock of this run cannot be taken in {runtime}: {error}", held=True)
    return False


def main():
    options = {
        "system": {"type": "bool", "default": False},
        "record": {"type": "path", "default": RECORD},
        "sbom_directory": {"type": "path", "default": "/var/lib/slipway/sbom"},
        "lock": {"type": "bool", "default": False},
        "runtime": {"type": "path", "default": RUNTIME},
        "run": {"type": "dict"},
        "take_over": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec=options, supports_check_mode=True, required_if=[("lock", True, ("run",))]
    )
    # Gather these facts before the lock is taken: if a mount or the DNS hangs, they may take longer than the
    # lock waits for the control node.
    facts = system(module) if module.params["system"] else {}
    taken = module.params["lock"] and take_lock(module)
    told = ask_engine()
    engine_has = engine(told) if told else None
    active, tables = units(), chains()
    containers = engine_has["containers"] if engine_has else []
    written = manifest(module.params["record"], active)
    facts |= {
        "host_packages": packages(),
        "host_units": sorted(name for name, unit in active.items() if unit["enabled"]),
        "host_sysctl": outdated_sysctl(Path("/")),
        "host_locked": locked(),
        "host_uids": owners(UIDS),
        "host_chains": tables,
        "host_unforwarded": unforwarded(containers, tables),
        "host_maintenance": Path("/var/lib/slipway/slot/maintenance").exists(),
        "host_ports": ports(containers),
        "host_engine": engine_has,
        "host_files": {
            item["path"]: item["entry"] for item in written if item["unchanged"] and item["in_force"]
        },
        "host_manifest": written,
        "host_images": images(told) if told else {},
        "host_sbom": subjects(Path(module.params["sbom_directory"])),
        "host_updates": pending_updates(Path("/var/lib/slipway/updates.json"), containers),
        "host_secrets": sizes(Path("/etc/slipway/secrets")),
    }
    module.exit_json(ansible_facts=facts, taken=taken)


if __name__ == "__main__":
    main()
