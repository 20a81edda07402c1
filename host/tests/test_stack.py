"""The slot in service, for each state of the host."""

import pytest
from fakes import NEW, OLD, Engine

from slipway.release import release
from slipway.shell import Failure
from slipway.status import drift


@pytest.mark.parametrize("images", [{"blue": OLD}, {"green": NEW}, {"blue": OLD, "green": NEW}])
def test_slots_are_read_as_they_were_written(stack, images):
    stack.set_slots(images)
    assert stack.slot_images() == images
    # Compose reads this line, and starts only these profiles.
    assert f"COMPOSE_PROFILES={','.join(images)}\n" in stack.slots_file.read_text()
    stack.set_slots({})
    assert stack.slot_images() == {}


def test_switch_sends_readers_to_one_slot_and_the_pre_switch_check_to_the_other(stack):
    assert stack.routed() == "blue"
    assert stack.idle() == "green"
    for slot, other in (("green", "blue"), ("green", "blue"), ("blue", "green"), ("blue", "green")):
        stack.switch(slot)
        assert stack.routed() == slot
        assert stack.idle() == other


@pytest.mark.parametrize("declared", [{}, {"blue": OLD}, {"green": OLD}, {"blue": OLD, "green": NEW}])
@pytest.mark.parametrize(
    ("flag", "states", "active"),
    [
        ("blue", {"blue": "running"}, "blue"),
        ("green", {"green": "running"}, "green"),
        # The flag was lost, or is left over.
        ("blue", {"green": "running"}, "green"),
        ("green", {"blue": "running"}, "blue"),
        ("blue", {"blue": "exited", "green": "running"}, "green"),
        # A drain was interrupted.
        ("blue", {"blue": "running", "green": "running"}, "blue"),
        ("green", {"blue": "running", "green": "running"}, "green"),
        ("blue", {"blue": "unhealthy", "green": "running"}, "blue"),
        ("blue", {"blue": "unhealthy"}, "blue"),
        ("blue", {"blue": "exited", "green": "unhealthy"}, "green"),
        # The slots were stopped by hand.
        ("green", {"green": "exited"}, "green"),
        ("blue", {"green": "exited"}, "green"),
        ("green", {"blue": "exited", "green": "exited"}, "green"),
    ],
)
def test_flag_and_containers_determine_the_slot_in_service(stack, engine, flag, states, active, declared):
    engine.images, engine.states = dict.fromkeys(states, OLD), states
    stack.set_slots(declared)
    stack.switch(flag)
    assert stack.active() == active


def test_no_slot_is_active_before_the_first_release(stack, engine):
    engine.images.clear()
    stack.set_slots({})
    assert stack.active() is None
    assert drift(stack, None) == []


def test_slots_env_with_an_unknown_slot_is_reported(stack):
    stack.slots_file.write_text("COMPOSE_PROFILES=purple\nPURPLE_IMAGE=sha256:1\n")
    with pytest.raises(
        Failure, match=r"is broken: it lists purple, which is no slot\. Remove it and run site"
    ):
        stack.slot_images()


def test_container_without_a_hash_of_compose_is_replaced_by_a_release(stack, engine):
    """Such as one that somebody started by hand, with the labels of the project and the service."""
    found = {"blue": engine.inspect("blue") | {"Config": {"Labels": {}}}}
    engine.inspect = lambda slot: found.get(slot) or Engine.inspect(engine, slot)
    assert release(stack, OLD, "", "", "anna").slot == "green"
