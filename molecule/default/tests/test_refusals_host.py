"""A host that Slipway cannot use is refused before anything changes, with one message and its solution."""

import subprocess

import pytest
from outside import play
from refusals import Case, each, extra

# Use a new connection, because SSH checks no keys on a connection that is already open.
NEW_CONNECTION = {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ControlPath=none"}


def with_other_host_key(context):
    """Run site.yml with a known_hosts file that has another key for the host."""
    key = context.tmp / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().split()[:2]
    known = context.tmp / "known_hosts"
    address = f"[{context.connection['ansible_host']}]:{context.connection['ansible_port']}"
    known.write_text(f"{address} {' '.join(public)}\n")
    options = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
    return context.deploy("site.yml", *extra(ansible_ssh_common_args=options), **NEW_CONNECTION)


def without_key(context):
    """Run site.yml without a valid key for the inventory's user and for the users of a new host."""
    variables = {
        "ansible_ssh_private_key_file": "/dev/null",
        "baseline_bootstrap_users": ["root", "debian"],
    }
    return context.deploy("site.yml", *extra(**variables), **NEW_CONNECTION)


CASES = [
    Case(
        "unreachable",
        [
            "Cannot connect to molecule-default as ops at 127.0.0.1, port 1",
            "Connection refused",
            "Check ansible_host, ansible_port and ansible_user",
        ],
        {"ansible_port": "1"},
    ),
    Case(
        "other host key",
        ["Cannot connect to molecule-default", "HOST IDENTIFICATION HAS CHANGED", "remove with: ssh-keygen"],
        run=with_other_host_key,
    ),
    Case(
        "no valid key",
        [
            "Cannot connect to molecule-default as ops at 127.0.0.1",
            "Permission denied (publickey)",
            "The users of a new host cannot log in either (root, debian). Check ansible_host",
        ],
        run=without_key,
    ),
    Case(
        "user who cannot become root",
        ["guest cannot become root on molecule-default", "passwordless sudo", "--ask-become-pass"],
        {"ansible_user": "guest"},
    ),
    Case(
        "limit to an unknown host",
        ["leaves us with no hosts to target"],
        run=lambda context: play("site.yml", "--inventory", context.inventory, "--limit", "nosuch"),
    ),
    Case(
        "unknown inventory",
        ["parse inventory source", "/inventory/nosuch"],
        run=lambda context: play("site.yml", "--inventory", "inventory/nosuch"),
    ),
    Case(
        "not enough disk space",
        [
            "/var/lib/docker on molecule-default has",
            "needs 99999999 MB (docker_min_disk_mb)",
            "Free some space",
        ],
        {"docker_min_disk_mb": "99999999"},
    ),
    Case(
        "not enough memory for two slots",
        [
            "MB of memory, but the stack needs {two_slots} MB",
            "stack_flask_blog_memory_mb twice",
            "Lower or remove the limits in your inventory",
        ],
        {"stack_flask_blog_memory_mb": "{memory}"},
    ),
    Case(
        "swap larger than the disk",
        ["baseline_swap_mb is 99999999", "MiB free", "0 for no swap"],
        {"baseline_swap_mb": "99999999"},
    ),
]


@pytest.fixture(scope="module")
def preparations(host, variables):
    """Create the user guest on the host, who can log in but cannot become root."""
    home, user = "/home/guest/.ssh", variables["ansible_user"]
    allowed = "/etc/ssh/sshd_config.d/50-guest.conf"
    host.check_output(
        "useradd --create-home guest && mkdir %s && cp /home/%s/.ssh/authorized_keys %s", home, user, home
    )
    host.check_output("echo AllowUsers guest > %s && systemctl reload ssh", allowed)
    yield host.check_output("chown -R guest: %s", home)
    host.check_output("rm %s && systemctl reload ssh", allowed)
    host.check_output("pkill -KILL -u guest; userdel --force --remove guest")


@each(CASES)
def test_unusable_host_is_refused(case, assert_refused):
    assert_refused(case)


@pytest.fixture
def debian_11(host):
    """Make the host report Debian 11."""
    files = {"/usr/lib/os-release": "s/\\b13\\b/11/; s/trixie/bullseye/", "/etc/debian_version": "s/.*/11.9/"}
    for number, (path, change) in enumerate(files.items()):
        host.check_output("sed %s %s > /run/slipway-test-%s", change, path, str(number))
        host.check_output("mount --bind /run/slipway-test-%s %s", str(number), path)
    yield
    for number, path in enumerate(files):
        host.check_output("umount %s && rm /run/slipway-test-%s", path, str(number))


def test_unsupported_distribution_is_refused(debian_11, deploy, hostname):
    outcome = deploy("site.yml")
    assert outcome.status == 2
    assert outcome.changed == {hostname: 0}
    [message] = outcome.errors
    assert "molecule-default runs Debian 11.9; Slipway supports Debian 12, Debian 13, Ubuntu 24.04" in message
    assert "Reinstall the host" in message
