# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter C(container_limits): workers, memory, processes and connections of the stack's containers."""

from __future__ import annotations

import math

# Memory in MiB. A worker's figure includes what its requests need, and the process that renders its texts.
# A picture or a text may need 256 MiB. If two do at the same time, the kernel ends one of their processes,
# and its author gets a message.
NGINX_MB, NGINX_WORKER_MB = 48, 10
BLOG_PICTURE_MB, BLOG_WORKER_MB = 256, 88
# A quarter of Postgres' memory is shared_buffers, so 3 of these 4 MiB are left for the connection itself.
DB_MB, DB_CONNECTION_MB = 184, 4
# In the database's container, pgBackRest compresses and encrypts with two processes.
BACKUP_MB = 64
# A restore drill runs a second database, and the blog with one worker. A release or a change of nginx ends
# the drill (host/slipway/lock.py), so _peak counts only one of the three. The rehearsal of an upgrade runs a
# third database in place of the blog.
DRILL_DATABASE_MB, DRILL_BLOG_MB = 192, 240
DB_LARGEST_MB = 8192
# Postgres' memory, mostly by the rules of pgtune for a web site. A backend needs BACKEND_MB besides what its
# queries need, and a hash may take HASH_FACTOR times work_mem (hash_mem_multiplier).
BACKEND_MB, HASH_FACTOR = 2, 2
AUTOVACUUM_WORKERS = 2
# pgtune's guess of the sorts and hashes of one query, and the default of max_worker_processes.
PGTUNE_FACTOR, WORKER_PROCESSES = 3, 8
# Less makes even small sorts write to the disk. Only hosts with many CPUs and little memory get so little.
WORK_MEM_LEAST_KB = 256
# The kernel reserves a part of the host's memory that is less than a step, and a new kernel reserves a few
# MiB more or less. Rounded down to a step, the rest is the same after an upgrade, and so are the limits.
STEP_MB = 512

BLOG_WORKERS = range(2, 65)
BLOG_THREADS = 4
# A worker opens no more connections: the defaults of SQLAlchemy's pool, pool_size plus max_overflow.
BLOG_CONNECTIONS = 15


def container_limits(memory_mb, cpus, host_mb, files_mb, environment):
    """Compute limits that fit each other and the host.

    Args:
        memory_mb: the limits that the user sets, in MiB, by C(nginx), C(flask_blog), C(db) and C(host);
            0 means automatic.
        cpus: the CPU limit of each container, in cores.
        host_mb: the host's memory in MiB.
        files_mb: the size in MiB of nginx's tmpfs mounts (__stack_memory in roles/stack/vars/main.yml).
        environment: the blog's environment, which may set C(WEB_CONCURRENCY) and C(WEB_THREADS).

    Returns:
        A dictionary: for each container its C(memory_mb) and C(pids), and C(workers), C(threads),
        C(connections) where it has them; for C(db) also its C(settings); C(recovery), the
        memory of a restore drill's database and blog; C(peak_mb), the largest sum of all
        limits at any time. If no number of workers fits the host, C(peak_mb) exceeds C(host_mb).
    """
    given = {name: int(value) for name, value in memory_mb.items()}
    for workers in range(max(1, math.ceil(float(cpus))), 0, -1):
        least = _least(given, workers, files_mb, environment)
        if _peak(least, given["host"]) <= host_mb:
            break
    _share(least, given, (math.ceil(host_mb / STEP_MB) - 1) * STEP_MB - _peak(least, given["host"]))
    least["db"]["settings"] = database_settings(least["db"], float(cpus))
    return least | {"peak_mb": _peak(least, given["host"])}


def _least(given, workers, files_mb, environment):
    """Return the limits for this number of workers; memory that the user does not set is the least needed."""
    at_nginx, at_blog = workers, min(max(workers, BLOG_WORKERS[0]), BLOG_WORKERS[-1])
    if given["nginx"]:
        at_nginx = min(at_nginx, max(1, (given["nginx"] - files_mb - NGINX_MB) // NGINX_WORKER_MB))
    if given["flask_blog"]:
        room = (given["flask_blog"] - BLOG_PICTURE_MB) // BLOG_WORKER_MB
        at_blog = min(at_blog, max(BLOG_WORKERS[0], room))
    at_blog = _number(environment.get("WEB_CONCURRENCY"), at_blog)
    threads = _number(environment.get("WEB_THREADS"), BLOG_THREADS)
    # Both slots run during a release. The other 18 are for operators, migrations and what Postgres reserves.
    connections = max(50, 2 * at_blog * min(threads, BLOG_CONNECTIONS) + 18)
    return {
        # Each reload starts new workers, and the old ones run on until their requests end.
        "nginx": {
            "workers": at_nginx,
            "pids": max(50, 4 * at_nginx + 10),
            "memory_mb": given["nginx"] or files_mb + NGINX_MB + NGINX_WORKER_MB * at_nginx,
        },
        "flask_blog": {
            "workers": at_blog,
            "threads": threads,
            "pids": max(100, at_blog * (threads + 3) + 40),
            "memory_mb": given["flask_blog"] or BLOG_PICTURE_MB + BLOG_WORKER_MB * at_blog,
        },
        "db": {
            "connections": connections,
            "pids": max(100, connections + 40 + WORKER_PROCESSES),
            "memory_mb": given["db"] or DB_MB + BACKUP_MB + DB_CONNECTION_MB * connections,
        },
        "recovery": {"database_mb": DRILL_DATABASE_MB, "blog_mb": DRILL_BLOG_MB},
    }


def database_settings(db, cpus):
    """Return the settings of Postgres that depend on the container's memory, CPUs and connections."""
    memory = max(db["memory_mb"] - BACKUP_MB, BACKUP_MB)
    shared, maintenance, autovacuum = memory // 4, max(8, memory // 16), max(4, memory // 64)
    # A single CPU runs no query faster in parallel.
    parallel = min(math.ceil(cpus), WORKER_PROCESSES) if cpus > 1 else 0
    of_a_query = min(math.ceil(parallel / 2), 4)
    pgtune_kb = (memory - shared) * 1024 / ((db["connections"] + WORKER_PROCESSES) * PGTUNE_FACTOR)
    # pgtune does not count the memory of idle connections, which matters on a host with little memory.
    rest = memory - shared - maintenance - AUTOVACUUM_WORKERS * autovacuum - BACKEND_MB * db["connections"]
    room_kb = rest * 1024 / (HASH_FACTOR * (db["connections"] + parallel))
    return {
        "shared_buffers_mb": shared,
        "effective_cache_size_mb": memory * 3 // 4,
        "maintenance_work_mem_mb": maintenance,
        "autovacuum_work_mem_mb": autovacuum,
        "autovacuum_max_workers": AUTOVACUUM_WORKERS,
        "work_mem_kb": max(WORK_MEM_LEAST_KB, int(min(pgtune_kb, room_kb))),
        "max_parallel_workers": parallel,
        "max_parallel_workers_per_gather": of_a_query,
    }


def _share(limits, given, surplus_mb):
    """Raise the limits that the user does not set, by shares of the surplus."""
    surplus_mb = max(0, surplus_mb)
    for name, part, largest in (
        ("db", 4, max(limits["db"]["memory_mb"], DB_LARGEST_MB)),
        ("flask_blog", 16, 2 * limits["flask_blog"]["memory_mb"]),
        ("nginx", 16, 2 * limits["nginx"]["memory_mb"]),
    ):
        if not given[name]:
            limits[name]["memory_mb"] = min(limits[name]["memory_mb"] + surplus_mb // part, largest)


def _peak(limits, host_mb):
    """Return the largest sum: with two blogs (a release), two nginx (a change of nginx), or a drill."""
    memory = {name: limits[name]["memory_mb"] for name in ("nginx", "flask_blog", "db")}
    drill = sum(limits["recovery"].values())
    return sum(memory.values()) + max(memory["flask_blog"], memory["nginx"], drill) + host_mb


def _number(value, otherwise):
    """Return a number from the blog's environment. The blog itself refuses a wrong one."""
    try:
        return max(1, int(value))
    except (TypeError, ValueError):
        return otherwise


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self):
        return {"container_limits": container_limits}
