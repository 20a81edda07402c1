"""The uids of the containers' users: one list, which hosts reserve. If a person has one, a run is refused."""

import json
import pwd
import re

import pytest
import yaml
from project import ROOT, load_program

from slipway.settings import Settings


@pytest.fixture(scope="module")
def users():
    """The uids by the name of the user who reserves each."""
    return yaml.safe_load((ROOT / "roles/host/vars/main.yml").read_text())["host_users"]


def test_facts_cover_the_uids_that_are_reserved(users):
    assert set(load_program(ROOT / "plugins/modules/host_facts.py").UIDS) == set(users.values())


def test_images_and_host_program_use_the_uids_that_are_reserved(users):
    assert users["slipway-nginx"] == Settings.nginx_uid
    assert users["slipway-app"] == Settings.blog_uid
    compose = (ROOT / "roles/stack/templates/compose.yml.j2").read_text()
    assert re.findall(r"postgresql:uid=(\d+)", compose) == [str(users["slipway-db"])]


@pytest.mark.parametrize(
    ("shell", "login"),
    [("/bin/bash", True), ("", True), ("/usr/sbin/nologin", False), ("/bin/false", False)],
)
def test_facts_tell_people_from_system_users(monkeypatch, shell, login):
    module = load_program(ROOT / "plugins/modules/host_facts.py")
    known = {101: pwd.struct_passwd(("anna", "x", 101, 101, "", "/home/anna", shell))}
    monkeypatch.setattr(pwd, "getpwuid", known.__getitem__)
    assert module.owners((101, 999)) == [{"uid": 101, "name": "anna", "login": login}]


@pytest.fixture
def run_preflight(ansible, tmp_path):
    """A function that runs the preflight of the role secrets on a host with these owners of uids."""

    def run_preflight(owners):
        facts = {"host_uids": owners, "host_packages": [], "distribution": "Debian", "cacheable": True}
        tasks = [
            {"ansible.builtin.set_fact": facts},
            {"ansible.builtin.import_role": {"name": "slipway.blog.secrets", "tasks_from": "preflight"}},
        ]
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        play["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        (tmp_path / "play.yml").write_text(json.dumps([play]))
        return ansible("playbook", "--inventory", "localhost,", tmp_path / "play.yml")

    return run_preflight


def test_person_with_a_uid_of_a_container_is_refused_by_name(run_preflight):
    owners = [
        {"uid": 101, "name": "messagebus", "login": False},
        {"uid": 10001, "name": "anna", "login": True},
    ]
    done = run_preflight(owners)
    assert done.returncode == 2, done.stdout
    message = " ".join((done.stdout + done.stderr).split())
    assert "On localhost, anna has the uid 10001. Slipway's containers use this uid" in message
    assert "`usermod --uid 2001 anna`" in message
    assert "messagebus" not in message


def test_system_user_with_a_uid_of_a_container_is_accepted(run_preflight):
    done = run_preflight([{"uid": 101, "name": "messagebus", "login": False}])
    assert done.returncode == 0, done.stdout
