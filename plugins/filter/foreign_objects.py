# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(foreign_objects): volumes, networks and containers of others that have Slipway's names."""

from __future__ import annotations

PROJECT = "slipway"
SERVICES = ("nginx", "nginx_temporary", "flask_blog_blue", "flask_blog_green", "db")
NETWORKS = ("edge", "app", "data", "backup")
LABELS = f"--label com.docker.compose.project={PROJECT} --label com.docker.compose.volume"


def foreign_objects(engine, volumes):
    """Find volumes, networks and containers that have a name of Slipway's but lack Slipway's labels.

    Also find a variable that names a new volume while Slipway's data is in another volume.

    Args:
        engine: the fact C(host_engine); None if no engine answers.
        volumes: the names of Slipway's volumes, by their keys in compose.yml.

    Returns:
        One message for each object, with its name and the solutions.
    """
    if not engine:
        return []
    return [
        *_foreign_volumes(engine, volumes),
        *_foreign_networks(engine),
        *_foreign_containers(engine),
    ]


def _foreign_volumes(engine, volumes):
    for key, name in volumes.items():
        managed = [each for each in engine["volumes"] if each["managed"] and each["compose_key"] == key]
        own = [volume["name"] for volume in managed]
        there = next((volume for volume in engine["volumes"] if volume["name"] == name), None)
        if there and name not in own:
            new = f"slipway_{key}"
            users = [c["name"] for c in engine["containers"] if name in c["volumes"]]
            yield (
                f"The volume {name} is not Slipway's{_used_by(users)}: it lacks Slipway's labels. Set "
                f"another name, such as stack_{key}: {new}. Or remove the volume, if its data is not "
                f"needed: docker volume rm {name}. Or, if you copied Slipway's data into it, copy that to a "
                f"volume with the labels: docker volume create {LABELS}={key} {new} && "
                f"cp --archive {there['mountpoint']}/. "
                f"$(docker volume inspect --format '{{{{.Mountpoint}}}}' {new})/, and set stack_{key}: {new}"
            )
        elif own and name not in own:
            yield (
                f"stack_{key} is {name}, which would be a new, empty volume; Slipway's data is in "
                f"{' and '.join(own)}. Set stack_{key}: {own[0]}. Or, to start with an empty volume, "
                f"create it: docker volume create {LABELS}={key} {name}"
            )


def _foreign_networks(engine):
    names = {f"{PROJECT}_{network}" for network in NETWORKS}
    bridges = {f"{PROJECT}-{network}" for network in NETWORKS}
    for network in engine["networks"]:
        if not network["managed"] and (network["name"] in names or network["bridge"] in bridges):
            users = [c["name"] for c in engine["containers"] if network["name"] in c["networks"]]
            bridge = f" (bridge {network['bridge']})" if network["bridge"] in bridges else ""
            yield (
                f"The network {network['name']}{bridge} is not Slipway's{_used_by(users)}. Change its name "
                f"and bridge where it is defined, or remove it: docker network rm {network['name']}"
            )


def _foreign_containers(engine):
    names = {f"{PROJECT}-{service}-1" for service in SERVICES}
    for container in engine["containers"]:
        name = container["name"]
        if container["managed"]:
            continue
        if container["project"] == PROJECT:
            yield (
                f"The container {name} belongs to another compose project with the name {PROJECT}. Change "
                f"the name in its compose.yml and start it again, or remove the container: "
                f"docker rm --force {name}"
            )
        elif name in names:
            yield (
                f"The container {name} is not Slipway's. Rename it: docker rename {name} other-{name}; "
                f"or remove it: docker rm --force {name}"
            )


def _used_by(containers):
    return f" (it is used by {', '.join(sorted(containers))})" if containers else ""


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"foreign_objects": foreign_objects}
