"""The module host_files: one task manages a set of files."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from host_file_sets import MADE, SET, digest_of, manifest, modes, unchanged_paths


def test_set_of_files_is_written_once_whatever_the_umask(host_files):
    before = os.umask(0o077)
    try:
        assert host_files(*SET)["written"] == ["etc/deep", "etc/deep/words", "program", "link"]
    finally:
        os.umask(before)
    assert modes(host_files.place) == MADE
    assert (host_files.place / "etc/deep/words").read_text() == "ünïcødé\n"
    again = host_files(*SET)
    assert again["written"] == []
    assert again["diff"] == []


@pytest.mark.parametrize(
    ("harm", "written"),
    [
        (lambda place: (place / "program").write_text("corrupt"), ["program"]),
        (lambda place: (place / "program").chmod(0o666), ["program"]),
        (lambda place: (place / "program").unlink(), ["program"]),
        (lambda place: (place / "etc/deep").chmod(0o777), ["etc/deep"]),
        (lambda place: (place / "link").unlink(), ["link"]),
        (lambda place: (place / "link").rename(place / "etc/deep/words"), ["etc/deep/words", "link"]),
    ],
    ids=["content", "mode", "file gone", "mode of a directory", "link gone", "link for a file"],
)
def test_only_entries_that_differ_are_written(host_files, harm, written):
    host_files(*SET)
    harm(host_files.place)
    kept = {"program", "etc/deep/words"} - set(written)
    inodes = {path: (host_files.place / path).lstat().st_ino for path in kept}
    assert host_files(*SET, check=True)["written"] == written
    assert host_files(*SET)["written"] == written
    assert modes(host_files.place) == MADE
    assert (host_files.place / "program").read_text() == "#!/bin/sh\n"
    assert {path: (host_files.place / path).lstat().st_ino for path in kept} == inodes


def test_record_lists_unchanged_entries(host_files):
    assert host_files(*SET, check=True)["written"]
    assert not host_files.record.exists()
    host_files(*SET, {"absent": "old"})
    assert unchanged_paths(host_files) == ["etc/deep", "etc/deep/words", "link", "old", "program"]
    assert oct(host_files.record.stat().st_mode)[-4:] == "0600"

    (host_files.place / "program").chmod(0o666)
    (host_files.place / "link").unlink()
    (host_files.place / "old").write_text("back")
    assert unchanged_paths(host_files) == ["etc/deep", "etc/deep/words"]
    host_files(*SET, {"absent": "old"})
    assert unchanged_paths(host_files) == ["etc/deep", "etc/deep/words", "link", "old", "program"]


def test_record_keeps_the_entries_of_other_tasks(host_files):
    host_files(*SET[:2])
    host_files(SET[2])
    assert unchanged_paths(host_files) == ["etc/deep", "etc/deep/words", "program"]
    words = str(host_files.place / "etc/deep/words")
    host_files(SET[1] | {"content": "other"})
    [item] = [item for item in manifest(host_files.record) if item["path"] == words]
    assert item["entry"] == digest_of({"file": words, "content": "other"})


@pytest.mark.parametrize("content", ["", "[", "[]", '{"/x": 1}', '{"/x": {}}'])
def test_damaged_record_is_ignored_and_written_anew(host_files, content):
    host_files(*SET)
    host_files.record.write_text(content)
    assert unchanged_paths(host_files) == []
    host_files(*SET)
    assert len(unchanged_paths(host_files)) == len(SET)


def test_file_in_place_of_a_directory_counts_as_a_change(host_files):
    host_files(*SET[:2])
    shutil.rmtree(host_files.place / "etc")
    (host_files.place / "etc").write_text("a file")
    assert unchanged_paths(host_files) == []


def test_changed_target_of_a_link_is_written(host_files):
    host_files(*SET)
    assert host_files({"link": "link", "to": "program"})["written"] == ["link"]
    assert (host_files.place / "link").readlink() == Path("program")


def test_directory_may_be_a_link_to_another_directory(host_files):
    (host_files.place / "larger").mkdir(mode=0o755)
    (host_files.place / "etc").symlink_to("larger")
    host_files(*SET)
    assert (host_files.place / "etc").readlink() == Path("larger")
    assert (host_files.place / "larger/deep/words").exists()


def test_dry_run_reports_changes_and_writes_nothing(host_files):
    validated = {"file": "bare/conf", "content": "new\n", "validate": "/no/such/program %s"}
    assert host_files(*SET, validated, check=True)["written"] == [
        "etc/deep",
        "etc/deep/words",
        "program",
        "link",
        "bare/conf",
    ]
    assert modes(host_files.place) == {}


def test_nothing_is_written_if_one_content_is_invalid(host_files):
    conf = {"file": "conf", "content": "bad\n", "validate": "grep -q good %s"}
    message = host_files(*SET, conf, fails=True)
    assert message.startswith(f"{host_files.place}/conf failed to validate, so nothing was written")
    assert modes(host_files.place) == {}
    assert host_files(*SET, conf | {"content": "good\n"})["written"][-1] == "conf"


def test_validator_gets_the_files_name_and_leaves_no_files(host_files, tmp_path):
    program = {
        "file": "bin/program.py",
        "content": "x = 1\n",
        "validate": f"{sys.executable} -m py_compile %s",
    }
    host_files({"directory": "bin"}, program)
    assert modes(host_files.place) == {"bin": "0755", "bin/program.py": "0644"}
    assert [*tmp_path.rglob("*program*")] == [host_files.place / "bin/program.py"]


def test_obstacle_to_a_file_is_reported(host_files):
    (host_files.place / "program").mkdir()
    (host_files.place / "etc").touch()
    assert host_files(SET[2], fails=True) == f"{host_files.place}/program cannot be written: Is a directory"
    assert "cannot be written: Not a directory" in host_files(SET[0], fails=True)


def test_missing_parents_of_a_file_are_created_and_not_recorded(host_files):
    host_files({"file": "unit.d/conf", "content": ""})
    assert modes(host_files.place) == {"unit.d": "0755", "unit.d/conf": "0644"}
    assert unchanged_paths(host_files) == ["unit.d/conf"]


def test_temporary_file_left_by_a_crash_is_replaced(host_files):
    (host_files.place / ".program.new").write_text("half")
    host_files(*SET)
    assert modes(host_files.place) == MADE


def test_diff_shows_the_content_and_then_the_mode(host_files):
    host_files(*SET)
    (host_files.place / "program").write_text("corrupt\n")
    (host_files.place / "program").chmod(0o700)
    content, rest = host_files(*SET, check=True)["diff"]
    assert content["before"] == "corrupt\n"
    assert content["after"] == "#!/bin/sh\n"
    assert rest["before"] == {"mode": "0700"}
    assert rest["after"] == {"mode": "0755"}


# --- Entries with `absent` ----------------------------------------------------------------------------------


def test_absent_entries_are_removed(host_files):
    host_files(*SET)
    gone = [{"absent": name} for name in ("program", "link", "etc", "never-there")]
    assert host_files(*gone, check=True)["written"] == ["program", "link", "etc"]
    assert modes(host_files.place) == MADE
    assert host_files(*gone)["written"] == ["program", "link", "etc"]
    assert modes(host_files.place) == {}
    assert host_files(*gone)["written"] == []


def test_removal_of_a_link_keeps_its_target(host_files):
    host_files(*SET)
    host_files({"absent": "link"})
    assert set(modes(host_files.place)) == set(MADE) - {"link"}


# --- Entries with `reader` ----------------------------------------------------------------------------------

CONF = {"file": "program.conf", "content": "new\n", "reader": "program.service"}


def unit(since, outdated=False):
    """Return the active units of a host, as host_facts does."""
    return {"program.service": {"since": since, "outdated": outdated, "enabled": True}}


def in_force(host_files, units):
    """Return by path whether each entry of the record is in force."""
    return {Path(item["path"]).name: item["in_force"] for item in manifest(host_files.record, units)}


def test_file_is_in_force_once_its_reader_has_started_after_the_change(host_files):
    host_files(CONF)
    written = (host_files.place / "program.conf").stat().st_mtime
    assert in_force(host_files, unit(since=written - 1)) == {"program.conf": False}
    assert in_force(host_files, unit(since=written + 1)) == {"program.conf": True}
    assert in_force(host_files, {}) == {"program.conf": True}, "a unit reads its files when it starts"


def test_removal_of_a_file_is_in_force_once_its_reader_has_started(host_files):
    host_files(CONF)
    host_files({"absent": "program.conf", "reader": "program.service"})
    removed = host_files.place.stat().st_mtime
    assert in_force(host_files, unit(since=removed - 1)) == {"program.conf": False}
    assert in_force(host_files, unit(since=removed + 1)) == {"program.conf": True}


def test_absent_file_may_have_no_directory_either(host_files):
    host_files({"absent": "nowhere/program.conf", "reader": "program.service"})
    assert in_force(host_files, unit(since=time.time() + 1)) == {"program.conf": True}


def test_file_of_a_unit_is_in_force_once_systemd_has_read_it(host_files, monkeypatch):
    """A unit need not restart for a change of its file, so only systemd's own answer counts."""
    monkeypatch.setitem(manifest.__globals__, "UNITS", host_files.place)
    host_files(CONF)
    assert in_force(host_files, unit(since=0, outdated=True)) == {"program.conf": False}
    assert in_force(host_files, unit(since=0, outdated=False)) == {"program.conf": True}


def test_entry_that_its_reader_has_not_read_is_written_again(host_files):
    host_files(CONF)
    file = host_files.place / "program.conf"
    os.utime(file, (0, 0))
    assert host_files(CONF)["written"] == []
    assert host_files(CONF | {"stale": True})["written"] == ["program.conf"]
    assert file.stat().st_mtime > 0
