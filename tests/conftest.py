"""Fixtures shared by several test files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from host_file_sets import digest_of
from parsers import check
from project import ROOT, load_program
from template_cases import CASES, SLOT_IMAGES

# This fixture is in parsers.py, because host/tests uses it too.
__all__ = ["check"]


@pytest.fixture(scope="session")
def ansible():
    """A function that runs an Ansible command in this repository, as in ansible("playbook", "site.yml")."""

    def run(command, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "ansible", command, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )

    return run


# --- The module host_files ----------------------------------------------------------------------------------


@pytest.fixture
def host_files(tmp_path, capsys):
    """A function that runs the module with paths below `place`; it returns the result, or the failure."""
    place, main = tmp_path / "host", load_program(ROOT / "plugins/modules/host_files.py").main
    place.mkdir()

    def run(*files, check=False, fails=False, **arguments):
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
            patch_module_args(
                {"files": entries, "record": str(tmp_path / "state/files.json"), **arguments, **always}
            ),
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


# --- Rendered templates -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rendered_cases(ansible, tmp_path_factory):
    """A directory with the rendered files of each case; one run of Ansible renders all of them."""
    directory = tmp_path_factory.mktemp("rendered")
    inventory = directory / "inventory.yml"
    inventory.write_text(json.dumps({"all": {"hosts": CASES}}, ensure_ascii=False))
    done = ansible(
        "playbook",
        "--inventory",
        inventory,
        "--extra-vars",
        f"render_to={directory}",
        "--tags",
        "render",
        ROOT / "tests/render.yml",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="session", params=CASES)
def template_case(request):
    """The name of one case."""
    return request.param


@pytest.fixture(scope="session")
def variables(template_case):
    """The case's variables, on top of the defaults of the roles baseline, stack and tls."""
    defaults = [ROOT / f"roles/{role}/defaults/main.yml" for role in ("baseline", "stack", "tls")]
    merged = {name: value for file in defaults for name, value in yaml.safe_load(file.read_text()).items()}
    return merged | CASES[template_case]


@pytest.fixture(scope="session")
def has_tls(variables):
    """Whether the case has HTTPS."""
    return variables["tls_mode"] is not False


@pytest.fixture(scope="session")
def has_http3(variables, has_tls):
    """Whether the case has HTTP/3."""
    return has_tls and bool(variables["stack_http3"])


@pytest.fixture(scope="session")
def rendered_files(template_case, rendered_cases):
    """The directory of the files that were rendered for the case."""
    return rendered_cases / template_case


@pytest.fixture(scope="session")
def compose(rendered_files, check):
    """The output of `docker compose config` for compose.yml, with all profiles."""
    environment = [f"--env={name}={image}" for name, image in SLOT_IMAGES.items()]
    command = ["docker", "compose", "--file=-", "--profile=*", "config", "--format=json"]
    done = check(*environment, command=command, stdin=(rendered_files / "compose.yml").read_text())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # Compose writes $ as $$, so that it can read its own output.
    return json.loads(done.stdout.replace("$$", "$"))


@pytest.fixture(scope="session")
def services(compose):
    """Compose's services by name."""
    return compose["services"]


@pytest.fixture(scope="session")
def blog_conf(rendered_files):
    """nginx's rendered configuration."""
    return (rendered_files / "blog.conf").read_text()


@pytest.fixture(scope="session")
def configuration(rendered_files):
    """A part of the configuration of the program slipway: the rendered stack.json and release.json."""
    stack, release = (
        json.loads((rendered_files / f"{role}.json").read_text()) for role in ("stack", "release")
    )
    return stack | release
