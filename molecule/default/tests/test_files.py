"""Check the results of the roles: files, secrets, the engine's settings, and the program slipway."""

import json
import re

import pytest

READERS = {
    "db_superuser_password": 999,
    "db_migrator_password": 10001,
    "db_app_password": 0,
    "app_secret_key": 0,
    "backup_passphrase": 999,
    "admin_password": 10001,
}


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/opt/slipway/compose.yml", 0o644),
        ("/opt/slipway/nginx/blog.conf", 0o644),
        ("/opt/slipway/stack.json", 0o644),
        ("/opt/slipway/release.json", 0o600),
        ("/opt/slipway/backup.json", 0o600),
        ("/opt/slipway/roles.sql", 0o644),
        ("/etc/docker/daemon.json", 0o600),
        ("/usr/local/bin/slipway", 0o755),
        ("/usr/local/lib/slipway/current/slipway/cli.py", 0o644),
        ("/etc/systemd/system/slipway-heal.service", 0o644),
        ("/etc/systemd/system/slipway-media.service", 0o644),
        ("/etc/systemd/system/slipway-nginx.service", 0o644),
    ],
)
def test_file_belongs_to_root_and_has_its_mode(host, path, mode):
    file = host.file(path)
    assert (file.user, file.group, file.mode) == ("root", "root", mode)


def test_only_root_can_enter_the_directory_above_secrets_and_keys(host):
    directory = host.file("/etc/slipway")
    assert (directory.user, directory.group, directory.mode) == ("root", "root", 0o700)


@pytest.mark.parametrize("directory", ["/opt/slipway", "/var/lib/slipway", "/etc/slipway"])
def test_directory_has_no_world_writable_file_and_belongs_to_root(host, directory):
    assert host.check_output("find %s -perm /o=w ! -type l", directory) == ""
    secrets = "/etc/slipway/(secrets|in-service|tls)/.*"
    assert host.check_output("find %s -regextype egrep ! -user root ! -regex %s", directory, secrets) == ""


def test_compose_accepts_its_file(docker):
    read = json.loads(docker("compose --project-directory /opt/slipway config --format json"))
    assert read["name"] == "slipway"
    assert {"nginx", "db"} < read["services"].keys()
    assert docker("compose --project-directory /opt/slipway config --services").split() != []


def test_compose_up_would_recreate_no_container(host, inspect):
    before = {service: c["Id"] for service, c in inspect().items()}
    done = host.run("cd /opt/slipway && docker compose up --detach --dry-run")
    assert done.rc == 0
    assert "Recreate" not in done.stderr
    assert {service: c["Id"] for service, c in inspect().items()} == before


def test_nginx_accepts_its_configuration(host, containers):
    done = host.run("docker exec %s nginx -t", containers["nginx"]["Id"])
    assert done.rc == 0, done.stderr
    assert done.stderr.count("warn") == 0, done.stderr


def test_configuration_of_slipway_matches_the_inventory(host, variables, site):
    of_stack, of_release = (
        json.loads(host.file(f"/opt/slipway/{role}.json").content_string) for role in ("stack", "release")
    )
    assert of_stack["host"] == site
    assert of_stack["slots"].keys() == {"blue", "green"}
    assert of_release["admin_email"] == variables["release_admin_email"]


# --- Secrets ------------------------------------------------------------------------------------------------


def test_only_root_can_list_the_directory_of_secrets(host):
    directory = host.file("/etc/slipway/secrets")
    assert (directory.user, directory.group, directory.mode) == ("root", "root", 0o700)
    assert sorted(directory.listdir()) == sorted(READERS)


@pytest.mark.parametrize(("name", "uid"), READERS.items())
def test_only_its_reader_can_read_a_secret(host, name, uid):
    file = host.file(f"/etc/slipway/secrets/{name}")
    assert (file.uid, file.gid, file.mode) == (uid, uid, 0o400)


@pytest.mark.parametrize(
    ("name", "uid"), {"slipway-nginx": 101, "slipway-db": 999, "slipway-app": 10001}.items()
)
def test_uid_of_a_container_belongs_to_a_user_who_cannot_log_in(host, name, uid):
    """A package of the host may have created a user with the uid before Slipway did."""
    user = host.check_output("getent passwd %s", str(uid)).split(":")
    assert user[6] in ("/usr/sbin/nologin", "/bin/false")
    if user[0] == name:
        assert (user[2], user[5]) == (str(uid), "/nonexistent")
        assert host.check_output("getent shadow %s", name).split(":")[1].startswith("!")


def test_active_slot_has_copies_of_the_secrets_that_it_reads(host, slot, secrets):
    in_service = host.file("/etc/slipway/in-service")
    assert (in_service.user, in_service.group, in_service.mode) == ("root", "root", 0o700)
    assert sorted(in_service.listdir()) == ["admin_password", slot()]
    directory = f"/etc/slipway/in-service/{slot()}"
    files = ["app_secret_key", "app_secret_key_fallbacks", "db_app_password"]
    assert sorted(host.file(directory).listdir()) == files
    assert (host.file(directory).uid, host.file(directory).mode) == (10001, 0o500)
    for name in files:
        file = host.file(f"{directory}/{name}")
        assert (file.uid, file.gid, file.mode) == (10001, 10001, 0o400)
    for name in ("app_secret_key", "db_app_password"):
        # Store the result in a variable first: pytest would print the secrets that an assert compares.
        is_a_copy = host.file(f"{directory}/{name}").content_string == secrets[name]
        assert is_a_copy, name


def test_secrets_are_long_and_different(secrets, variables):
    lengths = {name: len(value) for name, value in secrets.items()}
    assert lengths == dict.fromkeys(READERS, variables["secrets_length"])
    assert variables["secrets_length"] >= 40
    assert len(set(secrets.values())) == len(secrets)


# --- The engine ---------------------------------------------------------------------------------------------


def test_engine_uses_its_settings(host, docker, variables):
    assert host.run("dockerd --validate --config-file /etc/docker/daemon.json").rc == 0
    info = json.loads(docker("info --format json"))
    assert info["LiveRestoreEnabled"] is True
    assert info["LoggingDriver"] == "json-file"
    assert info["DockerRootDir"] == variables["docker_data_root"]
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert settings["log-opts"] == {
        "max-size": variables["docker_log_max_size"],
        "max-file": str(variables["docker_log_max_file"]),
    }
    assert settings["builder"]["gc"]["enabled"] is True
    assert settings["builder"]["gc"]["defaultMaxUsedSpace"] == variables["docker_build_cache_max"]


def test_engine_forwards_ports_with_firewall_rules(host):
    assert host.run("pgrep --exact docker-proxy").rc == 1
    assert "dpt:80" in host.check_output("iptables -t nat -nL DOCKER")
    assert "dpt:80" in host.check_output("ip6tables -t nat -nL DOCKER")


def test_engine_starts_at_boot(host):
    service = host.service("docker")
    assert service.is_enabled
    assert service.is_running


def test_check_for_security_updates_of_the_images_runs_daily(host):
    timer = host.service("slipway-updates.timer")
    assert timer.is_enabled
    assert timer.is_running
    assert "OnCalendar=*-*-* 03:00" in host.check_output("systemctl cat slipway-updates.timer")
    assert "slipway updates check" in host.check_output("systemctl cat slipway-updates.service")


def test_services_of_nginx_and_of_the_pictures_start_at_boot(host):
    assert host.service("slipway-nginx").is_enabled
    assert host.service("slipway-media").is_enabled


# --- The program --------------------------------------------------------------------------------------------


def test_help_of_slipway_lists_its_commands(host):
    told = host.check_output("slipway --help")
    assert set(re.findall(r"^    (\w+)  ", told, re.MULTILINE)) >= {"status", "logs", "release", "import"}


def test_slipway_refuses_users_other_than_root(host):
    done = host.run("runuser -u debian -- slipway status")
    assert done.rc == 1
    assert "sudo slipway" in done.stderr


def test_status_shows_the_release_in_service_and_its_containers(host, in_service, inspect):
    told = host.check_output("slipway status")
    assert re.search(rf"^release +{in_service['id']}\b", told, re.MULTILINE)
    assert re.search(rf"^slot +{in_service['slot']}$", told, re.MULTILINE)
    assert re.search(rf"^image +{in_service['image']}$", told, re.MULTILINE)
    assert sorted(re.findall(r"^(\S+) +running +healthy", told, re.MULTILINE)) == sorted(inspect())


def test_logs_show_the_slot_in_service(host, get):
    get("/healthz")
    assert '"path": "/healthz"' in host.check_output("slipway logs flask_blog --lines 20")
