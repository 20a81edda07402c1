"""The action plugin host_files: contents and notifications come from the control node."""

import json

import pytest
from project import ROOT

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - name: Gather the facts of the files
      slipway.blog.host_facts:
        record: "{{ place }}/files.json"
    - name: Write the files
      slipway.blog.host_files:
        record: "{{ place }}/files.json"
        files:
          - {file: "{{ place }}/one", content: "{{ one }}", notify: [read one, read both]}
          - {file: "{{ place }}/two", content: "{{ two }}", notify: [read both]}
          - {file: "{{ place }}/program", copy: "{{ roles }}/host_program/files/slipway", mode: "0755"}
          - {file: "{{ place }}/journald.conf", template: "{{ roles }}/baseline/templates/journald.conf.j2"}
          - {tree: "{{ place }}/modules", source: "{{ roles }}/../host/slipway"}
          - {file: "{{ place }}/nowhere", copy: /nowhere, when: "{{ false }}"}
      vars:
        ansible_python_interpreter: "{{ interpreter | default(ansible_playbook_python) }}"
    - name: Compare with Ansible's own rendering
      ansible.builtin.template:
        src: "{{ roles }}/baseline/templates/journald.conf.j2"
        dest: "{{ place }}/journald.conf"
        mode: "0644"
  handlers:
    - {name: Handle one, listen: read one, ansible.builtin.debug: {msg: HANDLER one}}
    - {name: Handle both, listen: read both, ansible.builtin.debug: {msg: HANDLER both}}
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


def test_changed_files_notify_their_handlers_and_templates_match_ansibles_own(play):
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


def test_unchanged_files_need_no_connection_to_the_host(play):
    """A run with an interpreter that does not exist succeeds only if it starts no module on the host."""
    assert play(one="a", two="b") == (["one", "both"], 1)
    assert play(one="a", two="b", interpreter="/nowhere") == ([], 0)

    (play.place / "two").write_text("corrupt")
    assert play(one="a", two="b") == (["both"], 1)
    assert (play.place / "two").read_text() == "b"
    assert play(one="a", two="b", interpreter="/nowhere") == ([], 0)


def test_later_task_with_the_same_path_wins(ansible, tmp_path):
    """A later task must not rely on facts from before an earlier task wrote the same path."""
    entry = {"file": str(tmp_path / "file"), "content": "a"}
    record = {"record": str(tmp_path / "files.json")}
    writes = [record | {"files": [entry | {"content": content}]} for content in ("a", "b", "a")]
    tasks = [{"slipway.blog.host_facts": record}, *({"slipway.blog.host_files": write} for write in writes)]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    play["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    for _ in range(2):
        done = ansible("playbook", "--inventory", "localhost,", tmp_path / "play.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "file").read_text() == "a"


LOST = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {{ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"}}
  tasks:
    - ansible.builtin.set_fact:
        host_files: {known}
        host_manifest: [{{path: {file}, in_force: {in_force}}}]
        cacheable: true
    - slipway.blog.host_files:
        record: {record}
        files: [{{file: {file}, content: a, reader: a.service, notify: [restart a]}}]
    - slipway.blog.host_files:
        record: {record}
        files: [{{file: {file}, content: a, reader: a.service, notify: [restart a]}}]
    - ansible.builtin.fail: {{msg: a later task fails}}
      when: {fails}
  handlers:
    - {{name: Restart, listen: restart a, ansible.builtin.debug: {{msg: HANDLER}}}}
"""


def test_handler_that_a_failed_run_lost_runs_in_the_next_one(ansible, tmp_path):
    """The failed run wrote the file. Only its reader, which has not restarted, shows that no handler ran."""

    def run(fails, in_force):
        names = {"file": tmp_path / "file", "record": tmp_path / "files.json"}
        states = {"known": {}, "fails": str(fails).lower(), "in_force": str(in_force).lower()}
        (tmp_path / "play.yml").write_text(LOST.format(**names, **states))
        done = ansible("playbook", "--inventory", "localhost,", tmp_path / "play.yml")
        assert done.returncode == (2 if fails else 0), done.stdout + done.stderr
        changed = int(done.stdout.partition("changed=")[2].split()[0])
        return done.stdout.count("msg: HANDLER"), changed

    assert run(fails=True, in_force=True) == (0, 1)
    assert run(fails=False, in_force=False) == (1, 1)
    assert run(fails=False, in_force=True) == (0, 0)
