"""The module host_files and its action plugin: one task manages a set of files."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from project import ROOT, load_program

unchanged = load_program(ROOT / "plugins/module_utils/managed_files.py").unchanged


@pytest.fixture
def host_files(tmp_path, capsys):
    """A function that runs the module with paths below `place`, and returns its result."""
    place, main = tmp_path / "host", load_program(ROOT / "plugins/modules/host_files.py").main
    place.mkdir()

    def run(*files, check=False, fails=False):
        entries = [
            {
                k: str(place / value) if k in ("file", "directory", "link", "tree", "absent") else value
                for k, value in file.items()
            }
            for file in files
        ]
        always = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(tmp_path)}
        entries = [entry | {"digest": digest_of(entry)} for entry in entries]
        with (
            patch_module_args({"files": entries, "record": str(tmp_path / "state/files.json"), **always}),
            pytest.raises(SystemExit),
        ):
            main()
        result = json.loads(capsys.readouterr().out)
        assert result.get("failed", False) is fails, result
        if fails:
            return result["msg"]
        assert result["changed"] is bool(result["written"])
        result["written"] = [str(Path(path).relative_to(place)) for path in result["written"]]
        return result

    run.place, run.record = place, tmp_path / "state/files.json"
    return run


def digest_of(entry):
    """Return a stand-in for the control node's digest: it differs for each entry."""
    return json.dumps(entry, sort_keys=True)


def modes(place):
    """Return the modes of what is below a place; of a link, its target."""
    return {
        str(path.relative_to(place)): str(path.readlink())
        if path.is_symlink()
        else oct(path.stat().st_mode)[-4:]
        for path in place.rglob("*")
    }


SET = [
    {"directory": "etc/deep"},
    {"file": "etc/deep/words", "content": "ünïcødé\n"},
    {"file": "program", "content": "#!/bin/sh\n", "mode": "0755"},
    {"link": "link", "to": "etc/deep"},
]
MADE = {"etc": "0755", "etc/deep": "0755", "etc/deep/words": "0644", "program": "0755", "link": "etc/deep"}


def test_set_is_made_whatever_the_umask_and_then_left_alone(host_files):
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
def test_what_differs_is_put_right_and_nothing_else(host_files, harm, written):
    host_files(*SET)
    harm(host_files.place)
    kept = {"program", "etc/deep/words"} - set(written)
    inodes = {path: (host_files.place / path).lstat().st_ino for path in kept}
    assert host_files(*SET, check=True)["written"] == written
    assert host_files(*SET)["written"] == written
    assert modes(host_files.place) == MADE
    assert (host_files.place / "program").read_text() == "#!/bin/sh\n"
    assert {path: (host_files.place / path).lstat().st_ino for path in kept} == inodes


def known(host_files):
    """Return the paths of the entries that are unchanged according to the record."""
    return sorted(str(Path(path).relative_to(host_files.place)) for path in unchanged(host_files.record))


def test_record_tells_what_is_as_it_was_written(host_files):
    assert host_files(*SET, check=True)["written"]
    assert not host_files.record.exists()
    host_files(*SET, {"absent": "old"})
    assert known(host_files) == ["etc/deep", "etc/deep/words", "link", "old", "program"]
    assert oct(host_files.record.stat().st_mode)[-4:] == "0600"

    (host_files.place / "program").chmod(0o666)
    (host_files.place / "link").unlink()
    (host_files.place / "old").write_text("back")
    assert known(host_files) == ["etc/deep", "etc/deep/words"]
    host_files(*SET, {"absent": "old"})
    assert known(host_files) == ["etc/deep", "etc/deep/words", "link", "old", "program"]


def test_record_keeps_what_other_tasks_wrote(host_files):
    host_files(*SET[:2])
    host_files(SET[2])
    assert known(host_files) == ["etc/deep", "etc/deep/words", "program"]
    words = str(host_files.place / "etc/deep/words")
    host_files(SET[1] | {"content": "other"})
    assert unchanged(host_files.record)[words] == digest_of({"file": words, "content": "other"})


@pytest.mark.parametrize("content", ["", "[", "[]", '{"/x": 1}', '{"/x": {}}'])
def test_record_that_is_damaged_knows_nothing_and_is_made_anew(host_files, content):
    host_files(*SET)
    host_files.record.write_text(content)
    assert known(host_files) == []
    host_files(*SET)
    assert len(known(host_files)) == len(SET)


def test_what_is_in_the_way_of_a_directory_is_not_as_it_was_written(host_files):
    host_files(*SET[:2])
    shutil.rmtree(host_files.place / "etc")
    (host_files.place / "etc").write_text("a file")
    assert known(host_files) == []


def test_record_tells_of_a_tree_what_is_more_too(host_files):
    host_files(tree("a"))
    assert known(host_files) == ["tree"]
    (host_files.place / "tree/current/pack/more.py").write_text("")
    assert known(host_files) == []


def test_link_that_leads_elsewhere_is_led_back(host_files):
    host_files(*SET)
    assert host_files({"link": "link", "to": "program"})["written"] == ["link"]
    assert (host_files.place / "link").readlink() == Path("program")


def test_directory_may_be_elsewhere(host_files):
    (host_files.place / "larger").mkdir(mode=0o755)
    (host_files.place / "etc").symlink_to("larger")
    host_files(*SET)
    assert (host_files.place / "etc").readlink() == Path("larger")
    assert (host_files.place / "larger/deep/words").exists()


def test_dry_run_tells_and_writes_nothing(host_files):
    validated = {"file": "bare/conf", "content": "new\n", "validate": "/no/such/program %s"}
    assert host_files(*SET, validated, check=True)["written"] == [
        "etc/deep",
        "etc/deep/words",
        "program",
        "link",
        "bare/conf",
    ]
    assert modes(host_files.place) == {}


def test_nothing_is_written_while_one_content_is_refused(host_files):
    conf = {"file": "conf", "content": "bad\n", "validate": "grep -q good %s"}
    message = host_files(*SET, conf, fails=True)
    assert message.startswith(f"{host_files.place}/conf failed to validate, so nothing was written")
    assert modes(host_files.place) == {}
    assert host_files(*SET, conf | {"content": "good\n"})["written"][-1] == "conf"


def test_checker_sees_the_file_s_name_and_leaves_nothing_behind(host_files, tmp_path):
    program = {
        "file": "bin/program.py",
        "content": "x = 1\n",
        "validate": f"{sys.executable} -m py_compile %s",
    }
    host_files({"directory": "bin"}, program)
    assert modes(host_files.place) == {"bin": "0755", "bin/program.py": "0644"}
    assert [*tmp_path.rglob("*program*")] == [host_files.place / "bin/program.py"]


def test_what_is_in_the_way_is_told(host_files):
    (host_files.place / "program").mkdir()
    (host_files.place / "etc").touch()
    assert host_files(SET[2], fails=True) == f"{host_files.place}/program cannot be written: Is a directory"
    assert "cannot be written: Not a directory" in host_files(SET[0], fails=True)
    assert "nowhere/conf cannot be written: No such file" in host_files(
        {"file": "nowhere/conf", "content": ""}, fails=True
    )


def test_what_a_crash_left_is_in_nobodys_way(host_files):
    (host_files.place / ".program.new").write_text("half")
    host_files(*SET)
    assert modes(host_files.place) == MADE


def test_diff_shows_content_first_and_then_the_rest(host_files):
    host_files(*SET)
    (host_files.place / "program").write_text("corrupt\n")
    (host_files.place / "program").chmod(0o700)
    content, rest = host_files(*SET, check=True)["diff"]
    assert content["before"] == "corrupt\n"
    assert content["after"] == "#!/bin/sh\n"
    assert rest["before"] == {"mode": "0700"}
    assert rest["after"] == {"mode": "0755"}


# --- Entries with `absent` ----------------------------------------------------------------------------------


def test_what_is_not_to_be_there_goes(host_files):
    host_files(*SET)
    gone = [{"absent": name} for name in ("program", "link", "etc", "never-there")]
    assert host_files(*gone, check=True)["written"] == ["program", "link", "etc"]
    assert modes(host_files.place) == MADE
    assert host_files(*gone)["written"] == ["program", "link", "etc"]
    assert modes(host_files.place) == {}
    assert host_files(*gone)["written"] == []


def test_link_that_is_not_to_be_there_leaves_what_it_leads_to(host_files):
    host_files(*SET)
    host_files({"absent": "link"})
    assert set(modes(host_files.place)) == set(MADE) - {"link"}


# --- Trees --------------------------------------------------------------------------------------------------


def tree(version, **more):
    """Return an entry: a version of a tree with two files."""
    texts = {"pack/one.py": f"one of {version}\n", "pack/deep/two.py": "two\n"}
    return {"tree": "tree", "version": version, "contents": texts} | more


def files(version, current=None):
    """Return what `modes` must find with one version of the tree."""
    below = {f"{version}{name}": "0755" for name in ("", "/pack", "/pack/deep")}
    below |= {f"{version}/pack/one.py": "0644", f"{version}/pack/deep/two.py": "0644"}
    made = {f"tree/{name}": mode for name, mode in below.items()}
    return made | ({"tree": "0755", "tree/current": current} if current else {})


def test_tree_is_made_and_then_left_alone(host_files):
    assert host_files(tree("a"), check=True)["written"] == ["tree"]
    assert modes(host_files.place) == {}
    assert host_files(tree("a"))["written"] == ["tree"]
    assert modes(host_files.place) == files("a", current="a")
    again = host_files(tree("a"))
    assert again["written"] == []
    assert again["diff"] == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda top: (top / "a/pack/one.py").write_text("corrupt"),
        lambda top: (top / "a/pack/one.py").chmod(0o666),
        lambda top: (top / "a/pack/one.py").unlink(),
        lambda top: (top / "a/pack/deep").chmod(0o777),
        lambda top: (top / "a/pack/deep/json.py").touch(),
        lambda top: (top / "a/json").mkdir(),
        lambda top: (top / "current").unlink(),
        lambda top: ((top / "current").unlink(), (top / "current").symlink_to("/tmp")),
    ],
    ids=["content", "mode", "gone", "mode of a directory", "more", "a directory more", "link gone", "link"],
)
def test_tree_that_differs_is_put_right(host_files, harm):
    host_files(tree("a"))
    harm(host_files.place / "tree")
    assert host_files(tree("a"), check=True)["written"] == ["tree"]
    assert host_files(tree("a"))["written"] == ["tree"]
    assert modes(host_files.place) == files("a", current="a")
    assert (host_files.place / "tree/a/pack/one.py").read_text() == "one of a\n"


def test_version_before_stays_and_older_ones_go(host_files):
    for version, before in (("a", {}), ("b", files("a")), ("c", files("b")), ("b", files("c"))):
        began = (host_files.place / "tree/current/pack/one.py") if before else None
        resolved = began.resolve() if began else None
        for _ in range(2):
            host_files(tree(version))
            assert modes(host_files.place) == files(version, current=version) | before
        assert not resolved or resolved.exists(), "who began with it goes on to find it"


def test_version_becomes_current_when_it_is_whole(host_files, monkeypatch):
    host_files(tree("a"))
    replace = Path.replace

    def killed(path, target):
        if target.name == "two.py":
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    host_files(tree("b", contents={"pack/one.py": "", "pack/two.py": ""}), fails=True)
    assert (host_files.place / "tree/current").readlink() == Path("a")
    monkeypatch.undo()
    host_files(tree("b"))
    assert modes(host_files.place) == files("b", current="b") | files("a")


def test_tree_that_is_refused_is_not_written(host_files):
    checked = {"validate": f"{sys.executable} -m compileall -q %s"}
    message = host_files(tree("a", **checked), fails=True)
    assert message.startswith(f"{host_files.place}/tree failed to validate, so nothing was written")
    assert modes(host_files.place) == {}
    assert host_files(tree("a", contents={"pack/one.py": "x = 1\n"}, **checked))["written"] == ["tree"]


def test_diff_of_a_new_version_is_that_to_the_one_before(host_files):
    host_files(tree("a"))
    shown = [part for part in host_files(tree("b"), check=True)["diff"] if part["before"] != part["after"]]
    texts = [(part["before"], part["after"]) for part in shown if isinstance(part["before"], str)]
    assert texts == [("one of a\n", "one of b\n")]


# --- The action plugin --------------------------------------------------------------------------------------

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - name: What is known of them
      host_facts:
        record: "{{ place }}/files.json"
    - name: Files
      host_files:
        record: "{{ place }}/files.json"
        files:
          - {file: "{{ place }}/one", content: "{{ one }}", notify: [read one, read both]}
          - {file: "{{ place }}/two", content: "{{ two }}", notify: [read both]}
          - {file: "{{ place }}/program", copy: host_program/slipway, mode: "0755"}
          - {file: "{{ place }}/journald.conf", template: baseline/journald.conf.j2}
          - {tree: "{{ place }}/modules", source: host/slipway}
      vars:
        ansible_python_interpreter: "{{ interpreter | default(ansible_playbook_python) }}"
    - name: As Ansible renders it
      ansible.builtin.template:
        src: "{{ roles }}/baseline/templates/journald.conf.j2"
        dest: "{{ place }}/journald.conf"
        mode: "0644"
  handlers:
    - {name: Who reads one, listen: read one, ansible.builtin.debug: {msg: HANDLER one}}
    - {name: Who reads both, listen: read both, ansible.builtin.debug: {msg: HANDLER both}}
"""


@pytest.fixture
def play(ansible, tmp_path):
    """A function that runs a play with a set of files; it returns the handlers and the number of changes."""
    playbook = tmp_path / "play.yml"
    playbook.write_text(PLAY)
    place = tmp_path / "host"
    place.mkdir()

    def run(*arguments, **variables):
        variables |= {"place": str(place), "roles": str(ROOT / "roles"), "baseline_journal_max_size": "500M"}
        extra = ("--inventory", "localhost,", "--extra-vars", json.dumps(variables))
        done = ansible("playbook", *extra, *arguments, playbook)
        assert done.returncode == 0, done.stdout + done.stderr
        told = [line.split("HANDLER ")[1] for line in done.stdout.splitlines() if "msg: HANDLER " in line]
        return told, int(done.stdout.partition("changed=")[2].split()[0])

    run.place = place
    return run


def test_handlers_hear_of_their_own_files_and_contents_come_as_from_ansible_itself(play):
    assert play("--check", one="a", two="b") == (["one", "both"], 2)
    assert play(one="a", two="b") == (["one", "both"], 1)
    assert play(one="a", two="b") == ([], 0)
    assert play(one="a", two="c") == (["both"], 1)
    assert play(one="b", two="c") == (["one", "both"], 1)
    program = ROOT / "roles/host_program/files/slipway"
    assert (play.place / "program").read_bytes() == program.read_bytes()
    package = ROOT / "host/slipway"
    modules = play.place / "modules/current/slipway"
    assert {file.name: file.read_text() for file in modules.iterdir()} == {
        file.name: file.read_text() for file in package.glob("*.py")
    }


def test_files_that_are_as_they_were_written_cost_no_visit(play):
    """With an interpreter that does not exist, a run that starts the module on the host fails."""
    assert play(one="a", two="b") == (["one", "both"], 1)
    assert play(one="a", two="b", interpreter="/nowhere") == ([], 0)

    (play.place / "two").write_text("corrupt")
    assert play(one="a", two="b") == (["both"], 1)
    assert (play.place / "two").read_text() == "b"
    assert play(one="a", two="b", interpreter="/nowhere") == ([], 0)


def test_second_task_with_the_same_path_wins(ansible, tmp_path):
    """The facts of the host are from before both."""
    entry = {"file": str(tmp_path / "file"), "content": "a"}
    record = {"record": str(tmp_path / "files.json")}
    tasks = [
        {"host_facts": record},
        *({"host_files": record | {"files": [entry | {"content": content}]}} for content in ("a", "b", "a")),
    ]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    play["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    for _ in range(2):
        done = ansible("playbook", "--inventory", "localhost,", tmp_path / "play.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "file").read_text() == "a"
