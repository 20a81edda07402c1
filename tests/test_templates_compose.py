"""compose.yml and slipway's configuration, rendered by Ansible and checked by Docker Compose."""

import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest

NGINX = ["nginx", "nginx_temporary"]
BLOG = ["flask_blog_blue", "flask_blog_green", "flask", "flask_migrate"]
# Containers of a restore, a drill or an upgrade of the database.
RECOVERY = ["db_restore", "db_drill", "flask_drill", "db_upgrade", "db_rehearsal"]
# Cases with a repository on another host, and the secrets for it.
REPOSITORY_SECRETS = {"awkward_words": ["backup_sftp_key"], "large_host": ["backup_s3_secret"]}


def test_each_service_has_its_image(variables, services):
    ids = variables["images_ids"]
    assert {name: service["image"] for name, service in services.items()} == {
        "nginx": ids["nginx"],
        "nginx_temporary": ids["nginx"],
        "db": ids["db"],
        "db_restore": ids["db"],
        "db_drill": ids["db"],
        "db_upgrade": ids["db"],
        "db_rehearsal": ids["db"],
        "flask_drill": "sha256:tool",
        "flask": "sha256:tool",
        "flask_migrate": "sha256:tool",
        "flask_blog_blue": "sha256:blue",
        "flask_blog_green": "sha256:green",
    }


def test_slots_tools_and_the_temporary_nginx_have_profiles(services):
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "nginx_temporary": ["temporary"],
        "flask_blog_blue": ["blue"],
        "flask_blog_green": ["green"],
        "flask": ["tools"],
        "flask_migrate": ["tools"],
        "db_restore": ["tools"],
        "db_drill": ["drill"],
        "flask_drill": ["drill"],
        "db_upgrade": ["tools"],
        "db_rehearsal": ["drill"],
    }


def test_only_nginx_publishes_ports(variables, services, has_tls, has_http3):
    published = {
        (name, port["protocol"], port["target"], port.get("host_ip"), port.get("published"))
        for name, service in services.items()
        for port in service.get("ports", [])
    }
    https = str(variables["stack_https_port"])
    ports = {("tcp", 80): str(variables["stack_http_port"]), **({("tcp", 443): https} if has_tls else {})}
    ports |= {("udp", 443): https} if has_http3 else {}
    assert published == {
        # Only on the loopback addresses, at ports that Docker chooses.
        *(("nginx_temporary", *port, address, None) for port in ports for address in ("127.0.0.1", "::1")),
        *(("nginx", *port, None, at) for port, at in ports.items()),
    }


def test_temporary_nginx_equals_nginx_except_for_ports_and_addresses(services):
    other = {"ports", "networks", "profiles", "restart"}
    nginx, temporary = (
        {key: value for key, value in services[name].items() if key not in other}
        for name in ("nginx", "nginx_temporary")
    )
    assert temporary == nginx


def test_networks_separate_the_database_from_the_world(compose, services, template_case):
    repository = {"backup"} if template_case in REPOSITORY_SECRETS else set()
    assert {name: set(service.get("networks", [])) for name, service in services.items()} == {
        "db_restore": repository,
        "db_drill": repository,
        "flask_drill": set(),
        "db_upgrade": {"data"},
        "db_rehearsal": set(),
        "nginx": {"edge", "app"},
        "nginx_temporary": {"edge", "app"},
        "db": {"data", *repository},
        "flask": {"data"},
        "flask_migrate": {"data"},
        "flask_blog_blue": {"app", "data"},
        "flask_blog_green": {"app", "data"},
    }
    networks = compose["networks"]
    assert {name for name, network in networks.items() if network.get("internal")} == {"app", "data"}
    for network in networks.values():
        subnets = [ip_network(config["subnet"]) for config in network["ipam"]["config"]]
        assert [subnet.version for subnet in subnets] == [4, 6]
        assert network["enable_ipv6"]


def test_restores_and_drills_have_no_network_if_the_repository_is_on_the_host(services, template_case):
    modes = {name: service["network_mode"] for name, service in services.items() if "network_mode" in service}
    alone = {} if template_case in REPOSITORY_SECRETS else {"db_restore": "none", "db_drill": "none"}
    assert modes == {"flask_drill": "service:db_drill", "db_rehearsal": "service:db_drill", **alone}


def test_restores_and_drills_cannot_write_to_the_repository(services):
    for name in ("db_restore", "db_drill"):
        [repository] = [mount for mount in services[name]["volumes"] if mount["source"] == "backup_volume"]
        assert repository["read_only"], name


def test_nginx_and_slipway_use_the_addresses_that_compose_gives_the_slots(
    compose, services, blog_conf, configuration
):
    address = {name: services[name]["networks"]["app"]["ipv4_address"] for name in (*NGINX, *BLOG[:2])}
    slots = {"blue": address["flask_blog_blue"], "green": address["flask_blog_green"]}
    assert configuration["slots"] == slots
    blue, green = (f"server {slots[slot]}:8000" for slot in ("blue", "green"))
    upstreams = re.findall(r"upstream (\w+) \{\s*((?:server [^;]*;\s*)+)", blog_conf)
    assert {name: [server.strip() for server in servers.split(";")[:-1]] for name, servers in upstreams} == {
        "blue": [f"{blue} max_fails=0", "server 127.0.0.1:8084 max_fails=0 backup"],
        "green": [f"{green} max_fails=0", "server 127.0.0.1:8083 max_fails=0 backup"],
        "blue_alone": [blue],
        "green_alone": [green],
    }

    preview, _, port = configuration["preview"].rpartition(":")
    assert preview == address["nginx"]
    assert f"listen {port};" in blog_conf

    subnet = ip_network(compose["networks"]["app"]["ipam"]["config"][0]["subnet"])
    assert len(set(address.values())) == 4
    assert all(ip_address(value) in subnet for value in address.values())


def test_slipway_requests_pages_with_the_readers_host_and_scheme(
    variables, services, blog_conf, configuration, has_tls
):
    port = variables["stack_https_port" if has_tls else "stack_http_port"]
    assert configuration["public"] == f"127.0.0.1:{port}"
    assert configuration["tls"] == has_tls
    url = urlsplit(services["flask_blog_blue"]["environment"]["BASE_URL"])
    assert configuration["host"] == url.netloc
    assert url.scheme == ("https" if has_tls else "http")
    assert f"proxy_set_header X-Forwarded-Proto {url.scheme};" in blog_conf
    names = [variables["stack_domain"], *variables["stack_domain_aliases"]]
    assert f"server_name {' '.join(names)};" in blog_conf
    assert services["flask_blog_blue"]["environment"]["TRUSTED_HOSTS"] == ",".join(names)


def test_each_service_is_confined(services):
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"cap_add", "privileged", "pid", "ipc", "devices"} & set(service), name
        for tmpfs in service["tmpfs"]:
            assert {"noexec", "nosuid", "nodev"} <= set(re.split("[:,]", tmpfs)), name


def test_each_service_is_limited(template_case, variables, services):
    cpus = variables["stack_cpus"] if isinstance(variables["stack_cpus"], float | int) else 2
    for name, service in services.items():
        assert service["cpus"] == cpus, name
        assert 0 < service["pids_limit"] <= (500 if template_case == "large_host" else 100), name
        assert int(service["mem_limit"]) > 64 * 2**20, name
        assert service["memswap_limit"] == service["mem_limit"], name


def test_memory_limits_fit_the_host_whatever_runs_at_once(variables, services):
    always = {"nginx", "flask_blog_blue", "db"}
    at_once = (
        {*always, "flask_blog_green"},
        {*always, *NGINX},
        {*always, "db_drill", "flask_drill"},
        {*always, "db_drill", "db_rehearsal"},
        {*always, "db_upgrade"},
    )
    host_mb = variables.get("render_memory_mb", 3915)
    for names in at_once:
        memory = sum(int(services[name]["mem_limit"]) for name in names)
        assert memory + variables["stack_host_memory_mb"] * 2**20 <= host_mb * 2**20


def test_memory_limit_of_a_user_stays(variables, services):
    [blog] = {int(services[name]["mem_limit"]) // 2**20 for name in BLOG}
    assert blog == (variables["stack_flask_blog_memory_mb"] or max(blog, 384))


def test_number_of_workers_follows_from_the_cpu_limit_and_not_from_the_host(template_case, services):
    at = {"large_host": 24, "everything_else": 1}.get(template_case, 2)
    for name in NGINX:
        assert services[name]["command"] == ["nginx", "-g", f"daemon off; worker_processes {at};"]
    assert {services[name]["environment"]["WEB_CONCURRENCY"] for name in BLOG} == {str(max(at, 2))}


def test_database_admits_the_connections_of_both_slots(services):
    environment = services["flask_blog_blue"]["environment"]
    both = 2 * int(environment["WEB_CONCURRENCY"]) * int(environment["WEB_THREADS"])
    [connections] = [
        int(word.partition("=")[2]) for word in services["db"]["command"] if "max_connections" in word
    ]
    assert both + 13 <= connections


def test_each_log_is_rotated(variables, services):
    for name, service in services.items():
        prefix = "stack_nginx_log" if name in NGINX else "stack_log"
        size, files = variables[f"{prefix}_max_size"], variables[f"{prefix}_max_file"]
        options = {"max-size": size, "max-file": str(files)} | ({"compress": "true"} if name in NGINX else {})
        assert service["logging"] == {"driver": "json-file", "options": options}, name


def test_serving_containers_restart_and_have_health_checks(services):
    restarts = {name: service["restart"] for name, service in services.items()}
    once = {name: "no" for name in ("flask", "flask_migrate", "nginx_temporary", *RECOVERY)}
    assert restarts == {name: "unless-stopped" for name in services} | once
    for name in (*NGINX, *BLOG, "db"):
        check = services[name]["healthcheck"]
        assert check["test"][0] == "CMD"
        seconds = {name: int(check[name].removesuffix("s")) for name in ("interval", "timeout")}
        # If a container hangs, each check lasts until the time-out. Then a restart takes up to five seconds.
        assert check["retries"] * sum(seconds.values()) + 5 < 30
        assert check["start_interval"] == "1s"
    assert "/healthz" in services["flask_blog_blue"]["healthcheck"]["test"][-1]
    assert "/healthz" in services["nginx"]["healthcheck"]["test"][-1]
    assert "pg_isready" in services["db"]["healthcheck"]["test"]


def test_blog_starts_after_the_database_is_healthy(services):
    for name in BLOG:
        assert services[name]["depends_on"] == {"db": {"condition": "service_healthy", "required": True}}
    assert "depends_on" not in services["nginx"]


@pytest.fixture
def readable(services):
    """The secrets that each service can read: the path in the container, and the path on the host."""
    in_service = "/etc/slipway/in-service"
    of_a_slot = ("app_secret_key", "app_secret_key_fallbacks", "db_app_password")
    of_a_drill = ("app_secret_key", "db_app_password")

    def files(service):
        for mount in service.get("secrets", []):
            yield mount["target"], f"/etc/slipway/secrets/{mount['source']}"
        for mount in service.get("volumes", []):
            if mount["target"] == "/run/secrets/blog":
                assert mount["read_only"]
                assert mount["source"] in (f"{in_service}/blue", f"{in_service}/green")
                yield from ((f"/run/secrets/blog/{name}", f"{mount['source']}/{name}") for name in of_a_slot)
            if mount["target"] == "/run/secrets/drill":
                assert mount["read_only"]
                assert mount["source"] == f"{in_service}/drill"
                yield from (
                    (f"/run/secrets/drill/{name}", f"{mount['source']}/{name}") for name in of_a_drill
                )

    return {name: dict(files(service)) for name, service in services.items()}


def test_environment_names_only_secret_files_that_the_service_can_read(services, readable):
    for name, service in services.items():
        environment = service.get("environment", {})
        named = {value for name, value in environment.items() if name.endswith("_FILE") and value}
        assert named <= readable[name].keys(), name


def test_each_service_can_read_only_its_own_secrets(readable, template_case):
    names = ["backup_passphrase", *REPOSITORY_SECRETS.get(template_case, [])]
    of_backups = {f"/run/secrets/{name}" for name in names}
    blog = {
        f"/run/secrets/blog/{n}" for n in ("app_secret_key", "app_secret_key_fallbacks", "db_app_password")
    }
    assert {name: set(files) for name, files in readable.items()} == {
        "nginx": set(),
        "nginx_temporary": set(),
        "db": {"/run/secrets/db_superuser_password", *of_backups},
        "db_restore": of_backups,
        "db_drill": of_backups,
        "db_upgrade": {"/run/secrets/db_superuser_password"},
        "db_rehearsal": {"/run/secrets/db_superuser_password"},
        "flask_drill": {"/run/secrets/drill/app_secret_key", "/run/secrets/drill/db_app_password"},
        "flask_migrate": {"/run/secrets/db_migrator_password", *blog},
        "flask_blog_blue": blog,
        "flask_blog_green": blog,
        "flask": blog,
    }


@pytest.mark.parametrize("slot", ["blue", "green"])
def test_each_slot_has_its_own_login_and_secrets(services, readable, slot):
    service = f"flask_blog_{slot}"
    assert urlsplit(services[service]["environment"]["DATABASE_URL"]).username == f"blog_app_{slot}"
    assert {path.split("/")[-2] for path in readable[service].values()} == {slot}


def test_environment_contains_no_secret(services):
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            assert name.endswith("_FILE") or not re.search("PASSWORD|SECRET|TOKEN|KEY", name)
            assert urlsplit(value).password is None


def test_data_is_in_named_volumes(compose, services, variables):
    assert compose["volumes"] == {
        **{
            name: {"name": variables[f"stack_{name}"]}
            for name in ("db_volume", "media_volume", "backup_volume")
        },
        "drill_volume": {"name": "slipway_drill"},
    }
    data = {
        "db": {"db_volume", "backup_volume"},
        "db_restore": {"db_volume"},
        "db_drill": {"drill_volume"},
        "db_upgrade": {"db_volume"},
        "db_rehearsal": {"drill_volume"},
        **{name: {"media_volume"} for name in BLOG},
    }
    for name, service in services.items():
        writable = {mount["source"] for mount in service.get("volumes", []) if not mount.get("read_only")}
        assert writable == data.get(name, set()), name


# SHA-256 of the empty string, and of "a private key".
KEYS = {"large_host": "e3b0c44298fc", "awkward_words": "4db0716f440b"}


def test_labels_recreate_containers_if_the_name_of_a_volume_or_a_key_changes(
    services, variables, template_case
):
    for name in (*NGINX, *BLOG):
        assert services[name]["labels"] == {"slipway.volume": variables["stack_media_volume"]}, name
    backups = {"slipway.backups": variables["stack_backup_volume"]} if variables["stack_backups"] else {}
    labels = services["db"]["labels"]
    assert labels.pop("slipway.keys", None) == KEYS.get(template_case)
    assert labels == {"slipway.volume": variables["stack_db_volume"], **backups}


def test_blog_gets_texts_unchanged(variables, services):
    words = {
        "SITE_LANGUAGE": variables["stack_site_language"],
        "SITE_TITLE": variables["stack_site_title"],
        "SITE_DESCRIPTION": variables["stack_site_description"],
        "SITE_AUTHOR": variables["stack_site_author"],
        "SECURITY_CONTACT": variables["stack_security_contact"],
        **{name: str(value) for name, value in variables["stack_blog_environment"].items()},
    }
    for name in BLOG:
        assert services[name]["environment"] | words == services[name]["environment"]
