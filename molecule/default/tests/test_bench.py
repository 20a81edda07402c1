"""Run the benchmark of `make bench` against the test host, and print its figures.

test_repair.py limits how long a run of site.yml may take, and app/bench/posts.py how long a page may take.
"""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_bench_measures_both_pages_without_a_failed_request():
    done = subprocess.run(
        [ROOT / "bench/home.py", "slipway-molecule-default"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    print(done.stdout)
    results = json.loads((ROOT / "bench/results.json").read_text())
    assert results["home_failed"] == 0
    assert results["static_failed"] == 0
    assert results["home_over_static"] > 0
    assert all(isinstance(value, int | float) for value in results.values())
