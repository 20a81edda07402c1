"""The script swapfile of the role baseline, which makes a swap file."""

import subprocess

import pytest
from project import ROOT

SCRIPT = ROOT / "roles/baseline/files/swapfile"
MIB = 1024**2


@pytest.fixture
def swapfile(tmp_path):
    """A function that runs the script, and returns the finished process; `path` is the swap file."""

    def run():
        return subprocess.run(["sh", SCRIPT, path, "1"], capture_output=True, text=True)

    path = run.path = tmp_path / "swapfile"
    return run


def kind(path):
    """Return what blkid finds in a file: `swap`, the type of a file system, or an empty string."""
    command = ["blkid", "--probe", "--match-tag", "TYPE", "--output", "value", path]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_swap_file_is_made_once_for_root_only(swapfile):
    assert swapfile().stdout == "made\n"
    status = swapfile.path.stat()
    assert (kind(swapfile.path), status.st_size, oct(status.st_mode)[-3:]) == ("swap", MIB, "600")
    assert swapfile().stdout == ""
    assert swapfile.path.stat().st_ino == status.st_ino


@pytest.mark.parametrize("size", [0, MIB])
def test_file_of_a_run_that_was_killed_before_mkswap_is_finished(swapfile, size):
    swapfile.path.write_bytes(b"")
    if size:
        subprocess.run(["fallocate", f"--length={size}", swapfile.path], check=True)
    assert kind(swapfile.path) == ""
    done = swapfile()
    assert done.returncode == 0, done.stderr
    assert kind(swapfile.path) == "swap"


def test_kill_at_any_moment_leaves_no_unfinished_swap_file(swapfile, tmp_path):
    """The fake mkswap kills the script, which renames the file to its final name only after mkswap."""
    (tmp_path / "mkswap").write_text("#!/bin/sh\nkill -KILL $PPID\n")
    (tmp_path / "mkswap").chmod(0o755)
    command = ["env", f"PATH={tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin", "sh", SCRIPT, swapfile.path, "1"]
    assert subprocess.run(command, capture_output=True).returncode != 0
    assert not swapfile.path.exists()
    assert swapfile().returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mkswap", "swapfile"]


def test_permissions_of_an_existing_swap_file_are_corrected(swapfile):
    swapfile()
    swapfile.path.chmod(0o644)
    swapfile()
    assert oct(swapfile.path.stat().st_mode)[-3:] == "600"


def test_file_with_other_content_is_kept_and_refused(swapfile):
    swapfile.path.write_text("a backup")
    done = swapfile()
    assert done.returncode == 1
    assert f"{swapfile.path} exists and is not a swap file. Move it away" in done.stderr
    assert swapfile.path.read_text() == "a backup"
