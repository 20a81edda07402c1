"""The stage of a release in which the blog stores pictures of former releases in its database."""

import json

import pytest
from fakes import NEW, OLD, Killed

from slipway.release import put_into_service, release
from slipway.shell import CommandFailure, Failure

NAMES = [f"{number:024}-1x1.png" for number in range(12)]
NO_COMMAND = "Usage: flask [OPTIONS] COMMAND [ARGS]...\n\nError: No such command 'media'.\n"


def adopted(**found):
    return json.dumps({"changed": True, "adopted": 3, "missing": [], "damaged": []} | found)


def sentences(capsys):
    """Return what the release printed about pictures, without the times of the stages."""
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if "icture" in line and not line.startswith("pictures ")]


def test_pictures_are_adopted_after_the_old_slot_was_removed(stack, engine, capsys):
    release(stack, NEW, "", "", "anna")
    assert engine.events[-2:] == ["remove blue while green serves", "pictures"]
    assert sentences(capsys) == []


def test_pictures_are_adopted_with_the_login_of_the_new_slot(stack, engine):
    engine.readers.clear()
    release(stack, NEW, "", "", "anna")
    assert engine.readers == {"green"}


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("missing", "Pictures without a file, which readers cannot see"),
        ("damaged", "Pictures with a damaged"),
    ],
)
def test_pictures_that_cannot_be_adopted_are_named(stack, engine, capsys, key, told):
    engine.adopt_output = adopted(**{key: NAMES[:2]})
    release(stack, NEW, "", "", "anna")
    [sentence] = sentences(capsys)
    assert sentence.startswith(told)
    assert f": {NAMES[0]}, {NAMES[1]}. " in sentence


def test_only_the_first_pictures_that_cannot_be_adopted_are_named(stack, engine, capsys):
    engine.adopt_output = adopted(missing=NAMES)
    release(stack, NEW, "", "", "anna")
    assert f", {NAMES[9]} and 2 more." in sentences(capsys)[0]


def test_names_of_pictures_cannot_control_the_terminal(stack, engine, capsys):
    engine.adopt_output = adopted(missing=["\x1b[2J"])
    release(stack, NEW, "", "", "anna")
    assert ": \\x1b[2J." in sentences(capsys)[0]


def test_image_without_the_command_is_released_without_a_word_about_pictures(stack, engine, capsys):
    engine.wrong["pictures"] = CommandFailure(["docker"], 2, NO_COMMAND)
    assert release(stack, OLD, "", "", "anna") is None
    assert release(stack, NEW, "", "", "anna").outcome == "in service"
    assert sentences(capsys) == []


@pytest.mark.parametrize(
    "wrong",
    [CommandFailure(["docker"], 1, "Error: the database refused"), OSError(28, "No space left on device")],
)
def test_failed_adoption_of_pictures_does_not_fail_the_release(stack, engine, capsys, wrong):
    engine.wrong["pictures"] = wrong
    assert release(stack, NEW, "", "", "anna").outcome == "in service"
    assert "could not be stored in the database" in sentences(capsys)[0]


@pytest.mark.parametrize("output", ["", "[]", '{"missing": 1}'])
def test_senseless_answer_about_pictures_does_not_fail_the_release(stack, engine, capsys, output):
    engine.adopt_output = output
    assert release(stack, NEW, "", "", "anna").outcome == "in service"
    assert "could not be stored in the database" in sentences(capsys)[0]


def test_release_that_is_killed_while_pictures_are_adopted_stays_in_service(stack, engine):
    engine.wrong["pictures"] = Killed()
    with pytest.raises(Killed):
        release(stack, NEW, "", "", "anna")
    assert put_into_service(stack, NEW, "", "", "anna") == (False, None)


def test_next_release_adopts_pictures_that_a_failed_one_left(stack, engine, capsys):
    engine.wrong["pictures"] = Failure("the engine failed")
    release(stack, NEW, "", "", "anna")
    del engine.wrong["pictures"]
    release(stack, OLD, "", "", "anna")
    assert engine.events.count("pictures") == 2
