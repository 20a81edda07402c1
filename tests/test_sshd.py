"""sshd's settings for each system, rendered by Ansible and checked by Debian 13's sshd."""

import json
import sys

import pytest
import yaml
from project import ROOT

ROLE = ROOT / "roles/baseline"
SYSTEMS = ["debian-13", "debian-12", "ubuntu-24"]
CHANGED = {
    "baseline_ssh_port": 2200,
    "baseline_ssh_allow_users": ["ops", "anna@203.0.113.0/24"],
    "baseline_ssh_penalty_exempt": ["203.0.113.0/24", "2001:db8::/32"],
    # A string, as from a command line.
    "baseline_ssh_tcp_forwarding": "true",
    "baseline_ssh_crypto": "compatible",
}
CASES = {f"{system}-{case}": (system, case) for system in SYSTEMS for case in ("defaults", "everything")}
# The OpenSSH of the two older systems does not support these.
NEWER = ["mlkem768x25519-sha256", "PerSourcePenalties"]
BROKEN = ["sha1", "cbc", "md5", "arcfour", "group1-", "umac-64", "3des"]

each_system = pytest.mark.parametrize("system", SYSTEMS)


def load(file):
    """Return the content of a YAML file of the role."""
    return yaml.safe_load((ROLE / file).read_text())


@pytest.fixture(scope="module")
def rendered(ansible, tmp_path_factory):
    """A directory with the rendered file of each case; one run of Ansible renders all of them."""
    directory = tmp_path_factory.mktemp("sshd")
    role = load("defaults/main.yml") | load("vars/main.yml")
    always = {"ansible_user": "ops", "ansible_python_interpreter": sys.executable}
    hosts = {
        name: role | load(f"vars/{system}.yml") | always | (CHANGED if case == "everything" else {})
        for name, (system, case) in CASES.items()
    }
    inventory = directory / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    template = f"src={ROLE}/templates/00-slipway.conf.j2 dest={directory}/{{{{ inventory_hostname }}}}"
    how = ("--inventory", inventory, "--connection", "local", "--forks", len(hosts))
    done = ansible("adhoc", "all", *how, "--module-name", "ansible.builtin.template", "--args", template)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def settings(file):
    """Return sshd's configuration as a dictionary."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)


@pytest.mark.parametrize("case", CASES)
def test_sshd_accepts_its_settings(rendered, check, case):
    script = "mkdir -p /run/sshd && /usr/sbin/sshd -T -f /sshd.conf"
    done = check(f"--volume={rendered / case}:/sshd.conf:ro", command=["sh", "-euc", script])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    in_force = done.stdout.splitlines()
    written = settings(rendered / case)
    for name in ("Port", "KexAlgorithms", "Ciphers", "MACs", "MaxStartups", "AllowTcpForwarding"):
        assert f"{name.lower()} {written[name]}" in in_force
    for user in written["AllowUsers"].split():
        assert f"allowusers {user}" in in_force


@pytest.mark.parametrize("case", CASES)
def test_sshd_counts_an_ipv6_network_as_one_client_for_penalties(rendered, case):
    written = settings(rendered / case)
    assert ("PerSourcePenalties" in written) == (written.get("PerSourceNetBlockSize") == "32:64")


@each_system
def test_algorithms_are_supported_by_the_system_and_not_broken(rendered, system):
    text = (rendered / f"{system}-everything").read_text()
    assert [word in text for word in NEWER] == [system == "debian-13"] * 2
    assert [word for word in BROKEN if word in text] == []


@each_system
def test_compatible_algorithms_include_all_hardened_ones(system):
    algorithms = load(f"vars/{system}.yml")["__baseline_ssh_algorithms"]
    for name, hardened in algorithms["hardened"].items():
        assert [value for value in algorithms["compatible"][name] if value in hardened] == hardened, name


@each_system
def test_defaults_disable_optional_features(rendered, system):
    written = settings(rendered / f"{system}-defaults")
    assert written["AllowUsers"] == "ops"
    assert written["Port"] == "22"
    switches = ["PermitRootLogin", "PasswordAuthentication", "KbdInteractiveAuthentication", "X11Forwarding"]
    switches += ["AllowTcpForwarding", "AllowAgentForwarding", "AllowStreamLocalForwarding", "PermitTunnel"]
    assert {name: written[name] for name in switches} == dict.fromkeys(switches, "no")
    assert "PerSourcePenaltyExemptList" not in written
