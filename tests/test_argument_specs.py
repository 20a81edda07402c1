"""Conventions of every role: variables, names and checks."""

import re
from pathlib import Path

import pytest
import yaml
from ansible.playbook.block import Block
from ansible.playbook.handler import Handler
from generate_role_readmes import readme
from project import ROLES, ROOT

# Variables of the role `host`, which every role may use.
HOST = set(yaml.safe_load((ROOT / "roles/host/vars/main.yml").read_text()))

# Facts that one role or playbook sets for others, and variables that Ansible itself reads.
PUBLIC_FACTS = {
    "images_ids",
    "images_blog_revision",
    "images_published",
    "secrets_kept",
    "stack_compose",
    "ansible_user",
    "ansible_port",
    "ansible_ssh_args",
}

PLAYBOOKS = ROOT / "playbooks"

pytestmark = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def test_each_option_has_a_default_or_is_required(role):
    optional = {name for name, option in role.options.items() if not option.get("required")}
    assert optional == set(role.load("defaults/main.yml", {}))


def test_each_option_has_the_roles_prefix_and_a_description(role):
    for name, option in role.options.items():
        assert name.startswith(f"{role.name}_")
        assert option["type"]
        assert re.search(r"\S.*\.$", option["description"]), f"{name}: a description is sentences"


def test_each_boolean_option_is_used_with_the_bool_filter(role):
    """On a command line, a boolean option is a string, and Ansible refuses strings as conditions."""
    switches = [name for name, option in role.options.items() if option["type"] == "bool"]
    files = [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "roles").rglob("*.j2"), *PLAYBOOKS.rglob("*.yml")]
    text = "\n".join(file.read_text() for file in files if file.parent.name != "meta")
    for name in switches:
        # A colon after the name marks its default or a message on how to set it, not a use.
        uses = re.findall(rf"\b{name}\b(?!:)(.{{0,40}})", text)
        assert uses, name
        assert [use for use in uses if not re.match(r"( \| default\(\w+\))? \| bool\b", use)] == [], name


def test_each_entry_point_has_a_spec(role):
    entry_points = {"main"} | {"preflight"} & {file.stem for file in role.task_files}
    assert set(role.specs) == entry_points


def test_each_internal_variable_has_the_internal_prefix(role):
    names = set(role.load("vars/main.yml", {}))
    for _, task in role.tasks:
        names |= {task["register"]} if "register" in task else set()
        names |= {task["loop_control"]["loop_var"]} if "loop_var" in task.get("loop_control", {}) else set()
        names |= set(task.get("vars", {})) | set(task.get("ansible.builtin.set_fact", {}))
    internal = names - PUBLIC_FACTS - HOST - set(role.options)
    assert {name for name in internal if not name.startswith(f"__{role.name}_")} == set()


def test_no_role_reads_an_internal_variable_of_another(role):
    others = "|".join(other.name for other in ROLES if other != role)
    files = [file for file in role.path.rglob("*") if file.suffix in (".yml", ".j2")]
    found = {name for file in files for name in re.findall(rf"\b__(?:{others})_\w+", file.read_text())}
    assert found - {name for name in found if name.startswith(f"__{role.name}_")} == set()


def test_each_task_name_begins_with_its_file_or_role(role):
    for file, task in role.tasks:
        if file.parent.name == "handlers":
            assert task["listen"].startswith(f"{role.name} | ")
        else:
            area = role.name if file.stem == "main" else file.stem
            assert re.match(rf"{area.capitalize()} \| [A-Za-z]", task["name"]), f"{file.name}: {task['name']}"


def test_each_module_has_its_fully_qualified_name(role):
    keywords = set(Block.fattributes) | set(Handler.fattributes)
    for file, task in role.tasks:
        for action in set(task) - keywords:
            assert action.count(".") == 2, f"{file.name}, {task['name']}: {action}"


def test_each_template_is_marked_as_managed_by_ansible(role):
    for template in role.path.glob("templates/*.j2"):
        if not template.name.endswith(".json.j2"):
            assert template.read_text().startswith("{{ ansible_managed | comment }}\n")


# Templates that no program on the host can validate before they are in place.
UNVALIDATED = {
    "apt.conf",
    "begun",
    "journald.conf",
    "known_hosts",
    "modprobe.conf",
    "nftables.service",
    "pgbackrest.conf",
    "slipway-media.service",
    "slipway-updates.service",
    "sysctl.conf",
}


def test_each_file_has_a_source_and_is_validated(role):
    listens = {task["listen"] for file, task in role.tasks if file.parent.name == "handlers"}
    for entry in role.host_files:
        for kind, directory in {"template": "templates", "copy": "files"}.items():
            # A path from a variable is absolute, and on the control node.
            if kind in entry and not entry[kind].startswith("{{"):
                name = entry[kind]
                assert (role.path / directory / name).is_file(), entry
                assert name.removesuffix(".j2") in UNVALIDATED or kind == "copy" or "validate" in entry, entry
        if "tree" in entry:
            assert Path(entry["source"].replace("{{ role_path }}", str(role.path))).is_dir(), entry
            assert "validate" in entry, entry
        assert set(entry.get("notify", [])) <= listens, entry


# The kernel settings have no reader: host_facts compares them with the values in the kernel.
READ_BACK = {"/etc/sysctl.d/60-slipway.conf"}


def test_each_entry_that_notifies_a_handler_names_its_reader(role):
    """Otherwise, a handler that a killed run lost would never run."""
    notifying = [entry for entry in role.host_files if "notify" in entry]
    assert {entry.get("file") for entry in notifying if "reader" not in entry} <= READ_BACK


def test_no_role_uses_groups_or_hostvars(role):
    for file in [*role.path.rglob("*.yml"), *role.path.rglob("*.j2")]:
        assert not re.search(r"\b(groups|group_names|hostvars)\b", file.read_text()), file


def test_readme_is_current(role):
    assert (role.path / "README.md").read_text() == readme(role), "run: python tests/generate_role_readmes.py"


def test_example_in_readme_parses(role, ansible, tmp_path):
    """The README of the role `host` has no example, because nobody uses this role alone."""
    examples = re.findall(r"^```yaml\n(.*?)^```$", readme(role), re.DOTALL | re.MULTILINE)
    assert len(examples) == (role.name != "host")
    for text in examples:
        (tmp_path / "example.yml").write_text(text)
        done = ansible("playbook", "--syntax-check", tmp_path / "example.yml")
        assert done.returncode == 0, done.stderr
