"""Secrets do not leak: plays run with marked secrets, -vvv and --diff; then a scan searches for the marks.

The marked secrets come from an encrypted file, as in production. They stay: they are as good as others.
"""

import base64
import json
import os
import re
import secrets as random
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from certificates import make_certificate
from outside import ROOT, play, wait_until

NAMES = [
    "db_superuser_password",
    "db_migrator_password",
    "db_app_password",
    "app_secret_key",
    "admin_password",
]
LOUD = ("-vvv", "--diff")

# Prints each place that contains a pattern. The last search runs as the user nobody.
SCAN = """
export LC_ALL=C
pattern=/run/canary/pattern
is_in() { ! grep --text --quiet --fixed-strings --file=$pattern || echo "$1"; }
all() { docker ps --all --quiet; }
all | xargs docker inspect | is_in "docker inspect of a container"
docker images --all --quiet | sort -u | xargs docker inspect | is_in "docker inspect of an image"
for id in $(docker images --quiet | sort -u); do docker history --no-trunc $id; done | is_in "image history"
for id in $(all); do docker logs $id 2>&1; done | is_in "log of a container"
for id in $(docker ps --quiet); do docker exec $id env; done | is_in "environment in a container"
docker compose --project-directory /opt/slipway --profile '*' config | is_in "docker compose config"
journalctl --quiet --output=export | is_in "journal"
systemctl show '*' | is_in "systemd unit"
search="grep --text --no-messages --recursive --files-with-matches --fixed-strings --file=$pattern"
volumes=$(docker volume ls --quiet | xargs docker volume inspect --format '{{ .Mountpoint }}')
$search --exclude-dir=canary --exclude-dir=in-service --exclude-dir=secrets \\
    /etc /home /opt /root /run /tmp /var/lib/docker/containers /var/lib/slipway /var/log /var/tmp $volumes
search="$search --exclude-dir=canary --exclude-dir=proc --exclude-dir=sys"
runuser --user nobody -- $search / | sed 's/^/readable to all: /'
cat /run/canary/processes
true
"""

# Polls all processes, and records those whose command line or environment contains a pattern.
WATCH = """
import pathlib, time
place = pathlib.Path("/run/canary")
patterns = [line.encode() for line in (place / "pattern").read_text().splitlines()]
seen = set()
(place / "processes").touch()
while True:
    for file in pathlib.Path("/proc").glob("[0-9]*/*"):
        if file.name not in ("cmdline", "environ"):
            continue
        try:
            content = file.read_bytes()
        except OSError:
            continue
        if any(pattern in content for pattern in patterns) and file not in seen:
            seen.add(file)
            with (place / "processes").open("a") as found:
                found.write(f"{file.name} of a process\\n")
    (place / "rounds").open("a").write("x")
    time.sleep(0.05)
"""


def forms(mark):
    """Return mark, and its base64 form for each offset that it may have in a longer text."""
    encoded = [base64.b64encode(b"\0" * before + mark.encode()).decode() for before in range(3)]
    # Cut the first and the last characters, which depend on the text around it.
    return [mark, *(text[4 if before else 0 : -4] for before, text in enumerate(encoded))]


@pytest.fixture
def canary(host, hostname):
    """Watch the host for marks and their forms after `watch`; `scan` returns where they are or were."""

    def put(name, content):
        # Through stdin, because sudo would log a command line.
        command = ["docker", "exec", "--interactive", f"slipway-{hostname}", "tee", f"/run/canary/{name}"]
        subprocess.run(command, input=content, text=True, check=True, stdout=subprocess.DEVNULL)

    def watch(*marks):
        host.check_output("mkdir --parents /run/canary")
        put("pattern", "".join(f"{form}\n" for mark in marks for form in forms(mark)))
        put("scan", SCAN)
        put("watch", WATCH)
        host.check_output("systemd-run --quiet --collect --unit=slipway-canary python3 /run/canary/watch")
        wait_until(lambda: rounds() > 0, 10, "the watch looks at processes")

    def rounds():
        return int(host.run("wc --bytes < /run/canary/rounds").stdout or 0)

    def scan():
        assert host.run("systemctl is-active slipway-canary").rc == 0
        return sorted(set(host.check_output("sh /run/canary/scan").splitlines()))

    yield SimpleNamespace(watch=watch, scan=scan, rounds=rounds)
    host.run("systemctl stop slipway-canary; rm --recursive --force /run/canary")


def on_this_machine(mark):
    """Return the temporary files that Ansible left on the control node and that contain the mark."""
    places = [Path.home() / ".ansible", *Path(tempfile.gettempdir()).glob("ansible*")]
    found = []
    for form in forms(mark):
        command = [
            "grep",
            "--text",
            "--no-messages",
            "--recursive",
            "--files-with-matches",
            "--fixed-strings",
        ]
        found += subprocess.run([*command, form, *places], capture_output=True, text=True).stdout.split()
    return found


def shown(mark, text):
    """Return whether text contains a form of the mark, also if Ansible wrapped its lines."""
    return any(form in part for form in forms(mark) for part in (text, re.sub(r"\s+", "", text)))


def test_canary_finds_what_is_to_be_found(canary, host, hostname, docker, containers, tmp_path, inventory):
    """The scan finds a mark in each kind of place."""
    mark = f"bait{random.token_hex(12)}"
    canary.watch(mark)
    # sudo logs the command lines with this mark, so the scan must find it in the journal.
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
        wait_until(lambda: host.run("grep environ /run/canary/processes").rc == 0, 10, "an environment")
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
    assert shown(mark, done.output)


@pytest.fixture
def vault(tmp_path):
    """Encrypt values with a mark, like an inventory's vault; return ansible-playbook's arguments for them.

    If a TLS key is given, encrypt it with the same password, and add its variables.
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


# Files that the test's variables change.
OURS = [
    "/etc/slipway/tls.json",
    "/etc/slipway/tls/blog.pem",
    "/opt/slipway/stack.json",
    "/opt/slipway/release.json",
]


@pytest.fixture
def as_before(host, canary):
    """Keep copies of these files in the canary's directory; return a function that restores them."""

    def back():
        for file in OURS:
            host.check_output("mv /run/canary/%s %s", Path(file).name, file)
        host.check_output("rm /etc/slipway/secrets/webhook_token && slipway nginx reload")

    host.check_output(f"mkdir --parents /run/canary && cp --preserve {' '.join(OURS)} /run/canary")
    yield back
    if host.file("/run/canary/blog.pem").exists:
        back()


def test_no_secret_leaves_its_place(
    canary, deploy, vault, read_secrets, host, signs_in, variables, tmp_path, as_before
):
    mark = f"mark{random.token_hex(8)}"
    names = [
        variables["stack_domain"],
        *variables["stack_domain_aliases"],
        *variables["stack_domain_redirects"],
    ]
    certificate, key = make_certificate(tmp_path, names)
    # The second line of the key, because the first begins with the same letters in each such key.
    line = key.read_text().splitlines()[2]
    canary.watch(mark, line)
    before = canary.rounds()
    everything = vault(mark, [*NAMES, "webhook_token"], certificate, key)
    webhook = ("--extra-vars", "release_webhook_url=http://127.0.0.1:9/hook")
    outputs = {"site.yml": deploy("site.yml", *LOUD, *everything, *webhook).output}
    values = read_secrets()
    assert (len(values), all(value.startswith(mark) for value in values.values())) == (6, True)
    assert "The webhook did not take it" in outputs["site.yml"]
    assert canary.scan() == ["/etc/slipway/tls/blog.pem"], "the key is there, and nowhere else"
    as_before()
    admin = signs_in(variables["release_admin_email"], values["admin_password"])
    assert admin.signed_in

    # Keep the admin's password, so that only the forgotten key can end the session.
    given, of_secrets = vault(mark, NAMES[:4]), ("--tags", "secrets,tls,stack,release")
    outputs["site.yml --check"] = deploy("site.yml", "--check", *of_secrets, *LOUD, *given).output
    rotate = ("playbooks/rotate_secrets.yml", *LOUD, *given, "--extra-vars")
    part = (
        "rotate=database,key rotate_forget=true",
        "--start-at-task",
        "Rotate | Check rotate",
    )
    outputs["rotate"] = deploy(*rotate, *part).output
    assert [name for name, value in read_secrets().items() if value == values[name]] == ["admin_password"]
    assert not admin.is_in()
    outputs["refused"] = deploy(*rotate, *part).output
    assert "to the value that is already in service" in " ".join(outputs["refused"].split())
    outputs["status"] = deploy("playbooks/status.yml", *LOUD, *given).output
    assert [name for name, output in outputs.items() if "TASK [" not in output] == []
    outputs["slipway"] = host.check_output("slipway status --json; slipway logs --lines 1000")

    assert [name for name, text in outputs.items() if shown(mark, text) or shown(line, text)] == []
    assert canary.scan() == []
    assert canary.rounds() > before + 50
    assert on_this_machine(mark) + on_this_machine(line) == []
