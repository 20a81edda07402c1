"""No request fails during releases and rollbacks. test_failures.py tests releases that fail."""

import contextlib
import functools
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor, wait
from urllib.parse import urlencode

import pytest
from load import WRITE
from outside import Prober


@pytest.fixture(scope="session")
def times(pytestconfig):
    """How often to release another image and then the old one."""
    return 10 if pytestconfig.getoption("soak") else 1


@pytest.fixture
def upload(load, reader, sql):
    """Send a post slowly while `meanwhile` runs. Assert that the blog saves it; return meanwhile's result.

    nginx chooses the slot when it has the header, and connects to this slot when it has the whole body.
    """
    numbers = itertools.count()

    def upload(meanwhile):
        plan = load.plan
        title = f"{plan['name']}-upload-{next(numbers)}"
        form = {"title": title, "body": "From afar.", "status": "draft", "csrf_token": plan["token"]}
        body = urlencode(form).encode()

        def slowly():
            rest = iter(body)
            while not done.done():
                yield bytes([next(rest)])
                wait([done], timeout=1)
            yield bytes(rest)

        with ThreadPoolExecutor() as pool, contextlib.closing(reader()) as author:
            done = pool.submit(meanwhile)
            answer = author.request(
                WRITE,
                "POST",
                slowly(),
                Cookie=plan["cookie"],
                Referer=f"{plan['base_url']}{WRITE}",
                Content_Type="application/x-www-form-urlencoded",
                Content_Length=str(len(body)),
            )
        found = sql(f"SELECT count(*) FROM post WHERE title = '{title}'")
        assert answer.status == 303
        assert found == [("1",)]
        return done.result()

    return upload


def test_ledger_names_the_image_and_the_slot_in_service(in_service, containers, inspect, slot):
    assert in_service["image"] == containers["flask_blog"]["Image"]
    assert in_service["slot"] == slot()
    assert f"flask_blog_{slot()}" in inspect()


def test_release_of_the_image_in_service_changes_nothing(host, ledger, inspect, containers):
    before, entries = {s: c["Id"] for s, c in inspect().items()}, ledger()
    told = host.check_output("slipway release --json %s", containers["flask_blog"]["Image"])
    answer = json.loads(told.splitlines()[-1])
    assert answer["changed"] is False
    assert answer["message"].startswith("Nothing to release: ")
    assert {s: c["Id"] for s, c in inspect().items()} == before
    assert ledger() == entries


def test_prober_reports_failures(reader):
    with Prober(reader, path="/nosuch") as prober:
        pass
    assert prober.answered == 0
    assert set(prober.failures) == {"status 404"}


def test_no_request_fails_during_releases(host, variant, load, upload, ledger, healthy, inspect, slot, times):
    """Release another image and then the old one again, each into the idle slot.

    During each release an author sends a post. nginx chooses the old slot for the post, but this slot is gone
    when the post is complete.
    """

    def release(image):
        told = host.check_output("slipway release --by=anna --version=1.2 %s", image)
        assert f"flask_blog_{slots[-1]}" not in inspect()
        return told

    before, slots = inspect(), [slot()]
    source = before[f"flask_blog_{slots[0]}"]["Image"]
    for number in range(times):
        for image, where in ((variant(), "there"), (source, "and back")):
            with load.step(f"release {where}, {number + 1}") as step:
                told = upload(functools.partial(release, image))
            assert step.failures == []
            assert step.requests > 100
            assert re.search(r"^Release \d{8}T\d{6}Z is in service in the \w+ slot\.$", told, re.MULTILINE)
            entry = ledger()[-1]
            assert entry["image"] == image
            assert entry["outcome"] == "in service"
            assert entry["by"] == "anna"
            assert entry["version"] == "1.2"
            slots.append(slot())
            assert healthy()[f"flask_blog_{slots[-1]}"]["Image"] == image
    assert slots in (["blue", "green"] * times + ["blue"], ["green", "blue"] * times + ["green"])
    assert inspect()["nginx"]["State"]["StartedAt"] == before["nginx"]["State"]["StartedAt"]


@pytest.mark.soak
def test_no_request_fails_during_rollbacks(host, load, ledger, healthy, slot):
    """Roll back to the previous release. Then unblock the other release, and release its image again."""
    for number in range(5):
        serving, before = ledger()[-1], ledger()[-2]
        with load.step(f"rollback {number + 1}") as step:
            host.check_output("slipway rollback")
        assert step.failures == []
        assert step.requests > 100
        back = ledger()[-1]
        assert back["image"] == before["image"]
        assert back["instead_of"] == serving["id"]
        assert healthy()[f"flask_blog_{slot()}"]["Image"] == before["image"]

        with load.step(f"blocked release {number + 1}, by its name") as step:
            host.check_output("slipway release --unblock=%s %s", serving["id"], serving["image"])
        assert step.failures == []
        assert ledger()[-1]["image"] == serving["image"]


@pytest.mark.soak
def test_rollback_without_a_name_finds_the_release_that_served_before(host, variant, ledger, in_service):
    """An operator goes back twice, forward to the newest release by its name, and back again."""
    images = [in_service["image"], variant(), variant()]
    for image in images[1:]:
        host.check_output("slipway release %s", image)
    served = []
    for name in ("", "", ledger()[-1]["id"], ""):
        host.check_output(f"slipway rollback {name}")
        served.append(images.index(ledger()[-1]["image"]))
    assert served == [1, 0, 2, 0]
    newest = {entry["image"]: entry for entry in ledger()}
    assert ["blocked" in newest[image] for image in images] == [False, True, True]


def test_images_of_old_releases_are_removed(docker, ledger, variables):
    """Of the images that were in service, the host keeps only the latest ones, to save disk space."""
    images = list(
        dict.fromkeys(entry["image"] for entry in reversed(ledger()) if entry["outcome"] != "failed")
    )
    here = set(docker("image ls --no-trunc --quiet --all").split())
    assert here & set(images) <= set(images[: variables["release_keep"] + 1])
