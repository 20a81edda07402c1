"""The sandbox host and the checkouts that use it."""

import subprocess

import pytest


@pytest.mark.drill
def test_another_checkout_takes_the_sandbox_host_over_and_the_first_one_can_still_use_it(
    deploy, variables, host, sql, tmp_path
):
    posts = sql("SELECT id, title, body FROM post ORDER BY id")
    created = deploy("playbooks/sandbox.yml", f"--extra-vars=sandbox_directory={tmp_path}")
    assert created.status == 0, created.output
    try:
        known_hosts = f"UserKnownHostsFile={tmp_path}/known_hosts"
        options = ["-i", tmp_path / "id_ed25519", "-o", known_hosts, "-o", "IdentitiesOnly=yes"]
        user, address = variables["ansible_user"], variables["ansible_host"]
        login = ["-p", str(variables["ansible_port"]), f"{user}@{address}"]
        done = subprocess.run(
            ["ssh", *options, *login, "sudo", "slipway", "status"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert host.run("true").rc == 0
        assert sql("SELECT id, title, body FROM post ORDER BY id") == posts
    finally:
        host.check_output("sed -i '$d' /home/*/.ssh/authorized_keys")


def test_sandbox_host_that_runs_is_left_as_it_is(deploy):
    again = deploy("playbooks/sandbox.yml")
    assert sum(again.changed.values()) == 0, again.output
