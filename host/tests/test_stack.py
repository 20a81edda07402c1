"""The slot in service, for each state of the host."""

import pytest
from fakes import NEW, OLD

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
