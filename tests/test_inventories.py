"""The inventories, the playbooks and requirements.yml."""

import json
import re
import subprocess
from shutil import copytree

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from project import ROOT

INVENTORIES = sorted(path for path in (ROOT / "inventory").iterdir() if path.is_dir())
PLAYBOOKS = [ROOT / "site.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]
REQUIREMENTS = ROOT / "requirements.yml"

each_inventory = pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: path.name)


@each_inventory
def test_inventory_has_a_host_for_the_blog(ansible, inventory):
    done = ansible("inventory", "--inventory", inventory, "--list")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["slipway"]["hosts"]


@each_inventory
def test_every_playbook_parses(ansible, inventory):
    done = ansible("playbook", "--syntax-check", "--inventory", inventory, *PLAYBOOKS)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert set(re.findall("^playbook: (.*)$", done.stdout, re.MULTILINE)) == set(map(str, PLAYBOOKS))


@pytest.fixture
def vault(tmp_path):
    """A copy of inventory/production with its example vault encrypted, and the password file."""
    inventory, password = tmp_path / "production", tmp_path / "password"
    copytree(ROOT / "inventory/production", inventory)
    password.write_text("the password of the vault\n")
    file = inventory / "group_vars/all/vault.yml"
    lines = file.read_text().splitlines()
    example = lines.index("# secrets_vault:")
    file.write_text("\n".join(["---", *(line.removeprefix("# ") for line in lines[example:])]))
    encrypt = ["ansible-vault", "encrypt", "--vault-password-file", password, file]
    subprocess.run(encrypt, cwd=ROOT, check=True, capture_output=True)
    assert file.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    return inventory, password


def test_example_vault_has_each_secret_and_passes_the_checks(ansible, vault, tmp_path):
    inventory, password = vault
    kept = yaml.safe_load((ROOT / "roles/secrets/vars/main.yml").read_text())["__secrets_files"]
    play = tmp_path / "checks.yml"
    facts = {"distribution": "Debian", "host_packages": [], "cacheable": True}
    tasks = [
        {"ansible.builtin.set_fact": facts},
        {"ansible.builtin.import_role": {"name": "slipway.blog.secrets", "tasks_from": "preflight"}},
        {
            "ansible.builtin.assert": {
                "that": f"secrets_vault.keys() | sort == {sorted(kept)}",
                "fail_msg": "The example leaves a secret out.",
            }
        },
    ]
    play.write_text(json.dumps([{"hosts": "slipway", "gather_facts": False, "tasks": tasks}]))
    arguments = ["--inventory", inventory, "--connection", "local", play]
    done = ansible("playbook", "--vault-password-file", password, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    done = ansible("playbook", *arguments)
    assert done.returncode != 0
    assert "vault.yml cannot be decrypted" in " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def ranges():
    """The range of versions of each required collection."""
    collections = yaml.safe_load(REQUIREMENTS.read_text())["collections"]
    return {collection["name"]: SpecifierSet(collection["version"]) for collection in collections}


def test_installed_collections_are_in_the_required_ranges(ansible, ranges):
    done = ansible("galaxy", "collection", "list", "--format", "json")
    installed = {
        name: found["version"] for path in json.loads(done.stdout).values() for name, found in path.items()
    }
    assert {name: installed.get(name) for name in ranges if installed.get(name) not in ranges[name]} == {}


def test_each_collection_in_use_is_required_and_no_other(ranges):
    files = [
        ROOT / "ansible.cfg",
        *PLAYBOOKS,
        *(ROOT / "roles").rglob("*.yml"),
        *(ROOT / "roles").rglob("*.j2"),
    ]
    used = re.compile(r"\b((?:ansible|community)\.(?!builtin\b)[a-z]+)\.[a-z_]+")
    assert {name for file in files for name in used.findall(file.read_text())} == set(ranges)
