"""Which slot gets a request if the slot that nginx chose is down, with a real nginx and two slots."""

import pytest
from nginx_slots import run_scenario

SCENARIOS = {
    "release under test, serving slot down": ("isolate green; start green; stop blue; ask; ask", "503 503"),
    "release under test, serving slot up": ("isolate green; start green; ask", "200 blue"),
    "first release under test": ("stop blue; isolate green; start green; ask", "503"),
    "drain, new slot down": (
        "isolate green; start green; switch green; ask; stop green; ask; ask /not-found",
        "200 green 200 blue 404 blue",
    ),
    "page of the backup is cached": (
        "isolate green; start green; switch green; stop green; ask /page; stop blue; ask /page; ask",
        "200 blue 200 blue 503",
    ),
    "lost flag": ("start green; stop blue; ask", "200 green"),
    "no other slot": ("stop blue; ask; start blue; ask", "503 200 blue"),
    "upload over a whole release": (
        "begin_upload; isolate green; start green; switch green; stop blue; end_upload",
        "200 green",
    ),
    "upload that began during the test of a release": (
        "isolate green; start green; begin_upload; switch green; stop blue; end_upload",
        "200 green",
    ),
    "upload that began before the test of a release, serving slot down": (
        "begin_upload; isolate green; start green; stop blue; end_upload",
        "503",
    ),
    "upload after a failed request to the backup": (
        "isolate green; start green; stop blue; ask; begin_upload; switch green; end_upload",
        "503 200 green",
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_only_an_accepted_release_is_the_backup_of_a_slot_that_is_down(rendered_cases, check, scenario):
    steps, expected = SCENARIOS[scenario]
    assert run_scenario(rendered_cases, check, steps) == expected.split()
