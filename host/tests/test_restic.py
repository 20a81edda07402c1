"""Backups of the host's files, with a real restic and a repository in a directory."""

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import NEW

from slipway import restic
from slipway.host import Host, wait_until
from slipway.shell import CommandFailure


@pytest.fixture
def kept(stack, tmp_path):
    """Give the host files, and a repository for them. Return the directory of the files."""
    etc = tmp_path / "kept"
    (etc / "secrets").mkdir(parents=True)
    (etc / "secrets/app_secret_key").write_text("the key")
    (etc / "secrets/app_secret_key").chmod(0o400)
    (etc / "secrets/db_app_password").write_text("the password")
    ledger = tmp_path / "state/releases.json"
    ledger.write_text("[]")
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a passphrase\n")
    kept = (etc, tmp_path / "nowhere")
    stack.host = Host(replace(stack.host.settings, kept=kept, ledger=ledger))
    stack.config["in_service"] = str(etc / "in-service")
    stack.config |= {
        "backup_window_days": 14,
        "backup_files_repository": str(tmp_path / "repository/files"),
        "backup_files_options": [],
        "backup_files_environment": {"RESTIC_PASSWORD_FILE": str(passphrase)},
    }
    return etc


@pytest.fixture
def snapshots(stack):
    """A function that returns the snapshots in the repository."""
    return lambda: json.loads(restic.run(stack.host, stack.config, "snapshots", "--json"))


@pytest.fixture
def lost(stack, kept, tmp_path):
    """Back up the files, and lose them."""
    restic.backup(stack)
    shutil.rmtree(kept)
    (tmp_path / "state/releases.json").unlink()


@contextlib.contextmanager
def other_run(stack):
    """Let another process have a lock of the repository during the block, and then kill the process."""
    repository = stack.config["backup_files_repository"]
    command = ["restic", f"--repo={repository}", "--no-cache", "backup", "--stdin"]
    environment = os.environ | stack.config["backup_files_environment"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        # A lock that is not complete yet has another name.
        assert wait_until(
            lambda: [one for one in Path(repository, "locks").iterdir() if "tmp" not in one.name], 20
        )
        try:
            yield
        finally:
            process.kill()


def interrupt_copy_of(name, run):
    """Return a substitute for Host.run that is interrupted when it copies a file with this name."""

    def interrupted(*command, **options):
        if command[0] == "cp" and command[-2].name == name:
            raise KeyboardInterrupt
        return run(*command, **options)

    return interrupted


def test_backup_is_recorded(stack, kept, snapshots):
    restic.backup(stack)
    assert restic.read_outcome(stack).problem == ""
    assert restic.read_outcome(stack).at != ""
    [found] = snapshots()
    assert str(kept) in found["paths"]
    assert found["hostname"] == "slipway"


@pytest.mark.usefixtures("lost")
def test_files_come_back_with_their_modes(stack, kept, tmp_path):
    assert restic.restore(stack.host, stack.config, [])
    assert (kept / "secrets/app_secret_key").read_text() == "the key"
    assert (kept / "secrets/app_secret_key").stat().st_mode & 0o777 == 0o400
    assert (tmp_path / "state/releases.json").read_text() == "[]"


@pytest.mark.usefixtures("lost")
def test_secret_of_the_vault_stays_and_the_others_are_replaced(stack, kept):
    (kept / "secrets").mkdir(parents=True)
    for name in ("app_secret_key", "db_app_password"):
        (kept / "secrets" / name).write_text("of the new host")
    assert restic.restore(stack.host, stack.config, ["app_secret_key", "of another version"])
    assert (kept / "secrets/app_secret_key").read_text() == "of the new host"
    assert (kept / "secrets/db_app_password").read_text() == "the password"


def test_missing_repository_is_recorded_until_it_is_verified(stack, kept, snapshots):
    restic.backup(stack)
    shutil.rmtree(stack.config["backup_files_repository"])
    restic.backup(stack)
    assert "its older backups are lost" in restic.read_outcome(stack).damage
    assert len(snapshots()) == 1
    restic.verify(stack)
    assert restic.read_outcome(stack).damage == ""


def test_verification_reports_a_missing_repository(stack, kept):
    restic.backup(stack)
    shutil.rmtree(stack.config["backup_files_repository"])
    with pytest.raises(CommandFailure):
        restic.verify(stack)
    assert restic.read_outcome(stack).damage != ""


def test_change_of_the_repository_is_no_damage(stack, kept, tmp_path):
    restic.backup(stack)
    stack.config["backup_files_repository"] = str(tmp_path / "other")
    with pytest.raises(CommandFailure):
        restic.verify(stack)
    restic.backup(stack)
    assert restic.read_outcome(stack).damage == ""


def test_record_of_a_former_version_is_read(stack, tmp_path):
    (tmp_path / "state/host_files.json").write_text(
        '{"at": "2026-01-01T00:00:00Z", "problem": "no space", "verified": "", "damage": ""}'
    )
    assert restic.read_outcome(stack).problem == "no space"


def test_newest_backup_comes_back(stack, kept, tmp_path):
    restic.backup(stack)
    (kept / "secrets/db_app_password").write_text("rotated")
    restic.backup(stack)
    (kept / "secrets/db_app_password").write_text("lost")
    (tmp_path / "state/releases.json").unlink()
    assert restic.restore(stack.host, stack.config, [])
    assert (kept / "secrets/db_app_password").read_text() == "rotated"


def test_files_of_an_app_come_back_into_an_empty_volume(stack, kept, tmp_path):
    media = tmp_path / "volumes/media_volume/_data"
    media.mkdir(parents=True)
    (media / "a.pdf").write_text("a file")
    stack.config["backup_files_more"] = [str(media)]
    restic.backup(stack)
    (media / "a.pdf").write_text("a newer file")
    assert not restic.restore_media(stack.host, stack.config)
    (media / "a.pdf").unlink()
    assert restic.restore_media(stack.host, stack.config)
    assert (media / "a.pdf").read_text() == "a file"


@pytest.mark.usefixtures("lost")
def test_host_with_a_ledger_gets_no_files(stack, kept, tmp_path):
    (tmp_path / "state/releases.json").write_text("[1]")
    assert not restic.restore(stack.host, stack.config, [])
    assert not kept.exists()
    assert (tmp_path / "state/releases.json").read_text() == "[1]"


@pytest.mark.usefixtures("lost")
def test_interrupted_restore_can_be_repeated(stack, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(stack.host, "run", interrupt_copy_of("db_app_password", stack.host.run))
    with pytest.raises(KeyboardInterrupt):
        restic.restore(stack.host, stack.config, [])
    monkeypatch.undo()
    assert not (tmp_path / "state/restored").exists()
    assert restic.restore(stack.host, stack.config, [])
    assert (kept / "secrets/db_app_password").read_text() == "the password"


def test_lock_of_a_lost_host_does_not_stop_a_restore(stack, kept, tmp_path):
    restic.backup(stack)
    (tmp_path / "state/releases.json").unlink()
    with other_run(stack):
        assert restic.restore(stack.host, stack.config, [])


def test_copies_of_secrets_for_the_slots_are_not_backed_up(stack, kept, tmp_path):
    (kept / "in-service/blue").mkdir(parents=True)
    (kept / "in-service/blue/app_secret_key").write_text("a copy")
    restic.backup(stack)
    shutil.rmtree(kept)
    (tmp_path / "state/releases.json").unlink()
    assert restic.restore(stack.host, stack.config, [])
    assert sorted(path.name for path in kept.iterdir()) == ["secrets"]


def test_repository_of_a_former_version_has_no_files(stack, kept, tmp_path):
    (tmp_path / "state/releases.json").unlink()
    assert not restic.restore(stack.host, stack.config, [])


def test_repository_that_cannot_be_reached_is_not_taken_for_an_empty_one(stack, kept, tmp_path):
    stack.config["backup_files_repository"] = "sftp:nobody@127.0.0.1:/files"
    stack.config["backup_files_options"] = ["sftp.command=false"]
    (tmp_path / "state/releases.json").unlink()
    with pytest.raises(CommandFailure):
        restic.restore(stack.host, stack.config, [])


def test_backup_with_another_passphrase_is_refused_and_recorded(stack, kept, tmp_path, snapshots):
    restic.backup(stack)
    before = restic.read_outcome(stack).at
    (tmp_path / "passphrase").write_text("another one\n")
    with pytest.raises(CommandFailure, match="wrong password"):
        restic.backup(stack)
    outcome = restic.read_outcome(stack)
    assert outcome.at == before
    assert "wrong password" in outcome.problem
    (tmp_path / "passphrase").write_text("a passphrase\n")
    assert len(snapshots()) == 1
    restic.backup(stack)
    assert restic.read_outcome(stack).problem == ""


def test_damage_is_found_and_recorded(stack, kept, tmp_path):
    restic.backup(stack)
    restic.verify(stack)
    assert restic.read_outcome(stack).damage == ""
    [pack, *_] = sorted((tmp_path / "repository/files/data").rglob("*/*"))
    pack.chmod(0o600)
    pack.write_bytes(bytes(pack.stat().st_size))
    with pytest.raises(CommandFailure):
        restic.verify(stack)
    assert restic.read_outcome(stack).damage != ""


def test_damage_is_a_problem_until_a_verification_finds_none(stack, kept):
    restic.record(stack, restic.Outcome(damage="a damaged file"))
    restic.backup(stack)
    assert restic.read_outcome(stack).damage == "a damaged file"
    restic.verify(stack)
    assert restic.read_outcome(stack).damage == ""


def test_old_backups_are_removed_and_the_newest_stays(stack, kept, snapshots):
    restic.prepare(stack)
    for day in ("2026-01-01", "2026-01-02"):
        restic.run(stack.host, stack.config, "backup", restic.NAME, f"--time={day} 00:00:00", kept)
    restic.backup(stack)
    assert len(snapshots()) == 1


def test_lock_of_a_killed_run_does_not_stop_the_next_one(stack, kept, snapshots):
    """restic itself removes the lock of a process that has ended on this host."""
    restic.backup(stack)
    with other_run(stack):
        pass
    restic.backup(stack)
    restic.verify(stack)
    assert len(snapshots()) == 2


def test_verification_that_cannot_reach_the_repository_is_no_damage(stack, kept, tmp_path):
    restic.backup(stack)
    restic.verify(stack)
    verified = restic.read_outcome(stack).verified
    stack.config["backup_files_repository"] = "sftp:nobody@127.0.0.1:/files"
    stack.config["backup_files_options"] = ["sftp.command=false"]
    with pytest.raises(CommandFailure):
        restic.verify(stack)
    assert restic.read_outcome(stack).damage == ""
    assert restic.read_outcome(stack).verified == verified


def test_release_during_a_backup_is_backed_up_too(stack, kept, snapshots):
    run = stack.host.run

    def slow(*command, **options):
        told = run(*command, **options)
        if "backup" in command and len(snapshots()) == 1:
            (kept / "secrets/db_app_password").write_text("rotated meanwhile")
            restic.begin(stack)
        return told

    stack.host.run, stack.host.output = slow, lambda *command: ""
    restic.backup(stack)
    assert len(snapshots()) == 2


def test_interrupted_restore_of_the_files_of_an_app_can_be_repeated(stack, kept, tmp_path, monkeypatch):
    media = tmp_path / "volumes/media_volume/_data"
    media.mkdir(parents=True)
    for name in ("a.pdf", "b.pdf"):
        (media / name).write_text(f"the file {name}")
    stack.config["backup_files_more"] = [str(media)]
    restic.backup(stack)
    shutil.rmtree(media)
    monkeypatch.setattr(stack.host, "run", interrupt_copy_of("b.pdf", stack.host.run))
    with pytest.raises(KeyboardInterrupt):
        restic.restore_media(stack.host, stack.config)
    monkeypatch.undo()
    assert (media / "a.pdf").exists()
    assert restic.restore_media(stack.host, stack.config)
    assert (media / "b.pdf").read_text() == "the file b.pdf"


def test_secret_is_read_from_its_file(stack, kept, tmp_path):
    (tmp_path / "s3").write_text("the secret\n")
    environments = []
    stack.host.run = lambda *command, env: environments.append(env) or "[]"
    stack.config["backup_files_environment"] = {restic.SECRET_FILE: str(tmp_path / "s3"), "A": "b"}
    restic.run(stack.host, stack.config, "snapshots")
    assert environments == [{restic.SECRET: "the secret", "A": "b"}]


def test_each_release_begins_a_backup(stack, engine, main):
    units = []
    stack.config["backup_files_repository"] = "sftp:repository:/files"
    engine.output = lambda *command: units.append(command[-1]) or ""
    assert main("release", "--in-unit", NEW) == 0
    assert units == [restic.UNIT]
