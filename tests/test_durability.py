"""After a power loss a file has its old or its new content, complete: it is never empty or missing."""

import os
from pathlib import Path

import pytest
from project import ROOT, load_program

from slipway import files, tls
from slipway.host import Host
from slipway.settings import Settings

CONTENT = "all of it\n"
ROLES = ROOT / "roles"


def secret_files(path, monkeypatch):
    load_program(ROOT / "plugins/modules/secret_files.py").write(path, CONTENT, os.geteuid())


def host_files(path, monkeypatch):
    module = load_program(ROOT / "plugins/modules/host_files.py")
    state = {"kind": "file", "owner": module.OWNER, "mode": "0644", "content": CONTENT.encode()}
    module.write(path, state)


def host_files_link(path, monkeypatch):
    load_program(ROOT / "plugins/modules/host_files.py").write(path, {"kind": "link", "to": "elsewhere"})


def slipway_state(path, monkeypatch):
    files.write(path, CONTENT)


def slipway_secret(path, monkeypatch):
    files.write_secret(path, CONTENT, os.geteuid())


def slipway_tls(path, monkeypatch):
    monkeypatch.setattr(tls, "check_pair", lambda pem: None)
    tls.install(Host(Settings(certificate=path, project=path.parent, nginx_uid=os.geteuid())), CONTENT)


@pytest.fixture
def disk(monkeypatch):
    """The calls of os.fsync and the renames, in order: ("file", content), "named", ("directory", names)."""
    done, fsync, replace = [], os.fsync, Path.replace

    def watched_fsync(descriptor):
        place = Path(f"/proc/self/fd/{descriptor}").resolve()
        if place.is_dir():
            done.append(("directory", sorted(path.name for path in place.iterdir())))
        else:
            done.append(("file", place.read_text()))
        fsync(descriptor)

    def watched_replace(path, target):
        done.append("named")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    return done


@pytest.mark.parametrize("write", [secret_files, host_files, slipway_state, slipway_secret, slipway_tls])
def test_content_is_synced_before_the_rename_and_the_directory_after_it(write, disk, tmp_path, monkeypatch):
    write(tmp_path / "file.pem", monkeypatch)
    assert disk == [("file", CONTENT), "named", ("directory", ["file.pem"])]


def test_directory_is_synced_after_a_link_is_renamed(disk, tmp_path, monkeypatch):
    host_files_link(tmp_path / "link", monkeypatch)
    assert disk == ["named", ("directory", ["link"])]
