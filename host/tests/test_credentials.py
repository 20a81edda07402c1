"""The secrets of a release, and their rotation."""

import json
import os
import re
from pathlib import Path

import pytest
from fakes import NEW, OLD, SECRETS, fits, former_keys

from slipway.database import OWNERS, scram_verifier
from slipway.release import put_into_service, release
from slipway.settings import Settings
from slipway.shell import Failure


def test_release_gives_the_database_verifiers_and_no_passwords(stack, engine):
    kept = scram_verifier("value of db_app_password")
    engine.verifiers = f"postgres|\nblog_app_blue|{kept}\nblog_app|\n"
    release(stack, NEW, "", "", "anna")
    assert engine.endings == ["COMMIT", "COMMIT"]
    during, after = engine.variables
    assert fits(during["postgres_verifier"], "value of db_superuser_password")
    assert fits(during["blog_migrator_verifier"], "value of db_migrator_password")
    assert during["blog_app_blue"] == f"LOGIN PASSWORD ''{kept}''", "what serves is left as it is"
    assert fits(during["blog_app_green"], "value of db_app_password")
    assert after["blog_app_blue"] == "NOLOGIN PASSWORD NULL"
    assert fits(after["blog_app_green"], "value of db_app_password")


@pytest.mark.parametrize("left", [b"", b"\n", bytes(40), b"too short", b"two lines\nof it", b"\xff" * 40])
@pytest.mark.parametrize("command", [["release", "--in-unit", OLD], ["rotate", "--in-unit", "key"]])
def test_secret_that_is_damaged_is_named_with_the_way_out_and_not_put_into_service(
    main, stack, engine, capsys, left, command
):
    file = Path(stack.config["secrets"]) / "app_secret_key"
    whole = file.read_text()
    file.write_bytes(left)
    assert main(*command) == 1
    assert f"slipway: {file} is empty or damaged" in capsys.readouterr().err
    assert (engine.images, stack.slot_secret("blue", "app_secret_key")) == ({"blue": OLD}, whole)

    # The way out: site.yml makes another, and releases what serves with it.
    file.write_text("made anew by site.yml")
    assert main("release", "--in-unit", OLD) == 0
    assert (stack.slot_secret("green", "app_secret_key"), former_keys(stack)) == (file.read_text(), whole)


@pytest.mark.parametrize("name", ["db_app_password", "app_secret_key"])
def test_secret_that_changes_is_released_with_the_image_that_serves(stack, engine, change, name):
    change(name)
    assert stack.slot_secret("blue", name) == f"value of {name}", "what serves keeps its own"
    entry = release(stack, OLD, "", "", "anna")
    assert (entry["slot"], name in entry["secrets"]) == ("green", True)
    assert stack.slot_secret("green", name) == f"another value of {name}"
    assert not (stack.in_service / "blue").exists()
    assert release(stack, OLD, "", "", "anna") is None


def test_commands_of_a_release_read_the_new_slot_s_secrets(stack, engine):
    engine.plan |= {"pending": ["0002"]}
    release(stack, NEW, "", "", "anna")
    assert engine.readers == {"green"}


def test_old_login_is_valid_until_its_slot_has_gone(stack, engine, change):
    change("db_app_password")
    release(stack, OLD, "", "", "anna")
    during, after = engine.variables
    assert fits(during["blog_app_blue"], "value of db_app_password")
    assert fits(during["blog_app_green"], "another value of db_app_password")
    assert engine.events[-1] == "remove blue while green serves"
    assert after["blog_app_blue"] == "NOLOGIN PASSWORD NULL"


def test_new_login_that_does_not_work_leaves_the_old_one(stack, engine, change):
    change("db_app_password")
    engine.wrong["ready"] = 503
    with pytest.raises(Failure, match="The blue slot serves as before"):
        release(stack, OLD, "", "", "anna")
    after = engine.variables[-1]
    assert fits(after["blog_app_blue"], "value of db_app_password")
    assert after["blog_app_green"] == "NOLOGIN PASSWORD NULL"
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == ["blue"]

    engine.wrong.clear()
    assert release(stack, OLD, "", "", "anna")["slot"] == "green"
    assert stack.slot_secret("green", "db_app_password") == "another value of db_app_password"


def test_key_is_believed_until_the_next_one_goes(stack, engine, change):
    assert former_keys(stack) == ""
    change("app_secret_key")
    release(stack, OLD, "", "", "anna")
    assert former_keys(stack) == "value of app_secret_key"
    release(stack, NEW, "", "", "anna")
    assert former_keys(stack) == "value of app_secret_key", "a release of another image keeps it"
    (stack.directory.parent / "secrets/app_secret_key").write_text("third value of app_secret_key")
    release(stack, NEW, "", "", "anna")
    assert former_keys(stack) == "another value of app_secret_key"


def test_key_that_leaked_is_not_believed(stack, engine, change):
    change("app_secret_key")
    stack.forget_flag.touch()
    release(stack, OLD, "", "", "anna")
    assert former_keys(stack) == ""


def test_directory_that_the_engine_made_is_closed_to_others(stack, engine):
    stack.in_service.chmod(0o755)
    release(stack, NEW, "", "", "anna")
    assert oct(stack.in_service.stat().st_mode & 0o777) == "0o700"


def test_slot_s_secrets_are_for_the_blog_alone(stack, engine):
    directory = stack.in_service / "blue"
    assert oct(stack.in_service.stat().st_mode & 0o777) == "0o700"
    assert oct(directory.stat().st_mode & 0o777) == "0o500"
    files = sorted(directory.iterdir())
    assert [file.name for file in files] == ["app_secret_key", "app_secret_key_fallbacks", "db_app_password"]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o400"}
    if os.geteuid() == 0:
        assert {path.stat().st_uid for path in (directory, *files)} == {Settings().blog_uid}


def test_slot_without_its_secrets_is_replaced_and_its_login_left_alone(stack, engine):
    (stack.in_service / "blue/db_app_password").unlink()
    assert release(stack, OLD, "", "", "anna")["slot"] == "green"
    assert engine.variables[0]["blog_app_blue"] == ""


def test_admin_s_password_is_set_when_its_file_changes_and_only_then(stack, engine, change):
    assert put_into_service(stack, OLD, "", "", "anna") == (False, None)
    change("admin_password")
    assert put_into_service(stack, OLD, "", "", "anna") == (True, None)
    assert put_into_service(stack, OLD, "", "", "anna") == (False, None)
    assert engine.events == ["set-password while blue serves"]


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
def test_rotation_makes_new_values_and_puts_them_into_service(
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
    assert (entry["by"], entry["outcome"]) == ("anna", "in service" if released else "rotated")
    assert (tmp_path / "told").read_text() == f"{entry['id']} {entry['outcome']}\n"
    assert set(names) <= set(entry["secrets"])

    told = capsys.readouterr().out
    assert json.loads(told.splitlines()[-1])["changed"] is True
    assert [name for name, value in (before | after).items() if value in told] == []


def test_rotation_takes_what_the_vault_gives(main, engine, stack, change, values):
    change("app_secret_key")
    assert main("rotate", "--in-unit", "--given=app_secret_key", "key") == 0
    assert values()["app_secret_key"] == "another value of app_secret_key"
    assert stack.slot_secret("green", "app_secret_key") == "another value of app_secret_key"
    assert former_keys(stack) == "value of app_secret_key"


def test_rotation_that_is_only_asked_about_changes_nothing(main, engine, stack, change, values, capsys):
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
    assert (engine.events, engine.endings, values()) == ([], [], before)


def test_rotation_that_fails_leaves_the_old_values_serving_and_goes_on_later(
    main, engine, stack, values, capsys
):
    engine.wrong["smoke"] = 500
    old = stack.slot_secret("blue", "db_app_password")
    assert main("rotate", "--in-unit", "all") == 1
    told = capsys.readouterr().err
    assert "The blue slot serves as before." in told
    assert "The new secrets wait in their files" in told
    assert (stack.slot_images(), stack.slot_secret("blue", "db_app_password")) == ({"blue": OLD}, old)
    assert "set-password while blue serves" not in engine.events
    assert [entry["outcome"] for entry in stack.ledger.entries()] == ["failed"]

    engine.wrong.clear()
    assert main("release", "--in-unit", OLD) == 0
    assert stack.slot_secret("green", "db_app_password") == values()["db_app_password"] != old
    assert engine.events[-1] == "set-password while green serves"


def test_key_that_leaked_is_forgotten_by_whatever_ends_its_service(main, engine, stack):
    engine.wrong["smoke"] = 500
    assert main("rotate", "--in-unit", "--forget", "key") == 1
    engine.wrong.clear()
    assert main("release", "--in-unit", OLD) == 0
    assert former_keys(stack) == ""
    assert main("rotate", "--in-unit", "key") == 0
    assert former_keys(stack) != "", "the next rotation forgets nothing"


def test_forgetting_is_for_keys(main, engine, values, capsys):
    before = values()
    assert main("rotate", "--in-unit", "--forget", "database") == 1
    assert "rotate `key` with it" in capsys.readouterr().err
    assert values() == before


def test_rotation_needs_a_release(main, stack, engine, capsys):
    stack.set_slots({})
    engine.images.clear()
    assert main("rotate", "all") == 1
    assert "run the playbook deploy.yml first" in capsys.readouterr().err
