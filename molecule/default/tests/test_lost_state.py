"""Slipway repairs a lost or broken slots.env, or a lost slot flag. No request fails meanwhile."""

import json

import pytest

SLOTS = "/var/lib/slipway/slots.env"
FLAG = "/var/lib/slipway/slot/green"


@pytest.fixture
def serving_slot(load, request, slot, inspect, assert_consistent):
    """Run the load during a test. Assert that no request fails, and that the same container serves."""
    serving = slot()
    before = inspect()[f"flask_blog_{serving}"]
    with load.step(request.node.name) as step:
        yield serving
    assert step.failures == []
    assert step.requests > 20
    after = inspect()[f"flask_blog_{serving}"]
    assert after["Id"] == before["Id"]
    assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert_consistent(serving)


@pytest.mark.parametrize(
    "content",
    [
        "",
        *(
            pytest.param(content, marks=pytest.mark.drill)
            for content in ("[{ 'broken", "COMPOSE_PROFILES=blue,green\n")
        ),
    ],
)
def test_broken_slots_env_is_reported_and_site_yml_writes_it_anew(
    serving_slot, host, deploy, in_service, content
):
    host.check_output("printf %%s %s > %s", content, SLOTS)
    for command in ("status", "rotate all", f"release {in_service['image']}"):
        done = host.run(f"slipway {command}")
        assert done.rc == 1
        assert f"{SLOTS} is broken" in done.stdout + done.stderr
        assert "Remove it and run site.yml" in done.stdout + done.stderr
    host.check_output("rm %s", SLOTS)
    done = deploy("site.yml")
    assert done.status == 0, done.output
    assert host.file(SLOTS).exists


@pytest.mark.parametrize("state", ["lost", "of the other slot"])
def test_release_of_the_image_in_service_repairs_slots_env(serving_slot, host, in_service, status, state):
    other = "blue" if serving_slot == "green" else "green"
    host.check_output("mv %s %s.kept", SLOTS, SLOTS)
    if state != "lost":
        content = f"COMPOSE_PROFILES={other}\\n{other.upper()}_IMAGE={in_service['image']}\\n"
        host.check_output(f"printf '{content}' > {SLOTS}")
    said = "slots.env is missing" if state == "lost" else f"slots.env lists {other}"
    assert status()["drift"] == [f"{said}, but the {serving_slot} slot serves: run site.yml."]
    told = host.check_output("slipway release --json %s", in_service["image"]).splitlines()[-1]
    assert json.loads(told)["changed"] is True
    assert host.check_output("cat %s", SLOTS) == host.check_output("cat %s.kept && rm %s.kept", SLOTS, SLOTS)


def test_container_that_a_killed_run_left_is_reported_and_removed(serving_slot, host, in_service, status):
    other = "blue" if serving_slot == "green" else "green"
    # Only create the container, because it cannot start without its secrets.
    host.check_output(
        f"cd /opt/slipway && {other.upper()}_IMAGE={in_service['image']} "
        f"docker compose --profile {other} create flask_blog_{other}"
    )
    assert status()["drift"] == [
        f"The {other} slot has a container (created), but the {serving_slot} slot serves: run site.yml."
    ]
    told = host.check_output("slipway release --json %s", in_service["image"]).splitlines()[-1]
    assert json.loads(told)["changed"] is True


@pytest.mark.drill
def test_release_restores_a_lost_flag_before_it_changes_slots(
    host, load, slot, docker, inspect, in_service, variant, status, assert_consistent
):
    """Readers notice nothing: if the slot that the flag selects is down, nginx uses the other slot."""

    def lose():
        host.check_output("rm %s" if serving == "green" else "touch %s", FLAG)

    serving, image = slot(), variant()
    other = "blue" if serving == "green" else "green"
    with load.step("the flag is lost") as step:
        lose()
        assert status()["drift"] == [
            f"nginx sends readers to the {other} slot, but only the {serving} slot runs: run site.yml, or "
            f"`slipway release {in_service['image']}`."
        ]
        told = host.check_output("slipway release --json %s", in_service["image"]).splitlines()[-1]
        assert json.loads(told)["changed"] is True
        assert_consistent(serving)

        lose()
        before, since = inspect()[f"flask_blog_{serving}"]["Id"], host.check_output("date +%s")
        host.check_output("slipway release %s", image)
        new = inspect()[f"flask_blog_{other}"]["Id"]
        what = "--filter type=container --filter event=start --filter event=die"
        told = docker(
            f"events --since {since} --until $(($(date +%%s) + 1)) {what} --format %s",
            "{{.Action}} {{.Actor.ID}}",
        )
        events = [line for line in told.splitlines() if line.split()[1] in (before, new)]
        assert events == [f"start {new}", f"die {before}"]
        assert_consistent(other)
        host.check_output("slipway release %s", in_service["image"])
        assert_consistent(serving)
    assert step.failures == []
