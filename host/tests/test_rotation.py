"""Rotations of secrets."""

import json
import re
from pathlib import Path

import pytest
from fakes import OLD, SECRETS, former_keys

from slipway.database import OWNERS, scram_verifier


@pytest.mark.parametrize(
    ("what", "names"),
    [
        (["database"], SECRETS[:3]),
        (["key"], ["app_secret_key"]),
        (["admin"], ["admin_password"]),
        (["admin", "key"], ["app_secret_key", "admin_password"]),
        (["all"], SECRETS),
    ],
)
def test_rotation_generates_new_values_and_puts_them_into_service(
    main, engine, stack, values, capsys, hook, tmp_path, what, names
):
    before = values()
    stack.config["hooks"] = {"after": hook(f"echo $SLIPWAY_RELEASE $SLIPWAY_OUTCOME >> {tmp_path}/told")}
    assert main("rotate", "--in-unit", "--json", "--by=anna", *what) == 0
    after = values()
    assert [name for name in SECRETS if after[name] != before[name]] == names
    assert all(re.fullmatch("[A-Za-z0-9]{40}", after[name]) for name in names)
    assert stack.slot_secret(stack.active(), "db_app_password") == after["db_app_password"]
    assert (stack.in_service / "admin_password").read_text() == after["admin_password"]
    released = what != ["admin"]
    assert engine.images == stack.slot_images() == ({"green": OLD} if released else {"blue": OLD})
    [entry] = stack.ledger.entries()
    assert entry.by == "anna"
    assert entry.outcome == ("in service" if released else "rotated")
    assert (tmp_path / "told").read_text() == f"{entry.id} {entry.outcome}\n"
    assert set(names) <= set(entry.secrets)

    told = capsys.readouterr().out
    assert json.loads(told.splitlines()[-1])["changed"] is True
    assert [name for name, value in (before | after).items() if value in told] == []


def test_rotation_uses_a_value_from_the_vault(main, engine, stack, change, values):
    change("app_secret_key")
    assert main("rotate", "--in-unit", "--given=app_secret_key", "key") == 0
    assert values()["app_secret_key"] == "another value of app_secret_key"
    assert stack.slot_secret("green", "app_secret_key") == "another value of app_secret_key"
    assert former_keys(stack) == "value of app_secret_key"


def test_rotation_with_an_unknown_secret_is_refused(main, engine, values, capsys):
    before = values()
    assert main("rotate", "--in-unit", "--given=app_secret_kez", "key") == 1
    assert "There is no secret app_secret_kez on this host. Nothing was changed." in capsys.readouterr().err
    assert values() == before


def test_rotation_check_changes_nothing(main, engine, stack, change, values, capsys):
    engine.verifiers = "".join(
        f"{role}|{scram_verifier(stack.secret(name))}\n" for role, name in OWNERS.items()
    )
    assert main("rotate", "--check", "--json", "database") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True, "secrets": SECRETS[:3], "waiting": []}
    for name in SECRETS:
        change(name)
    before = values()
    assert main("rotate", "--check", "--json", "all") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True, "secrets": SECRETS, "waiting": SECRETS}
    assert engine.events == []
    assert engine.endings == []
    assert values() == before


def test_failed_rotation_keeps_the_old_values_in_service_and_the_next_release_finishes_it(
    main, engine, stack, values, capsys
):
    engine.wrong["smoke"] = 500
    old = stack.slot_secret("blue", "db_app_password")
    assert main("rotate", "--in-unit", "all") == 1
    told = capsys.readouterr().err
    assert "The blue slot serves as before." in told
    assert "The new secrets stay in their files" in told
    assert stack.slot_images() == {"blue": OLD}
    assert stack.slot_secret("blue", "db_app_password") == old
    assert "set-password while blue serves" not in engine.events
    assert [entry.outcome for entry in stack.ledger.entries()] == ["failed"]

    engine.wrong.clear()
    assert main("release", "--in-unit", OLD) == 0
    assert stack.slot_secret("green", "db_app_password") == values()["db_app_password"] != old
    assert engine.events[-1] == "set-password while green serves"


def test_next_release_drops_a_leaked_key_after_a_failed_rotation(main, engine, stack):
    engine.wrong["smoke"] = 500
    assert main("rotate", "--in-unit", "--forget", "key") == 1
    engine.wrong.clear()
    assert main("release", "--in-unit", OLD) == 0
    assert former_keys(stack) == ""
    assert main("rotate", "--in-unit", "key") == 0
    assert former_keys(stack) != "", "the next rotation must keep the former key"


def test_forget_requires_the_rotation_of_the_key(main, engine, values, capsys):
    before = values()
    assert main("rotate", "--in-unit", "--forget", "database") == 1
    assert "rotate `key` too" in capsys.readouterr().err
    assert values() == before


def test_rotation_requires_a_release(main, stack, engine, capsys):
    stack.set_slots({})
    engine.images.clear()
    assert main("rotate", "all") == 1
    assert "run the playbook deploy.yml first" in capsys.readouterr().err


def test_rotation_with_a_missing_secret_changes_no_other(main, stack, engine, values, capsys):
    before = values()
    path = Path(stack.config["secrets"]) / "admin_password"
    path.unlink()
    assert main("rotate", "--in-unit", "all") == 1
    assert f"The secret {path} is missing" in capsys.readouterr().err
    path.write_text(before["admin_password"])
    assert values() == before
