"""Remove Slipway from the host, and install it again with the data that it left. Part of `make soak`."""

import pytest

pytestmark = pytest.mark.soak

# A script that finds Slipway's objects by name or path.
FIND = """
find /etc /opt /usr/local /var/lib -path /var/lib/docker -prune -o -path /etc/slipway -prune \\
    -o \\( -name '*slipway*' -o -lname '*slipway*' \\) -print
docker ps --all --quiet
docker network ls --quiet --filter name=slipway
systemctl list-units --all --no-legend --plain 'slipway-*'
""".strip()
# The settings of the role baseline stay, and so does the directory of the dumps.
STAYS = {
    "/var/lib/slipway",
    "/etc/apt/apt.conf.d/52slipway",
    "/etc/modprobe.d/slipway.conf",
    "/etc/ssh/sshd_config.d/00-slipway.conf",
    "/etc/sudoers.d/slipway",
    "/etc/sysctl.d/60-slipway.conf",
    "/etc/systemd/journald.conf.d/slipway.conf",
}


VOLUMES = ("backup_volume", "db_volume", "media_volume")
DUMP = "/var/lib/slipway/dumps/20260101-000000.dump"
# Commands that create foreign objects with Slipway's names.
OTHERS = {
    ("volume", "db_volume"): "volume create db_volume",
    ("network", "slipway_edge"): "network create slipway_edge",
    ("network", "another"): "network create --opt com.docker.network.bridge.name=slipway-data another",
    ("container", "slipway-nginx-1"): "create --name slipway-nginx-1 {image} true",
}


@pytest.fixture
def teardown(deploy):
    """Remove Slipway from the host, and also its data if the host's name is typed. Return the Outcome."""
    return lambda typed="": deploy("playbooks/teardown.yml", "--extra-vars", f"teardown_data_of={typed}")


@pytest.fixture
def volumes(docker):
    """Return the names of the volumes on the host."""
    return lambda: sorted(docker("volume ls --quiet").split())


@pytest.fixture
def image_users(docker):
    """Create foreign containers from Slipway's images, so that a teardown keeps the images."""
    images = docker("images --quiet --no-trunc --filter label=slipway.image").split()
    made = [docker("create --label slipway.test %s true", image).strip() for image in dict.fromkeys(images)]
    yield made
    docker(f"rm --force {' '.join(made)}")


def test_teardown_with_another_hosts_name_changes_nothing(teardown, hostname, host, inspect, volumes):
    def state():
        return {
            "containers": sorted(inspect()),
            "volumes": volumes(),
            "objects": host.check_output(FIND).splitlines(),
        }

    before = state()
    done = teardown("another")
    assert done.status == 2, done.output
    assert done.changed == {hostname: 0}, done.output
    [message] = done.errors
    assert '"another" is not a host of this play' in message
    assert state() == before


def test_teardown_keeps_data_packages_and_security_settings(
    host, deploy, sql, read_secrets, docker, get, healthy, ledger, scan, variables, teardown, volumes
):
    posts, secrets = sql("SELECT slug, body FROM post ORDER BY 1"), read_secrets()
    packages = host.check_output("dpkg-query --show")
    host.check_output("install -D -m 0600 /dev/null %s && echo dump > %s", DUMP, DUMP)
    done = teardown()
    assert done.status == 0, done.output
    assert set(host.check_output(FIND).splitlines()) == STAYS
    assert volumes() == [*VOLUMES]
    assert host.check_output("ls /var/lib/slipway") == "dumps"
    assert host.check_output("cat %s", DUMP) == "dump"
    assert "volume backup_volume, volume db_volume, volume media_volume" in done.output
    assert sorted(host.check_output("ls /etc/slipway").split()) == ["ca", "in-service", "secrets"]
    assert host.check_output("dpkg-query --show") == packages
    assert host.check_output("systemctl --failed --no-legend") == ""
    ssh = {variables["baseline_ssh_port"]}
    assert scan() == {"ipv4": ssh, "ipv6": ssh}
    assert set(teardown().changed.values()) == {0}

    done = deploy("site.yml")
    assert done.status == 0, done.output
    healthy()
    assert sql("SELECT slug, body FROM post ORDER BY 1") == posts
    # Store the result in a variable first: pytest would print the secrets that an assert compares.
    has_the_same_secrets = read_secrets() == secrets
    assert has_the_same_secrets
    assert [entry["outcome"] for entry in ledger()] == ["in service"]
    assert "Ropes: a table" in get("/", Cookie="session=unknown").text


@pytest.fixture
def restore_data(host, docker):
    """Restore the secrets and volumes as operations.md describes. `keep` copies a volume before that."""
    place, mountpoint = "/root/slipway-test", "$(docker volume inspect --format '{{ .Mountpoint }}' %s)"
    host.check_output("mkdir %s && cp --archive /etc/slipway/secrets %s", place, place)

    def keep(name):
        host.check_output(f"cp --archive {mountpoint} %s/%s", name, place, name)

    def restore_data():
        for name in VOLUMES:
            labels = f"--label com.docker.compose.project=slipway --label com.docker.compose.volume={name}"
            docker(f"volume create {labels} %s", name)
            host.check_output(f"cp --archive %s/%s/. {mountpoint}/", place, name, name)
        host.check_output("mkdir --parents /etc/slipway && cp --archive %s/secrets /etc/slipway/", place)

    restore_data.keep = keep
    yield restore_data
    host.check_output("rm --recursive %s", place)


def test_teardown_with_the_hosts_name_removes_data_but_no_foreign_objects(
    host, deploy, docker, hostname, image_users, restore_data, sql, read_secrets, healthy, teardown, volumes
):
    """A teardown with the host's name also removes data that an earlier teardown kept.

    Foreign objects with Slipway's names stay, and site.yml is refused because of them. At the end the data is
    restored, and site.yml installs Slipway again.
    """
    posts, secrets = sql("SELECT slug, body FROM post ORDER BY 1"), read_secrets()
    host.check_output("install -D -m 0600 /dev/null %s", DUMP)
    assert teardown().status == 0
    for name in VOLUMES:
        restore_data.keep(name)

    done = teardown(hostname)
    assert done.status == 0, done.output
    assert "The host has no data of Slipway" in done.output
    assert volumes() == []
    assert host.run("ls /var/lib/slipway /etc/slipway").stdout == ""
    assert sorted(docker("ps --all --quiet --no-trunc").split()) == sorted(image_users)
    assert set(teardown(hostname).changed.values()) == {0}

    image = docker("images --quiet --filter label=slipway.image").split()[0]
    for command in OTHERS.values():
        docker(command.format(image=image))
    done = deploy("site.yml")
    assert done.status == 2, done.output
    assert done.changed == {hostname: 0}, done.output
    [message] = done.errors
    for words in (
        "volume db_volume is not Slipway's",
        "docker volume rm db_volume",
        "stack_db_volume",
        "--label com.docker.compose.project=slipway --label com.docker.compose.volume=db_volume",
        "network slipway_edge is not Slipway's",
        "docker network rm slipway_edge",
        "network another (bridge slipway-data) is not Slipway's",
        "container slipway-nginx-1 is not Slipway's",
        "docker rename slipway-nginx-1",
    ):
        assert words in message, message
    done = teardown(hostname)
    assert done.status == 0, done.output
    assert done.changed == {hostname: 0}, done.output
    assert "db_volume is not Slipway's and was kept" in done.output
    for kind, name in OTHERS:
        docker(f"{kind} rm %s", name)

    docker(f"rm {' '.join(image_users)}")
    restore_data()
    done = deploy("site.yml")
    assert done.status == 0, done.output
    healthy()
    assert sql("SELECT slug, body FROM post ORDER BY 1") == posts
    # Store the result in a variable first: pytest would print the secrets that an assert compares.
    has_the_same_secrets = read_secrets() == secrets
    assert has_the_same_secrets
