# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the container engine for its objects and images, over its socket."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import stat
from pathlib import Path

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
                "families": families(container),
                "ports": sorted({port["PublicPort"] for port in container["Ports"] if "PublicPort" in port}),
            }
            for container in told["containers"]
        ],
    }


def families(container):
    """Return the address families in which a container has an address."""
    networks = (container["NetworkSettings"]["Networks"] or {}).values()
    keys = {"ipv4": "IPAddress", "ipv6": "GlobalIPv6Address"}
    return [family for family, key in keys.items() if any(network.get(key) for network in networks)]


def images(told):
    """Return id, label, base and revision of an engine's images, by each of their names."""
    found = {}
    for image in told["images"]:
        labels = image["Labels"] or {}
        known = {
            "id": image["Id"],
            "label": labels.get("slipway.image", ""),
            "base": labels.get("org.opencontainers.image.base.name", ""),
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
            # host/slipway/generations.py marks databases that were not in service yet.
            is_unused = directory.suffix == ".init" or (file.parent / "slipway-restored").exists()
            if not is_unused and not within and (version := first_line(file)):
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
