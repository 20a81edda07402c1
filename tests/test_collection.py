"""The collection slipway.blog as users install it: built, and installed in an empty directory."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from project import ROLES, ROOT, load_program

tree_digest = load_program(ROOT / "plugins/filter/tree_digest.py").tree_digest

INVENTORY = {
    "slipway": {
        "hosts": {"blog-1": {"ansible_host": "192.0.2.1"}},
        "vars": {"stack_domain": "blog.example.org", "release_admin_email": "anna@example.org"},
    }
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A directory outside the checkout, with a user's inventory and the installed collection."""
    directory = tmp_path_factory.mktemp("user")
    (directory / "hosts.yml").write_text(yaml.safe_dump(INVENTORY))
    text = (ROOT / "docs/operations.md").read_text()
    build, install = re.findall(r"^    ansible-galaxy collection (.*)$", text, re.MULTILINE)
    galaxy(directory, *build.replace("../slipway", str(ROOT)).split())
    galaxy(directory, *install.split())
    return directory


@pytest.fixture(scope="module")
def installed(outside):
    """The directory of the installed collection."""
    return outside / "collections/ansible_collections/slipway/blog"


def galaxy(directory, *arguments):
    return run(directory, "galaxy", "collection", *arguments)


def run(directory, command, *arguments):
    """Run an Ansible command without the repository's configuration; return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [sys.executable, "-m", "ansible", command, *map(str, arguments)],
        cwd=directory,
        env=environment | {"ANSIBLE_COLLECTIONS_PATH": str(directory / "collections")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_each_playbook_is_found_by_its_full_name(outside, installed, playbook):
    listed = run(outside, "playbook", "--inventory", "hosts.yml", "--list-tasks", f"slipway.blog.{playbook}")
    assert f"playbook: {installed / 'playbooks' / playbook}.yml" in listed


def test_playbook_of_a_user_finds_each_role(outside):
    roles = [role.full_name for role in ROLES if role.name != "sandbox"]
    (outside / "mine.yml").write_text(yaml.safe_dump([{"hosts": "slipway", "roles": roles}]))
    listed = run(outside, "playbook", "--inventory", "hosts.yml", "--list-tasks", "mine.yml")
    for role in ROLES:
        if role.name not in ("sandbox", "host"):
            assert f"{role.full_name} : " in listed


@pytest.mark.parametrize("place", ["app", "roles/images/files"])
def test_installed_collection_gives_images_the_same_tags_as_the_checkout(installed, place):
    """A tag is a digest of the files that go into the image."""
    exclude = yaml.safe_load((ROOT / "roles/images/vars/main.yml").read_text())["__images_blog_exclude"]
    assert tree_digest(installed / place, exclude=exclude) == tree_digest(ROOT / place, exclude=exclude)


def test_collection_has_the_whole_host_program(installed):
    there, here = ({path.name for path in root.glob("host/slipway/*.py")} for root in (installed, ROOT))
    assert there == here


def test_private_files_stay_out_of_the_collection(tmp_path):
    """Everybody keeps an inventory in the clone, perhaps with secrets that are not encrypted."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in [*files.stdout.split(), "inventory/mine/vault.yml", "my-posts/a.md", "app/.env"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "galaxy.yml").write_text((ROOT / "galaxy.yml").read_text())
    galaxy(tmp_path, "build", "--output-path", "dist")
    [archive] = tmp_path.glob("dist/*.tar.gz")
    with tarfile.open(archive) as content:
        names = content.getnames()
    assert "roles/stack/tasks/main.yml" in names
    assert [name for name in names if "mine" in name or "my-posts" in name or name.endswith(".env")] == []


@pytest.mark.parametrize("path", ["tests", "molecule", "bench", "app/tests", "host/tests", ".git", ".venv"])
def test_collection_leaves_out_tests_and_tools(installed, path):
    assert not (installed / path).exists()


def test_collection_keeps_the_modes_of_programs(installed):
    for path in ROOT.glob("roles/*/files/**/*"):
        if path.is_file():
            other = installed / path.relative_to(ROOT)
            assert os.access(other, os.X_OK) == os.access(path, os.X_OK), other


def ansible_builder(directory, *arguments):
    """Run ansible-builder; return its output."""
    program = Path(sys.executable).with_name("ansible-builder")
    done = subprocess.run([program, *arguments], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_collection_names_its_python_requirements(outside):
    """The requirements leave out Ansible itself, which is part of each execution environment."""
    found = yaml.safe_load(ansible_builder(outside, "introspect", "collections"))
    assert [requirement.split()[0] for requirement in found["python"]] == ["distlib", "netaddr", "requests"]


def test_execution_environment_has_a_build_context(outside, tmp_path):
    """The test does not build the image, because its base image is not available on closed networks."""
    definition = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
    [archive] = outside.glob("slipway-blog-*.tar.gz")
    [given] = definition["additional_build_files"]
    assert given["src"].endswith(f"/{archive.name}")
    definition["additional_build_files"] = [{**given, "src": str(archive)}]
    (tmp_path / "execution-environment.yml").write_text(yaml.safe_dump(definition))
    ansible_builder(tmp_path, "create", "--context", "context")
    assert (tmp_path / "context/_build/collections" / archive.name).is_file()
