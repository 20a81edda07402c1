"""Run the benchmark of `make bench` against the test host, in short runs, and print its figures.

test_repair.py limits how long a run of site.yml may take, and app/bench/posts.py how long a page may take.
"""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def results():
    """The figures of one short run of each page."""
    done = subprocess.run(
        [ROOT / "bench/measure.py", "slipway-molecule-default", "--seconds=1", "--rounds=1"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads((ROOT / "bench/results.json").read_text())


def test_bench_measures_every_page_without_a_failed_request(results):
    failed = {name: number for name, number in results.items() if name.endswith("_failed")}
    assert len(failed) == 11
    assert set(failed.values()) == {0}
    assert all(isinstance(value, int | float) for value in results.values())
    ratios = [ratio for name, ratio in results.items() if "_over_" in name]
    assert len(ratios) == 6
    assert min(ratios) > 0


def test_bench_leaves_nothing_on_the_host(results, host, sql):
    assert "bench" not in host.check_output("docker ps --all --format '{{.Names}}'")
    assert sql("SELECT count(*) FROM pg_database WHERE datname = 'bench'") == [("0",)]
    assert sql("SELECT count(*) FROM pg_roles WHERE rolname = 'bench'") == [("0",)]
    assert not host.file("/var/tmp/slipway-bench").exists


def test_other_cookies_do_not_make_a_page_slow(results):
    assert results["foreign_cookie_over_home"] > 0.5
