"""Check the running host against the CIS Docker Benchmark 1.6, as docker-bench-security does.

The tests in test_cis_*.py have the numbers of the checks in their names. cis.yml must list each check that
fails, with a reason. A listed check must fail.
"""

import test_cis_containers
import test_cis_engine
import test_cis_images
from cis import CONDITIONS, LISTED, SERVICES, check_number

CHECKS = {
    check_number(name): function
    for module in (test_cis_containers, test_cis_engine, test_cis_images)
    for name, function in vars(module).items()
    if check_number(name)
}


def test_each_check_of_the_benchmark_is_tested_or_listed_as_untestable():
    unasked = {entry["check"] for entry in LISTED["unasked"]}
    assert CHECKS.keys() & unasked == set()
    sections = {2: 18, 4: 12, 5: 32}
    assert CHECKS.keys() | unasked >= {f"{s}.{n}" for s, last in sections.items() for n in range(1, last + 1)}


def test_each_listed_exception_names_a_check_and_has_a_reason():
    for entry in LISTED["exceptions"]:
        assert set(entry) <= {"check", "services", "reason", "unless"}
        assert set(entry.get("services", [])) <= set(SERVICES)
        assert bool(entry.get("services")) == bool(getattr(CHECKS[entry["check"]], "pytestmark", None))
        assert entry.get("unless") in {None, *CONDITIONS}
    for entry in [*LISTED["exceptions"], *LISTED["unasked"]]:
        assert len(entry["reason"]) > 10, entry["check"]
