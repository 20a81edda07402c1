"""The filter container_limits: the limits of the containers fit each other and the host."""

import itertools
import math

import pytest
from project import ROOT, load_program

container_limits = load_program(ROOT / "plugins/filter/container_limits.py").container_limits

CPUS = [0.5, 1, 2, 24, 96]
# What the kernel reports on hosts of 2 GB to 256 GB.
HOSTS_MB = [1967, 3915, 7950, 32100, 257700]
AUTOMATIC = {"nginx": 0, "flask_blog": 0, "db": 0, "host": 256}
FILES_MB = 204
every_host = pytest.mark.parametrize(("cpus", "host_mb"), [*itertools.product(CPUS, HOSTS_MB)])


def limits_of(cpus=2, host_mb=4000, environment=None, **memory_mb):
    return container_limits(AUTOMATIC | memory_mb, cpus, host_mb, FILES_MB, environment or {})


def sums(limits, host=256):
    """The memory of the host and all containers during a release, and during a replacement of nginx."""
    nginx, blog, db = (limits[name]["memory_mb"] for name in ("nginx", "flask_blog", "db"))
    drill = sum(limits["recovery"].values())
    return nginx + 2 * blog + db + host, 2 * nginx + blog + db + host, nginx + blog + drill + db + host


@every_host
def test_memory_limits_together_fit_the_host(cpus, host_mb):
    limits = limits_of(cpus, host_mb)
    assert limits["peak_mb"] == max(sums(limits))
    assert limits["peak_mb"] <= host_mb


@pytest.mark.parametrize("cpus", CPUS)
def test_host_of_one_gigabyte_is_too_small_for_any_number_of_workers(cpus):
    assert limits_of(cpus, 961)["peak_mb"] > 961


@pytest.mark.parametrize("cpus", CPUS)
def test_large_host_has_one_worker_of_nginx_for_each_cpu_of_the_limit(cpus):
    assert limits_of(cpus, 257700)["nginx"]["workers"] == math.ceil(cpus)


def test_workers_are_fewer_where_the_memory_does_not_suffice_for_the_cpus():
    assert limits_of(96, 3915)["flask_blog"]["workers"] < limits_of(96, 257700)["flask_blog"]["workers"] == 64


@every_host
def test_nginx_has_processes_for_two_reloads_while_the_old_workers_drain(cpus, host_mb):
    nginx = limits_of(cpus, host_mb)["nginx"]
    others = 8  # the master, the cache's manager and loader three times, and the health check
    assert 3 * nginx["workers"] + others <= nginx["pids"]


@every_host
def test_nginx_has_memory_for_its_files_and_workers(cpus, host_mb):
    nginx = limits_of(cpus, host_mb)["nginx"]
    assert nginx["memory_mb"] >= FILES_MB + 48 + 10 * nginx["workers"]


@every_host
def test_blog_has_memory_for_its_workers_and_one_picture(cpus, host_mb):
    blog = limits_of(cpus, host_mb)["flask_blog"]
    assert blog["memory_mb"] >= 256 + 88 * blog["workers"]


@every_host
def test_blog_has_processes_for_its_threads(cpus, host_mb):
    blog = limits_of(cpus, host_mb)["flask_blog"]
    # A worker has its threads, the thread that accepts connections, and the process that renders.
    assert blog["workers"] * (blog["threads"] + 2) + 20 <= blog["pids"]


@every_host
def test_database_has_connections_for_both_slots_and_ten_more(cpus, host_mb):
    limits = limits_of(cpus, host_mb)
    blog = limits["flask_blog"]
    assert 2 * blog["workers"] * blog["threads"] + 10 + 3 <= limits["db"]["connections"]


@every_host
def test_database_has_processes_and_memory_for_its_connections(cpus, host_mb):
    db = limits_of(cpus, host_mb)["db"]
    assert db["connections"] + 20 + db["settings"]["max_parallel_workers"] <= db["pids"]
    assert db["settings"]["shared_buffers_mb"] + 3 * db["connections"] < db["memory_mb"]


def database_sum_mb(db):
    """What Postgres needs while all connections and parallel workers run a hash, and all maintenance runs."""
    one = db["settings"]
    hashing = db["connections"] + one["max_parallel_workers"]
    return (
        one["shared_buffers_mb"]
        + one["maintenance_work_mem_mb"]
        + one["autovacuum_max_workers"] * one["autovacuum_work_mem_mb"]
        + 2 * db["connections"]
        + 2 * hashing * one["work_mem_kb"] / 1024
    )


@every_host
def test_memory_of_all_queries_together_fits_the_limit_of_the_database(cpus, host_mb):
    db = limits_of(cpus, host_mb)["db"]
    assert database_sum_mb(db) <= db["memory_mb"]


@pytest.mark.parametrize("memory_mb", [500, 1000, 3000, 20000])
def test_memory_of_all_queries_fits_a_limit_that_a_user_sets(memory_mb):
    assert database_sum_mb(limits_of(2, 32100, db=memory_mb)["db"]) <= memory_mb


def test_database_has_what_pgtune_recommends_for_a_web_site():
    """pgtune for 8192 MB, 8 CPUs, 50 connections and an SSD; it rounds work_mem down to whole kB.

    The container has 64 MB more, for backups (BACKUP_MB in container_limits.py).
    """
    db = limits_of(8, 257700, {"WEB_CONCURRENCY": 4}, db=8192 + 64)["db"]
    assert db["connections"] == 50
    assert db["settings"] == {
        "shared_buffers_mb": 2048,
        "effective_cache_size_mb": 6144,
        "maintenance_work_mem_mb": 512,
        "work_mem_kb": 36157,
        "max_parallel_workers": 8,
        "max_parallel_workers_per_gather": 4,
        # The next two are not from pgtune, which leaves the defaults of Postgres.
        "autovacuum_work_mem_mb": 128,
        "autovacuum_max_workers": 2,
    }


@pytest.mark.parametrize(("host_mb", "least_kb"), [(1967, 1024), (3915, 3 * 1024), (7950, 7 * 1024)])
def test_queries_of_a_usual_host_have_memory_for_small_sorts(host_mb, least_kb):
    assert limits_of(2, host_mb)["db"]["settings"]["work_mem_kb"] >= least_kb


def test_work_mem_is_never_less_than_postgres_accepts():
    assert limits_of(2, 3915, db=64)["db"]["settings"]["work_mem_kb"] >= 64


@pytest.mark.parametrize(
    ("cpus", "workers", "of_a_query"), [(0.5, 0, 0), (1, 0, 0), (1.5, 2, 1), (2, 2, 1), (4, 4, 2), (96, 8, 4)]
)
def test_parallel_workers_follow_from_the_cpus(cpus, workers, of_a_query):
    settings = limits_of(cpus, 257700)["db"]["settings"]
    assert settings["max_parallel_workers"] == workers
    assert settings["max_parallel_workers_per_gather"] == of_a_query


@pytest.mark.parametrize("name", ["nginx", "flask_blog", "db"])
def test_memory_limits_grow_with_the_host(name):
    found = [limits_of(2, host_mb)[name]["memory_mb"] for host_mb in HOSTS_MB]
    assert found == sorted(found)
    assert found[0] < found[-1]


@pytest.mark.parametrize("name", ["nginx", "flask_blog", "db"])
@pytest.mark.parametrize("host_mb", [961, *HOSTS_MB])
def test_memory_limit_that_a_user_sets_stays(name, host_mb):
    assert limits_of(2, host_mb, **{name: 777})[name]["memory_mb"] == 777


def test_other_limits_make_room_for_a_limit_that_a_user_sets():
    limits = limits_of(2, 7950, db=5000)
    assert limits["peak_mb"] <= 7950


@pytest.mark.parametrize("host_mb", [3915, 7950, 32100])
def test_a_few_megabytes_less_after_an_upgrade_of_the_kernel_change_no_limit(host_mb):
    assert limits_of(2, host_mb - 40) == limits_of(2, host_mb)


def test_workers_and_threads_that_a_user_sets_stay_and_get_connections_and_memory():
    limits = limits_of(2, 32100, {"WEB_CONCURRENCY": "8", "WEB_THREADS": 40})
    assert (limits["flask_blog"]["workers"], limits["flask_blog"]["threads"]) == (8, 40)
    assert limits["db"]["connections"] >= 2 * 8 * 15 + 13
    assert limits["flask_blog"]["memory_mb"] >= 256 + 8 * 88


def test_wrong_number_of_workers_is_left_to_the_blog_to_refuse():
    assert limits_of(environment={"WEB_CONCURRENCY": "many"}) == limits_of()


@every_host
def test_role_of_one_slot_may_open_the_connections_of_its_workers(cpus, host_mb):
    """roles.sql gives each slot half of the connections, after 3 for the superuser and 7 for others."""
    limits = limits_of(cpus, host_mb)
    blog = limits["flask_blog"]
    assert blog["workers"] * blog["threads"] <= (limits["db"]["connections"] - 3 - 7) // 2
