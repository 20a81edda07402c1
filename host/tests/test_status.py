"""What is told to be out of harmony."""

from fakes import NEW, OLD, THIRD

from slipway.status import drift


def test_slot_that_is_not_to_run_is_no_harmony(stack, engine, released):
    current = stack.ledger.current()
    slot, other = stack.active(), stack.idle()
    assert drift(stack, current) == []
    stack.set_slots({})
    assert drift(stack, current) == [f"slots.env is missing, and {slot} serves: run site.yml."]
    stack.set_slots({other: THIRD})
    assert drift(stack, current) == [f"slots.env lists {other}, and {slot} serves: run site.yml."]
    stack.set_slots({slot: OLD})
    assert drift(stack, current) == [
        f"slots.env has {OLD} for the {slot} slot, which runs {THIRD}: run site.yml."
    ]
    stack.set_slots({slot: THIRD})
    for state in ("running", "exited"):
        engine.images[other], engine.states = NEW, {other: state}
        assert drift(stack, current) == [
            f"The {other} slot has a container ({state}), and {slot} serves: run site.yml."
        ]
    del engine.images[other]
    stack.switch(other)
    assert drift(stack, current) == [
        f"Readers are sent to the {other} slot, and only {slot} runs: run site.yml, "
        f"or `slipway release {THIRD}`."
    ]
    stack.switch(slot)
    engine.images.clear()
    assert drift(stack, current) == [f"No slot has a container: `slipway release {THIRD}`."]


def test_container_of_which_the_ledger_knows_nothing_is_no_harmony(stack, engine):
    assert drift(stack, None) == [
        f"The blue slot runs {OLD}, and the ledger has no release: put back what it was, "
        f"as {stack.ledger.former}, or the next release is its first."
    ]
