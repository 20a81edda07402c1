"""The module secret_files."""

import json
import os
import subprocess
import sys

import pytest
from project import ROOT

SECRET_FILES = ROOT / "plugins/modules/secret_files.py"
# Only root can chown a file to another user.
READER = 10001 if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def secret_files(tmp_path):
    """A function that runs the module as Ansible does, and returns its result and its whole output."""
    directory = tmp_path / "etc/secrets"

    def run(names=("admin_password",), check=False, fails=False, **parameters):
        arguments = tmp_path / "arguments.json"
        traits = {trait: parameters.pop(trait, ()) for trait in ("optional", "permanent", "lines")}
        readers = {
            name: {"uid": READER, **{trait: name in those for trait, those in traits.items()}}
            for name in names
        }
        parameters |= {"directory": str(directory), "names": readers, "_ansible_check_mode": check}
        arguments.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": parameters}))
        importable = os.environ | {"PYTHONPATH": str(ROOT / "collections")}
        command = [sys.executable, SECRET_FILES, arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=importable)
        result = json.loads(done.stdout)
        assert result.get("failed", False) is fails, done.stdout + done.stderr
        told = ("msg",) if fails else ("changed", "written", "mended")
        return {name: result[name] for name in told}, done.stdout + done.stderr

    run.directory = directory
    return run


def test_secret_is_generated_once(secret_files):
    names = ["admin_password", "app_secret_key"]
    made = {"changed": True, "written": names, "mended": []}
    kept = {"changed": False, "written": [], "mended": []}
    assert secret_files(names, length=24)[0] == made
    values = {name: (secret_files.directory / name).read_text() for name in names}
    assert secret_files(names, length=24)[0] == kept
    assert {file.name: file.read_text() for file in secret_files.directory.iterdir()} == values
    assert len(set(values.values())) == 2
    assert all(value.isalnum() and value.isascii() and len(value) == 24 for value in values.values())


def test_permanent_secret_is_never_replaced(secret_files):
    names = ["admin_password", "backup_passphrase"]
    secret_files(names)
    before = {name: (secret_files.directory / name).read_text() for name in names}
    given = {"admin_password": "another password", "backup_passphrase": "another passphrase"}
    told, output = secret_files(names, permanent=["backup_passphrase"], given=given, fails=True)
    assert "another value for backup_passphrase than the host" in told["msg"]
    assert "another passphrase" not in output.replace(json.dumps(given), "")
    assert {name: (secret_files.directory / name).read_text() for name in names} == before


def test_given_value_of_a_permanent_secret_is_accepted_if_it_is_the_same(secret_files):
    secret_files(["backup_passphrase"])
    given = {"backup_passphrase": (secret_files.directory / "backup_passphrase").read_text()}
    told, _output = secret_files(["backup_passphrase"], permanent=["backup_passphrase"], given=given)
    assert told == {"changed": False, "written": [], "mended": []}


def test_private_key_is_written_once_with_a_line_break_at_its_end(secret_files):
    key = "-----BEGIN-----\nline 1\n-----END-----"
    name = "backup_sftp_key"
    for value, changed in ((key, True), (f"{key}\n\n", False)):
        told, _output = secret_files([name], optional=[name], lines=[name], given={name: value})
        assert told["changed"] is changed
    assert (secret_files.directory / "backup_sftp_key").read_text() == f"{key}\n"


def test_only_its_reader_can_read_a_secret(secret_files):
    secret_files()
    status = (secret_files.directory / "admin_password").stat()
    assert (status.st_uid, status.st_gid, oct(status.st_mode & 0o7777)) == (READER, READER, "0o400")


@pytest.mark.parametrize("harmed", ["directory", "parent"])
def test_only_the_owner_can_enter_the_directory_and_its_parent(secret_files, harmed):
    """A user of the host who happens to have the uid of a secret's reader must not reach the file."""

    def modes():
        return {name: oct(path.stat().st_mode & 0o7777) for name, path in paths.items()}

    paths = {"directory": secret_files.directory, "parent": secret_files.directory.parent}
    private = dict.fromkeys(paths, "0o700")
    secret_files()
    assert modes() == private
    paths[harmed].chmod(0o711)
    assert secret_files(check=True)[0]["changed"]
    assert modes() == private | {harmed: "0o711"}
    assert secret_files()[0] == {"changed": True, "written": [], "mended": []}
    assert modes() == private


def test_optional_secret_exists_only_while_it_is_given(secret_files):
    def run(**parameters):
        return secret_files(["webhook_token"], optional=["webhook_token"], **parameters)[0]

    path = secret_files.directory / "webhook_token"
    secret_files()
    nothing = {"changed": False, "written": [], "mended": []}
    assert run() == nothing
    assert run(given={"webhook_token": "given by the vault"})["written"] == ["webhook_token"]
    assert run(check=True) == nothing | {"changed": True}
    assert path.read_text() == "given by the vault"
    assert run() == nothing | {"changed": True}
    assert not path.exists()


def test_given_value_replaces_the_generated_one_and_stays(secret_files):
    secret_files()
    given = {"admin_password": "given by the vault"}
    assert secret_files(given=given)[0]["written"] == ["admin_password"]
    assert not secret_files(given=given)[0]["changed"]
    assert not secret_files()[0]["changed"]
    assert (secret_files.directory / "admin_password").read_text() == "given by the vault"


@pytest.mark.parametrize("content", [b"", b"\n", bytes(40), b"too short", b"two lines\nof it", b"\xff" * 40])
def test_damaged_secret_is_refused_and_each_remedy_works(secret_files, content):
    names = ["admin_password", "app_secret_key"]
    path = secret_files.directory / "admin_password"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for check in (True, False):
        told = secret_files(names, check=check, fails=True)[0]["msg"]
        assert told.startswith(f"A secret's file is empty or damaged: {path}. Nothing was changed.")
        assert [file.name for file in path.parent.iterdir()] == ["admin_password"]
    path.unlink()
    assert secret_files(names)[0]["written"] == names

    path.chmod(0o600)
    path.write_bytes(content)
    given = {"admin_password": "given by the vault"}
    assert secret_files(names, given=given)[0]["written"] == ["admin_password"]
    assert path.read_text() == "given by the vault"


def test_secret_may_end_with_a_newline(secret_files):
    secret_files()
    path = secret_files.directory / "admin_password"
    path.chmod(0o600)
    path.write_text("written by hand\n")
    assert secret_files()[0]["written"] == []


def test_wrong_mode_and_owner_are_corrected(secret_files):
    secret_files()
    path = secret_files.directory / "admin_password"
    value = path.read_text()
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    assert secret_files()[0] == {"changed": True, "written": [], "mended": ["admin_password"]}
    test_only_its_reader_can_read_a_secret(secret_files)
    assert path.read_text() == value
    assert not secret_files()[0]["changed"]


def test_check_mode_reports_changes_and_writes_nothing(secret_files):
    assert secret_files(check=True)[0]["written"] == ["admin_password"]
    assert not secret_files.directory.parent.exists()

    secret_files.directory.mkdir(mode=0o700, parents=True)
    path = secret_files.directory / "admin_password"
    path.write_text("as it was before")
    path.chmod(0o644)
    assert secret_files(check=True)[0]["mended"] == ["admin_password"]
    assert secret_files(check=True, given={"admin_password": "another"})[0]["written"] == ["admin_password"]
    assert path.read_text() == "as it was before"
    assert oct(path.stat().st_mode & 0o777) == "0o644"


def test_no_secret_is_printed(secret_files):
    given = {"app_secret_key": "given-by-the-vault"}
    names = ["admin_password", "app_secret_key"]
    output = secret_files(names, given=given, _ansible_verbosity=4, _ansible_diff=True)[1]
    assert "app_secret_key" in output
    for file in secret_files.directory.iterdir():
        assert file.read_text() not in output


def test_temporary_file_left_by_a_crash_is_replaced(secret_files):
    secret_files()
    (secret_files.directory / ".admin_password.new").write_text("half")
    secret_files(given={"admin_password": "given by the vault"})
    assert [file.name for file in secret_files.directory.iterdir()] == ["admin_password"]
