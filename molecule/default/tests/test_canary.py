"""Secrets must not leak. Plays run with marked secrets, -vvv and --diff; then a scan searches for the marks.

The marked secrets come from an encrypted file, as in production. They stay on the host after the tests.
"""

import base64
import json
import os
import secrets as random
import subprocess
from pathlib import Path

import pytest
from certificates import make_certificate
from outside import ROOT, play, wait_until
from planted_secrets import VERBOSE, files_on_control_node, is_shown

NAMES = [
    "db_superuser_password",
    "db_migrator_password",
    "db_app_password",
    "app_secret_key",
    "admin_password",
]


def test_scan_finds_a_mark_in_each_kind_of_place(
    canary, host, hostname, docker, containers, tmp_path, inventory
):
    mark = f"bait{random.token_hex(12)}"
    canary.watch(mark)
    # sudo logs the following command lines, so the scan must find the mark in the journal.
    files = ["/opt/slipway/bait", "/var/lib/slipway/bait", "/var/log/bait", "/usr/share/bait"]
    try:
        for file in files:
            host.check_output("echo %s > %s", mark, file)
        encoded = base64.b64encode(f"..{mark}".encode()).decode()
        host.check_output("echo %s > /tmp/bait && chmod 0644 /tmp/bait", encoded)
        host.check_output("systemd-run --quiet --collect --unit=slipway-bait sleep 600 %s || true", mark)
        host.check_output(
            "systemd-run --quiet --collect --unit=slipway-bait --setenv=BAIT=%s sleep 600", mark
        )
        wait_until(lambda: host.run("grep environ /run/canary/processes").rc == 0, 10, "a mark is found")
        nginx = containers["nginx"]["Image"]
        docker("run --name bait --env BAIT=%s --entrypoint sh %s -c 'echo $BAIT'", mark, nginx)
        docker("tag %s bait:source", nginx)
        host.check_output(
            "echo %s | docker build --quiet --tag bait:built -", f"FROM bait:source\nENV BAIT={mark}"
        )
        found = canary.scan()
    finally:
        host.run("systemctl stop slipway-bait; docker rm --force bait; docker rmi bait:built bait:source")
        host.run(f"rm --force /tmp/bait {' '.join(files)}")
    expected = {
        "docker inspect of a container",
        "docker inspect of an image",
        "image history",
        "log of a container",
        "journal",
        "systemd unit",
        "cmdline of a process",
        "environ of a process",
        *files[:3],
        "/tmp/bait",
        "readable to all: /usr/share/bait",
        "readable to all: /tmp/bait",
    }
    assert expected - set(found) == set()

    (tmp_path / "bait.yml").write_text(
        json.dumps([{"hosts": hostname, "gather_facts": False, "tasks": [{"debug": {"msg": f"a {mark}"}}]}])
    )
    done = play(str(tmp_path / "bait.yml"), "--inventory", inventory)
    assert is_shown(mark, done.output)


@pytest.fixture
def vault(tmp_path):
    """Write a vault with secrets that begin with a mark. Return the arguments of ansible-playbook for it.

    If there is a TLS key, encrypt it with the same password, and add the variables of the certificate.
    """

    def vault(mark, names, certificate=None, key=None):
        values = {"secrets_vault": {name: f"{mark}{random.token_hex(10)}" for name in names}}
        password, file = tmp_path / "password", tmp_path / "vault.yml"
        password.write_text("the password of the vault")
        encrypt = ["ansible-vault", "encrypt", "--vault-password-file", password]
        run = {"text": True, "check": True, "cwd": ROOT, "env": os.environ, "capture_output": True}
        if key:
            subprocess.run([*encrypt, key], **run)
            files = {"tls_certificate_file": str(certificate), "tls_key_file": str(key)}
            values |= files | {"tls_mode": "provided"}
        subprocess.run([*encrypt, "--output", file], input=json.dumps(values), **run)
        return ("--extra-vars", f"@{file}", "--vault-password-file", str(password))

    return vault


# The files that change because of the test's variables.
CHANGED_FILES = [
    "/etc/slipway/tls.json",
    "/etc/slipway/tls/blog.pem",
    "/opt/slipway/stack.json",
    "/opt/slipway/release.json",
]


@pytest.fixture
def restore_changed_files(host, canary):
    """Copy these files to the canary's directory. Return a function that restores them."""

    def back():
        for file in CHANGED_FILES:
            host.check_output("mv /run/canary/%s %s", Path(file).name, file)
        host.check_output("rm /etc/slipway/secrets/webhook_token && slipway nginx reload")

    host.check_output(f"mkdir --parents /run/canary && cp --preserve {' '.join(CHANGED_FILES)} /run/canary")
    yield back
    if host.file("/run/canary/blog.pem").exists:
        back()


def test_plays_leak_no_secret(
    canary, deploy, vault, read_secrets, host, try_to_sign_in, variables, tmp_path, restore_changed_files
):
    mark = f"mark{random.token_hex(8)}"
    names = [
        variables["stack_domain"],
        *variables["stack_domain_aliases"],
        *variables["stack_domain_redirects"],
    ]
    certificate, key = make_certificate(tmp_path, names)
    # Search for the second line after BEGIN: the first one begins alike in every key of this type.
    line = key.read_text().splitlines()[2]
    canary.watch(mark, line)
    before = canary.rounds()
    everything = vault(mark, [*NAMES, "webhook_token"], certificate, key)
    webhook = ("--extra-vars", "release_webhook_url=http://127.0.0.1:9/hook")
    outputs = {"site.yml": deploy("site.yml", *VERBOSE, *everything, *webhook).output}
    # Leave out backup_passphrase: a host accepts only its own value of it, so that value has no mark.
    values = {name: value for name, value in read_secrets().items() if name != "backup_passphrase"}
    assert len(values) == 6
    assert all(value.startswith(mark) for value in values.values())
    assert "The webhook request failed" in outputs["site.yml"]
    assert canary.scan() == ["/etc/slipway/tls/blog.pem"], "only this file may contain the key"
    restore_changed_files()
    admin = try_to_sign_in(variables["release_admin_email"], values["admin_password"])
    assert admin.signed_in

    # Do not rotate the admin's password, so that only the rotation of the key can end the session.
    given, of_secrets = vault(mark, NAMES[:4]), ("--tags", "secrets,tls,stack,release")
    outputs["site.yml --check"] = deploy("site.yml", "--check", *of_secrets, *VERBOSE, *given).output
    rotate = ("playbooks/rotate_secrets.yml", *VERBOSE, *given, "--extra-vars")
    part = (
        "rotate=database,key rotate_forget=true",
        "--start-at-task",
        "Rotate | Check rotate",
    )
    outputs["rotate"] = deploy(*rotate, *part).output
    kept = [name for name, value in read_secrets().items() if value == values.get(name)]
    assert kept == ["admin_password"]
    assert not admin.is_in()
    outputs["refused"] = deploy(*rotate, *part).output
    assert "to the value that is already in service" in " ".join(outputs["refused"].split())
    outputs["status"] = deploy("playbooks/status.yml", *VERBOSE, *given).output
    assert [name for name, output in outputs.items() if "TASK [" not in output] == []
    outputs["slipway"] = host.check_output("slipway status --json; slipway logs --lines 1000")

    assert [name for name, text in outputs.items() if is_shown(mark, text) or is_shown(line, text)] == []
    assert canary.scan() == []
    assert canary.rounds() > before + 50
    assert files_on_control_node(mark) + files_on_control_node(line) == []
