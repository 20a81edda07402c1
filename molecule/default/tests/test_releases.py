"""Releases, seen from readers, who notice none of them. Those that fail are in test_failures.py."""

import json
import re

import pytest
from outside import Prober


@pytest.fixture
def other_image(host, docker, containers):
    """The id of an image that is the blog's in all but a label."""
    source = containers["flask_blog"]["Image"]
    docker("tag %s slipway.test/blog:source", source)
    # Another image each time: one that was rolled back is held.
    build = "docker build --quiet --label slipway.test=$(date +%s%N) -"
    image = host.check_output(f"echo FROM slipway.test/blog:source | {build}")
    yield image
    docker("rmi slipway.test/blog:source %s", image)


def test_ledger_knows_what_serves(in_service, containers, inspect, slot):
    assert in_service["image"] == containers["flask_blog"]["Image"]
    assert in_service["slot"] == slot()
    assert f"flask_blog_{slot()}" in inspect()


def test_release_of_what_serves_is_nothing_to_do(host, ledger, inspect, containers):
    before, entries = {s: c["Id"] for s, c in inspect().items()}, ledger()
    told = host.check_output("slipway release --json %s", containers["flask_blog"]["Image"])
    assert json.loads(told.splitlines()[-1]) == {"changed": False}
    assert ({s: c["Id"] for s, c in inspect().items()}, ledger()) == (before, entries)


def test_prober_can_report_a_failure(reader):
    with Prober(reader, path="/nosuch") as prober:
        pass
    assert prober.answered == 0
    assert set(prober.failures) == {"status 404"}


def test_image_that_is_not_there_is_named(host, ledger, inspect):
    before = {s: c["Id"] for s, c in inspect().items()}
    done = host.run("slipway release %s", f"sha256:{'0' * 64}")
    assert done.rc == 1
    assert "No such image" in done.stdout + done.stderr
    assert {s: c["Id"] for s, c in inspect().items()} == before
    assert ledger()[-1]["outcome"] == "failed"


def test_releases_are_not_noticed(host, ledger, healthy, containers, reader, slot, other_image):
    """There, by the program; and back, by it too: each takes the slot that the other left."""
    images, slots = [other_image, containers["flask_blog"]["Image"]], [slot()]
    nginx = containers["nginx"]["State"]["StartedAt"]
    with Prober(reader) as prober:
        for image in images:
            told = host.check_output("slipway release --by=anna --version=1.2 %s", image)
            assert re.search(r"^Release \d{8}T\d{6}Z is in service in the \w+ slot\.$", told, re.MULTILINE)
            slots.append(slot())
    assert (prober.failures, prober.answered > 100) == ([], True)
    assert slots in (["blue", "green", "blue"], ["green", "blue", "green"])

    now = healthy()
    assert now[f"flask_blog_{slots[-1]}"]["Image"] == images[-1]
    assert now["nginx"]["State"]["StartedAt"] == nginx
    assert [(e["image"], e["outcome"], e["by"], e["version"]) for e in ledger()[-2:]] == [
        (image, "in service", "anna", "1.2") for image in images
    ]
