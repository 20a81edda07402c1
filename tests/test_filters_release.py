"""The filter source_revision."""

import json
import subprocess

import pytest
from project import ROOT, load_program

source_revision = load_program(ROOT / "plugins/filter/source_revision.py").source_revision


@pytest.fixture
def repository(tmp_path):
    """A git repository with a tagged commit and a directory `app`."""
    identity = ("-c", "user.name=Anna", "-c", "user.email=anna@example.org")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/app.py").touch()
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "First"], ["tag", "v1"]):
        subprocess.run(["git", *identity, "-C", tmp_path, *command], check=True)
    subprocess.run(["git", *identity, "-C", tmp_path, "tag", "-a", "-m", "v2", "v2"], check=True)
    return tmp_path


def test_directory_in_a_repository_has_its_git_revision(repository):
    assert source_revision(repository / "app") == "v2"
    (repository / "app/app.py").write_text("print()\n")
    assert source_revision(repository / "app") == "v2-dirty"


def test_installed_collection_has_its_version_even_in_another_repository(repository):
    collection = repository / "collections/ansible_collections/slipway/blog"
    (collection / "roles/release").mkdir(parents=True)
    (collection / "MANIFEST.json").write_text(json.dumps({"collection_info": {"version": "0.1.0"}}))
    assert source_revision(collection / "roles/release") == "0.1.0"


def test_directory_without_a_repository_has_no_revision(tmp_path):
    assert source_revision(tmp_path) == ""
    assert source_revision(tmp_path / "missing") == ""
