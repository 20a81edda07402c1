"""Fixtures: the sandbox host, its variables, its open ports, and playbooks against it."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import testinfra
import yaml
from outside import ENVIRONMENT, ROOT, Machine, play


@pytest.fixture(scope="session")
def inventory(pytestconfig):
    """The path of the inventory of the Molecule scenario."""
    return pytestconfig.getoption("ansible_inventory")


@pytest.fixture(scope="session")
def hostname(pytestconfig):
    """The host's name in the inventory."""
    return pytestconfig.getoption("hosts").removeprefix("ansible://")


@pytest.fixture(scope="session")
def variables(inventory, hostname):
    """The defaults of all roles, overridden by the host's variables as Ansible resolves them."""
    command = ["ansible", hostname, "--inventory", inventory, "--module-name", "debug", "--one-line"]
    done = subprocess.run(
        [*command, "--args", "var=hostvars[inventory_hostname]"],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    resolved = json.loads(done.stdout.partition("=> ")[2])["hostvars[inventory_hostname]"]
    defaults = [yaml.safe_load(file.read_text()) for file in ROOT.glob("roles/*/defaults/main.yml")]
    return {key: value for role in defaults for key, value in role.items()} | resolved


@pytest.fixture(scope="session")
def host(variables, tmp_path_factory):
    """The host for testinfra, which runs commands there as root, over one SSH connection."""
    control = tmp_path_factory.mktemp("ssh") / "%C"
    return testinfra.get_host(
        f"ssh://{variables['ansible_user']}@{variables['ansible_host']}:{variables['ansible_port']}",
        sudo=True,
        ssh_identity_file=variables["ansible_ssh_private_key_file"],
        ssh_extra_args=f"{variables['ansible_ssh_common_args']} -o ControlMaster=auto -o ControlPersist=60 "
        f"-o ControlPath={control}",
    )


@pytest.fixture(scope="session")
def machine(hostname):
    """The container in which the host runs."""
    return Machine(f"slipway-{hostname}")


SCANNER = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends iproute2 nmap && rm -rf /var/lib/apt/lists/*
"""


@pytest.fixture(scope="session")
def run_on_neighbour(hostname):
    """Run a shell command on a neighbour of the host: another container on its network, which has nmap."""
    base = yaml.safe_load((ROOT / "roles/sandbox/vars/main.yml").read_text())["__sandbox_base_image"]
    image, name = "slipway/neighbour", f"slipway-test-neighbour-{hostname}"

    def docker(*arguments, **options):
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, **options)

    docker("build", "--build-arg", f"BASE_IMAGE={base}", "--tag", image, "-", input=SCANNER)
    how = ["--label=slipway.test", "--network=slipway-sandbox", "--cap-add=NET_ADMIN", "--init", "--rm"]
    docker("run", "--detach", f"--name={name}", *how, image, "sleep", "infinity")
    yield lambda command: docker("exec", name, "bash", "-c", command).stdout
    docker("rm", "--force", name)


@pytest.fixture(scope="session")
def scan(run_on_neighbour, machine):
    """Scan TCP ports, by default all ports of the host. Return the open ports by address family."""

    def scan(ports=range(1, 65536), addresses=None):
        addresses = addresses or {"ipv4": machine.ipv4, "ipv6": machine.ipv6}
        named = ",".join(map(str, ports)) if len(ports) < 100 else f"{ports[0]}-{ports[-1]}"
        # nmap sends at most two probes to a port that drops packets.
        nmap = f"nmap -n -Pn -sS -T5 --min-rate 30000 --max-retries 1 --open -oG - -p {named}"
        with ThreadPoolExecutor() as pool:
            found = pool.map(
                run_on_neighbour, [f"{nmap} -{family[-1]} {address}" for family, address in addresses.items()]
            )
        return {
            family: {int(port) for port in re.findall(r"(\d+)/open/", text)}
            for family, text in zip(addresses, found, strict=True)
        }

    return scan


@pytest.fixture(scope="session")
def open_ports(variables):
    """The TCP ports that must be open to the world."""
    https = set() if variables["tls_mode"] == "off" else {variables["stack_https_port"]}
    return {variables["baseline_ssh_port"], variables["stack_http_port"]} | https


@pytest.fixture(scope="session")
def deploy(inventory, hostname):
    """Run a playbook against this host, and return its Outcome."""
    return lambda playbook, *arguments, **environment: play(
        playbook, "--inventory", inventory, "--limit", hostname, *arguments, **environment
    )
