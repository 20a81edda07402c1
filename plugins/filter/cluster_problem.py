# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(cluster_problem): the reason why an image of Postgres cannot use the data on the disk."""

from __future__ import annotations

import posixpath

MOUNTED_AT = "/var/lib/postgresql/data"


def cluster_problem(environment, volume, clusters):
    """Return why an image of the database cannot use the cluster in a volume.

    Args:
        environment: the image's environment variables, each as C(NAME=value), with C(PG_MAJOR) and C(PGDATA).
        volume: the volume's name.
        clusters: the version of each cluster in the volume, by its directory.

    Returns:
        A message with both versions and the solutions; an empty string if the image can use the cluster.
    """
    said = dict(line.split("=", 1) for line in environment or [])
    major = said.get("PG_MAJOR", "of an unknown version")
    directory = posixpath.relpath(said.get("PGDATA", MOUNTED_AT), MOUNTED_AT)
    if clusters.get(directory) == major:
        return ""
    there = " and ".join(f"PostgreSQL {version} (in {place})" for place, version in clusters.items())
    would = "could not read it" if directory in clusters else "would create an empty cluster beside it"
    return (
        f"The volume {volume} has a cluster of {there}, but the database image is PostgreSQL {major} and "
        f"uses {directory}, so it {would}. The database was not changed. To move the database to this "
        f"version, run upgrade_database.yml. To stay with the former version, go back to the base image "
        f"that created the cluster: images_base, or the entry postgres in roles/images/files/bases.lock.yml."
    )


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"cluster_problem": cluster_problem}
