"""Atomic replacement of files."""

import os

import pytest
from project import ROOT, load_program

from slipway.files import exchange, managed_digest, write


def test_write_replaces_a_file_atomically(tmp_path):
    path = tmp_path / "state"
    write(path, "old")
    with path.open() as reader:
        write(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("No space left on device")

    path = tmp_path / "state"
    write(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, "new")
    assert path.read_text() == "old"


@pytest.fixture
def directories(tmp_path):
    """Two directories with a file each, which has the name of the directory as its content."""
    pair = tmp_path / "one", tmp_path / "other"
    for directory in pair:
        directory.mkdir()
        (directory / "file").write_text(directory.name)
    return pair


def test_exchanged_directories_have_the_content_of_each_other(directories):
    one, other = directories
    exchange(one, other)
    assert (one / "file").read_text() == "other"
    assert (other / "file").read_text() == "one"


def test_exchanged_files_have_the_content_of_each_other(directories):
    one, other = (directory / "file" for directory in directories)
    exchange(one, other)
    assert (one.read_text(), other.read_text()) == ("other", "one")


@pytest.mark.parametrize("is_first", [True, False])
def test_exchange_with_a_missing_directory_changes_nothing(directories, is_first):
    one, other = directories
    missing = one.with_name("missing")
    pair = (missing, other) if is_first else (one, missing)
    with pytest.raises(OSError, match="No such file or directory"):
        exchange(*pair)
    assert not missing.exists()
    assert [(directory / "file").read_text() for directory in directories] == ["one", "other"]


def test_managed_digest_is_that_of_the_module_which_wrote_the_file(tmp_path):
    module = load_program(ROOT / "plugins/module_utils/managed_files.py")
    path = tmp_path / "compose.yml"
    path.write_text("services: ünïcødé\n")
    path.chmod(0o640)
    assert managed_digest(path) == module.digest(path, "file")
