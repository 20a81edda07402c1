"""The fixture `canary` searches the host for marks: unique strings that a test puts into secrets."""

import subprocess
from types import SimpleNamespace

import pytest
from outside import wait_until
from planted_secrets import forms

# A shell script that prints each place where a mark is. The last search runs as the user nobody.
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

# A program that polls all processes. It records those whose command line or environment contains a mark.
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


@pytest.fixture
def canary(host, hostname):
    """Functions that search the host for marks, and for the base64 forms of marks.

    watch(*marks): begin to search the command lines and environments of processes.
    scan(): return the places where a mark is now, and the findings among processes since `watch`.
    rounds(): return how often all processes have been searched.
    """

    def put(name, content):
        # Send the content through stdin, because sudo would log the marks in a command line.
        command = ["docker", "exec", "--interactive", f"slipway-{hostname}", "tee", f"/run/canary/{name}"]
        subprocess.run(command, input=content, text=True, check=True, stdout=subprocess.DEVNULL)

    def watch(*marks):
        host.check_output("mkdir --parents /run/canary")
        put("pattern", "".join(f"{form}\n" for mark in marks for form in forms(mark)))
        put("scan", SCAN)
        put("watch", WATCH)
        host.check_output("systemd-run --quiet --collect --unit=slipway-canary python3 /run/canary/watch")
        wait_until(lambda: rounds() > 0, 10, "the watch has looked at all processes")

    def rounds():
        return int(host.run("wc --bytes < /run/canary/rounds").stdout or 0)

    def scan():
        assert host.run("systemctl is-active slipway-canary").rc == 0
        return sorted(set(host.check_output("sh /run/canary/scan").splitlines()))

    yield SimpleNamespace(watch=watch, scan=scan, rounds=rounds)
    host.run("systemctl stop slipway-canary; rm --recursive --force /run/canary")
