"""Atomic replacement of files."""

import os

import pytest

from slipway.files import write


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
