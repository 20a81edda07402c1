"""What Ansible writes is what the program reads."""

import json

import pytest
import yaml
from project import ROOT

from slipway.settings import Configuration, Settings, TlsConfiguration, load, load_tls


@pytest.mark.parametrize(
    ("role", "variable", "type_"),
    [
        ("host_program", "__host_program_configuration", Configuration),
        ("tls", "__tls_configuration", TlsConfiguration),
    ],
)
def test_file_has_the_keys_that_the_program_reads_and_no_others(role, variable, type_):
    variables = yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text())
    assert set(variables[variable]) == set(type_.__annotations__)


def test_files_are_read(tmp_path):
    for read in (load, load_tls):
        (tmp_path / "file").write_text(json.dumps({"host": "blog.example.org"}))
        assert read(tmp_path / "file") == {"host": "blog.example.org"}


def test_paths_are_those_of_the_roles():
    files = (ROOT / "roles/tls/vars/main.yml").read_text() + (
        ROOT / "roles/host_program/vars/main.yml"
    ).read_text()
    settings = Settings()
    assert f"file: {settings.tls_configuration}," in files
    assert f"absent: {settings.former_tls}}}" in files
    assert settings.lock == settings.runtime / "lock"
