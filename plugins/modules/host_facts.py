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
  - Returns as facts the installed packages, the running units, the users with a locked password, the chains
    of the firewall, the programs that listen at ports, the objects and images of the container engine, the
    images that SBOMs describe, the sizes of the secrets' files, and what M(slipway.blog.host_files) wrote.
  - If a host lacks the program that reads a fact, the fact is empty.
options:
  record:
    description: Path of the record of M(slipway.blog.host_files).
    type: path
    default: /var/lib/slipway/files.json
  sbom_directory:
    description: Directory of the images' SBOMs.
    type: path
    default: /var/lib/slipway/sbom
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

- name: Install a package only where it is missing
  ansible.builtin.apt:
    name: nftables
  when: "'nftables' not in ansible_facts['host_packages']"
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
      description: Names of the systemd units that are active now and enabled for the next boot.
      type: list
    host_locked:
      description: Names of the users whose password is locked.
      type: list
    host_chains:
      description: Chains of nftables as C(FAMILY TABLE CHAIN).
      type: list
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
        - The digest of each entry of M(slipway.blog.host_files) that is unchanged, by its path.
      type: dict
    host_manifest:
      description:
        - What M(slipway.blog.host_files) wrote. Each item has the C(path), its C(kind), the C(role) that
          wrote it, the digest of its C(entry), and whether it is C(unchanged).
      type: list
      elements: dict
    host_images:
      description:
        - The engine's images by each of their names, which are their tags, their digests in registries and
          their ids.
        - Each has its C(id), the C(label) slipway.image, and the C(revision) of the code in it.
      type: dict
    host_sbom:
      description: The image that each file C(SERVICE.cdx.json) describes, as C(REPOSITORY:TAG), by service.
      type: dict
    host_engine:
      description:
        - All C(volumes), C(networks) and C(containers) of the engine; null if no engine answers.
        - Each has its C(name), whether its labels show that it is C(managed) by Slipway, its compose
          C(project), and as C(compose_key) its key in compose.yml.
        - A volume has its C(mountpoint). The volume of Slipway's database also has the version of each
          Postgres cluster in it, as C(clusters) by directory.
        - A network has its C(bridge).
        - A container has its C(image), its C(state), the C(ports) that it publishes, its C(volumes)
          and C(networks).
      type: dict
"""

import contextlib
import http.client
import json
import os
import re
import socket
import stat
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.slipway.blog.plugins.module_utils.managed_files import RECORD, manifest


def ask(*command):
    """Return the lines that a command prints; none if the program does not exist or fails."""
    try:
        environment = {"LC_ALL": "C", "PATH": PATH}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def packages():
    lines = ask("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n")
    return [line.split()[1] for line in lines if line.startswith("installed ")]


def units():
    # This command takes half as long as list-unit-files, which reads every unit on the disk.
    lines = ask("systemctl", "show", "--property=Id,ActiveState,UnitFileState", "*")
    found = [
        dict(line.split("=", 1) for line in unit.splitlines()) for unit in "\n".join(lines).split("\n\n")
    ]
    wanted = {"ActiveState": "active", "UnitFileState": "enabled"}
    return sorted(unit["Id"] for unit in found if wanted.items() <= unit.items())


def locked():
    lines = [line.split(":") for line in Path("/etc/shadow").read_text().splitlines()]
    return [user for user, password, *_rest in lines if password.startswith("!")]


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


# --- The engine ---------------------------------------------------------------------------------------------

# Docker's own client and Ansible's modules choose the engine in this way too.
SOCKET = os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or "/var/run/docker.sock"
PROJECT = "slipway"
DIRECTORY = "/opt/slipway"


class Engine(http.client.HTTPConnection):
    """A connection to the engine's socket, which is faster than starting the docker client."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(SOCKET)

    def get(self, path):
        """Return the engine's answer; raise OSError, HTTPException or ValueError if there is none."""
        self.request("GET", path)
        response = self.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise http.client.HTTPException(answer)
        return answer


def ask_engine():
    """Return the engine's objects by kind, or None if no engine answers."""
    connection = Engine("engine")
    try:
        return {
            "volumes": connection.get("/volumes")["Volumes"] or [],
            "networks": connection.get("/networks"),
            "containers": connection.get("/containers/json?all=1"),
            "images": connection.get("/images/json"),
        }
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def engine(told):
    """Return the volumes, networks and containers of an engine."""
    return {
        "volumes": [
            volume | {"clusters": clusters(volume) if holds_database(volume) else {}}
            for volume in (
                about(volume["Name"], volume["Labels"], "volume") | {"mountpoint": volume["Mountpoint"]}
                for volume in told["volumes"]
            )
        ],
        "networks": [
            about(network["Name"], network["Labels"], "network")
            | {"bridge": (network["Options"] or {}).get("com.docker.network.bridge.name", "")}
            for network in told["networks"]
        ],
        "containers": [
            about(container["Names"][0].lstrip("/"), container["Labels"], "service")
            | {
                "image": container["ImageID"],
                "state": container["State"],
                "volumes": [mount["Name"] for mount in container["Mounts"] if mount["Type"] == "volume"],
                "networks": sorted(container["NetworkSettings"]["Networks"] or {}),
                "ports": sorted({port["PublicPort"] for port in container["Ports"] if "PublicPort" in port}),
            }
            for container in told["containers"]
        ],
    }


def images(told):
    """Return id, label and revision of an engine's images, by each of their names."""
    found = {}
    for image in told["images"]:
        labels = image["Labels"] or {}
        known = {
            "id": image["Id"],
            "label": labels.get("slipway.image", ""),
            "revision": labels.get("org.opencontainers.image.revision", ""),
        }
        names = [*(image["RepoTags"] or []), *(image["RepoDigests"] or []), image["Id"]]
        found |= dict.fromkeys(names, known)
    return found


def holds_database(volume):
    """Tell whether a volume is that of Slipway's database."""
    return volume["managed"] and volume["compose_key"] == "db_volume"


def about(name, labels, kind):
    """Return facts from compose's labels; leave out other labels, because they may hold secrets."""
    compose = {key.removeprefix("com.docker.compose."): value for key, value in (labels or {}).items()}
    project, directory = compose.get("project", ""), compose.get("project.working_dir", DIRECTORY)
    # Another compose project may have the name `slipway` too. Only a container has a label with the
    # project's directory, which tells the two projects apart.
    managed = (project, directory) == (PROJECT, DIRECTORY)
    return {"name": name, "managed": managed, "compose_key": compose.get(kind, ""), "project": project}


def clusters(volume):
    """Return the versions of the Postgres clusters in a volume, by their directories."""
    root, found = Path(volume["mountpoint"]), {}
    for depth in ("PG_VERSION", "*/PG_VERSION", "*/*/PG_VERSION"):
        for file in sorted(root.glob(depth)):
            directory = file.relative_to(root).parent
            # Skip unfinished clusters, and the databases within a cluster: they have a file PG_VERSION too.
            within = any(str(parent) in found for parent in directory.parents)
            if directory.suffix != ".init" and not within and (version := first_line(file)):
                found[str(directory)] = version
    return found


def first_line(file):
    """Return the version in a file PG_VERSION, or an empty string: a volume may hold anything."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as opened:
            text = opened.read(20).strip() if stat.S_ISREG(os.fstat(opened.fileno()).st_mode) else ""
    except (OSError, ValueError):
        return ""
    return text if re.fullmatch(r"[0-9.]+", text) else ""


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


def main():
    options = {
        "record": {"type": "path", "default": RECORD},
        "sbom_directory": {"type": "path", "default": "/var/lib/slipway/sbom"},
    }
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    told = ask_engine()
    engine_has = engine(told) if told else None
    written = manifest(module.params["record"])
    facts = {
        "host_packages": packages(),
        "host_units": units(),
        "host_locked": locked(),
        "host_chains": chains(),
        "host_ports": ports(engine_has["containers"] if engine_has else []),
        "host_engine": engine_has,
        "host_files": {item["path"]: item["entry"] for item in written if item["unchanged"]},
        "host_manifest": written,
        "host_images": images(told) if told else {},
        "host_sbom": subjects(Path(module.params["sbom_directory"])),
        "host_secrets": sizes(Path("/etc/slipway/secrets")),
    }
    module.exit_json(ansible_facts=facts)


if __name__ == "__main__":
    main()
