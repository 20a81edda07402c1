"""Ansible writes the configuration keys that the program reads."""

import json
import re

import yaml
from project import ROOT

from slipway.settings import Configuration, Settings, TlsConfiguration, load, load_tls


def test_templates_contain_exactly_the_keys_that_the_program_reads():
    written = [
        key
        for role in ("stack", "backup", "release")
        for key in re.findall(r'^    "(\w+)":', template(role).read_text(), re.MULTILINE)
    ]
    assert sorted(written) == sorted(Configuration.__annotations__)


def template(role):
    return ROOT / f"roles/{role}/templates/{role}.json.j2"


def test_tls_variable_contains_exactly_the_keys_that_the_program_reads():
    variables = yaml.safe_load((ROOT / "roles/tls/vars/main.yml").read_text())
    assert set(variables["__tls_configuration"]) == set(TlsConfiguration.__annotations__)


def test_tls_configuration_is_read(tmp_path):
    (tmp_path / "file").write_text(json.dumps({"names": ["blog.example.org"]}))
    assert load_tls(tmp_path / "file") == {"names": ["blog.example.org"]}


def test_configuration_of_the_roles_overrides_that_of_a_former_version(tmp_path):
    paths = former, stack, backup, release = Settings(project=tmp_path).configuration
    assert load(paths) == {}
    former.write_text(json.dumps({"host": "old.example.org", "keep": 3, "public": "127.0.0.1:80"}))
    stack.write_text(json.dumps({"host": "blog.example.org"}))
    backup.write_text(json.dumps({"backup_repository": "s3"}))
    release.write_text(json.dumps({"keep": 5}))
    assert load(paths) == {
        "host": "blog.example.org",
        "keep": 5,
        "public": "127.0.0.1:80",
        "backup_repository": "s3",
    }


def test_paths_match_those_of_the_roles():
    files = (ROOT / "roles/tls/tasks/prepare.yml").read_text()
    settings = Settings()
    assert f"file: {settings.tls_configuration}\n" in files
    assert f"absent: {settings.former_tls}\n" in files
    assert settings.lock == settings.runtime / "lock"
