"""The secrets of a release, and their rotation."""

import os
import shutil
from pathlib import Path

import pytest
from fakes import NEW, OLD, fits, former_keys

from slipway.database import scram_verifier
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
    assert during["blog_app_blue"] == f"LOGIN PASSWORD ''{kept}''", "the login in use is unchanged"
    assert fits(during["blog_app_green"], "value of db_app_password")
    assert after["blog_app_blue"] == "NOLOGIN PASSWORD NULL"
    assert fits(after["blog_app_green"], "value of db_app_password")


@pytest.mark.parametrize("left", [b"", b"\n", bytes(40), b"too short", b"two lines\nof it", b"\xff" * 40])
@pytest.mark.parametrize("command", [["release", "--in-unit", OLD], ["rotate", "--in-unit", "key"]])
def test_damaged_secret_is_reported_with_a_remedy_and_not_put_into_service(
    main, stack, engine, capsys, left, command
):
    file = Path(stack.config["secrets"]) / "app_secret_key"
    whole = file.read_text()
    file.write_bytes(left)
    assert main(*command) == 1
    assert f"slipway: {file} is empty or damaged" in capsys.readouterr().err
    assert engine.images == {"blue": OLD}
    assert stack.slot_secret("blue", "app_secret_key") == whole

    # The remedy: site.yml makes a new secret, and releases the image in service with it.
    file.write_text("created by site.yml")
    assert main("release", "--in-unit", OLD) == 0
    assert stack.slot_secret("green", "app_secret_key") == file.read_text()
    assert former_keys(stack) == whole


@pytest.mark.parametrize("name", ["db_app_password", "app_secret_key"])
def test_changed_secret_is_released_with_the_image_in_service(stack, engine, change, name):
    change(name)
    assert stack.slot_secret("blue", name) == f"value of {name}", "the slot in service keeps its copy"
    entry = release(stack, OLD, "", "", "anna")
    assert entry.slot == "green"
    assert name in entry.secrets
    assert stack.slot_secret("green", name) == f"another value of {name}"
    assert not (stack.in_service / "blue").exists()
    assert release(stack, OLD, "", "", "anna") is None


def test_commands_of_a_release_read_the_new_slot_s_secrets(stack, engine):
    engine.plan |= {"pending": ["0002"]}
    release(stack, NEW, "", "", "anna")
    assert engine.readers == {"green"}


def test_old_login_stays_valid_until_its_slot_is_removed(stack, engine, change):
    change("db_app_password")
    release(stack, OLD, "", "", "anna")
    during, after = engine.variables
    assert fits(during["blog_app_blue"], "value of db_app_password")
    assert fits(during["blog_app_green"], "another value of db_app_password")
    assert engine.events[-2:] == ["remove blue while green serves", "pictures"]
    assert after["blog_app_blue"] == "NOLOGIN PASSWORD NULL"


def test_failed_release_keeps_the_old_login(stack, engine, change):
    change("db_app_password")
    engine.wrong["ready"] = 503
    with pytest.raises(Failure, match="The blue slot serves as before"):
        release(stack, OLD, "", "", "anna")
    after = engine.variables[-1]
    assert fits(after["blog_app_blue"], "value of db_app_password")
    assert after["blog_app_green"] == "NOLOGIN PASSWORD NULL"
    assert [path.name for path in stack.in_service.iterdir() if path.is_dir()] == ["blue"]

    engine.wrong.clear()
    assert release(stack, OLD, "", "", "anna").slot == "green"
    assert stack.slot_secret("green", "db_app_password") == "another value of db_app_password"


def test_former_key_stays_valid_until_the_next_rotation(stack, engine, change):
    assert former_keys(stack) == ""
    change("app_secret_key")
    release(stack, OLD, "", "", "anna")
    assert former_keys(stack) == "value of app_secret_key"
    release(stack, NEW, "", "", "anna")
    assert former_keys(stack) == "value of app_secret_key", "another image keeps the key"
    (stack.directory.parent / "secrets/app_secret_key").write_text("third value of app_secret_key")
    release(stack, NEW, "", "", "anna")
    assert former_keys(stack) == "another value of app_secret_key"


def test_leaked_key_becomes_invalid(stack, engine, change):
    change("app_secret_key")
    stack.forget_flag.touch()
    release(stack, OLD, "", "", "anna")
    assert former_keys(stack) == ""


def test_recovered_host_accepts_sessions_of_the_former_key(stack, engine, change):
    """The backup has the files of the secrets, but not the copies of the slots."""
    change("app_secret_key")
    release(stack, NEW, "", "", "anna")
    former = former_keys(stack)
    assert former
    shutil.rmtree(stack.in_service)
    stack.set_slots({})
    engine.images.clear()
    release(stack, NEW, "", "", "anna")
    assert former_keys(stack) == former


def test_recovered_host_does_not_accept_sessions_of_a_leaked_key(stack, engine, change):
    change("app_secret_key")
    release(stack, NEW, "", "", "anna")
    stack.forget_flag.touch()
    release(stack, OLD, "", "", "anna")
    shutil.rmtree(stack.in_service)
    stack.set_slots({})
    engine.images.clear()
    release(stack, NEW, "", "", "anna")
    assert former_keys(stack) == ""


def test_release_corrects_the_mode_of_a_directory_that_the_engine_created(stack, engine):
    stack.in_service.chmod(0o755)
    release(stack, NEW, "", "", "anna")
    assert oct(stack.in_service.stat().st_mode & 0o777) == "0o700"


def test_only_the_blog_can_read_a_slot_s_secrets(stack, engine):
    directory = stack.in_service / "blue"
    assert oct(stack.in_service.stat().st_mode & 0o777) == "0o700"
    assert oct(directory.stat().st_mode & 0o777) == "0o500"
    files = sorted(directory.iterdir())
    assert [file.name for file in files] == ["app_secret_key", "app_secret_key_fallbacks", "db_app_password"]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o400"}
    if os.geteuid() == 0:
        assert {path.stat().st_uid for path in (directory, *files)} == {Settings().blog_uid}


def test_release_replaces_a_slot_without_secrets_and_keeps_its_login(stack, engine):
    (stack.in_service / "blue/db_app_password").unlink()
    assert release(stack, OLD, "", "", "anna").slot == "green"
    assert engine.variables[0]["blog_app_blue"] == ""


def test_admin_s_password_is_set_only_when_its_file_changes(stack, engine, change):
    assert put_into_service(stack, OLD, "", "", "anna") == (False, None)
    change("admin_password")
    assert put_into_service(stack, OLD, "", "", "anna") == (True, None)
    assert put_into_service(stack, OLD, "", "", "anna") == (False, None)
    assert engine.events == ["set-password while blue serves"]


@pytest.mark.parametrize("name", ["db_app_password", "app_secret_key", "app_secret_key_fallbacks"])
def test_release_replaces_a_slot_with_damaged_secrets(stack, engine, name):
    copy = stack.in_service / "blue" / name
    copy.chmod(0o600)
    copy.write_bytes(b"\xff" * 40)
    assert release(stack, NEW, "", "", "anna").slot == "green"
    assert stack.slot_secret("green", "app_secret_key") == "value of app_secret_key"


def test_damaged_record_of_the_admin_s_password_counts_as_a_change(stack, engine):
    (stack.in_service / "admin_password").chmod(0o600)
    (stack.in_service / "admin_password").write_bytes(b"\xff" * 40)
    assert put_into_service(stack, OLD, "", "", "anna") == (True, None)
    assert engine.events == ["set-password while blue serves"]
