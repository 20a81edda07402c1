"""compose.yml and slipway's configuration, rendered by Ansible and checked by Docker Compose."""

import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest

NGINX = ["nginx", "nginx_temporary"]
BLOG = ["flask_blog_blue", "flask_blog_green", "flask", "flask_migrate"]


def test_each_service_has_its_image(variables, services):
    ids = variables["images_ids"]
    assert {name: service["image"] for name, service in services.items()} == {
        "nginx": ids["nginx"],
        "nginx_temporary": ids["nginx"],
        "db": ids["db"],
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


def test_networks_separate_the_database_from_the_world(compose, services):
    assert {name: set(service["networks"]) for name, service in services.items()} == {
        "nginx": {"edge", "app"},
        "nginx_temporary": {"edge", "app"},
        "db": {"data"},
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


def test_nginx_and_slipway_use_the_addresses_that_compose_gives_the_slots(
    compose, services, blog_conf, configuration
):
    address = {name: services[name]["networks"]["app"]["ipv4_address"] for name in (*NGINX, *BLOG[:2])}
    slots = {"blue": address["flask_blog_blue"], "green": address["flask_blog_green"]}
    assert configuration["slots"] == slots
    blue, green = (f"server {slots[slot]}:8000" for slot in ("blue", "green"))
    upstreams = re.findall(r"upstream (\w+) \{\s*((?:server [^;]*;\s*)+)", blog_conf)
    assert {name: [server.strip() for server in servers.split(";")[:-1]] for name, servers in upstreams} == {
        "blue": [f"{blue} max_fails=0", f"{green} backup"],
        "green": [f"{green} max_fails=0", f"{blue} backup"],
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
        assert not {"cap_add", "privileged", "pid", "ipc", "network_mode", "devices"} & set(service), name
        for tmpfs in service["tmpfs"]:
            assert {"noexec", "nosuid", "nodev"} <= set(re.split("[:,]", tmpfs)), name


def test_each_service_is_limited(variables, services):
    for name, service in services.items():
        assert 0 < service["cpus"] <= 2, name
        assert 0 < service["pids_limit"] <= 100, name
        assert int(service["mem_limit"]) > 64 * 2**20, name
    blog = variables["stack_flask_blog_memory_mb"] * 2**20
    assert {int(services[name]["mem_limit"]) for name in BLOG} == {blog}


def test_each_log_is_rotated(variables, services):
    options = {"max-size": variables["stack_log_max_size"], "max-file": str(variables["stack_log_max_file"])}
    for service in services.values():
        assert service["logging"] == {"driver": "json-file", "options": options}


def test_serving_containers_restart_and_have_health_checks(services):
    restarts = {name: service["restart"] for name, service in services.items()}
    once = {name: "no" for name in ("flask", "flask_migrate", "nginx_temporary")}
    assert restarts == {name: "unless-stopped" for name in services} | once
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["healthcheck"]["retries"] == 3
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

    def files(service):
        for mount in service.get("secrets", []):
            yield mount["target"], f"/etc/slipway/secrets/{mount['source']}"
        for mount in service.get("volumes", []):
            if mount["target"] == "/run/secrets/blog":
                assert mount["read_only"]
                assert mount["source"] in (f"{in_service}/blue", f"{in_service}/green")
                yield from ((f"/run/secrets/blog/{name}", f"{mount['source']}/{name}") for name in of_a_slot)

    return {name: dict(files(service)) for name, service in services.items()}


def test_environment_names_only_secret_files_that_the_service_can_read(services, readable):
    for name, service in services.items():
        environment = service.get("environment", {})
        named = {value for name, value in environment.items() if name.endswith("_FILE")}
        assert named <= readable[name].keys(), name


def test_each_service_can_read_only_its_own_secrets(readable):
    blog = {
        f"/run/secrets/blog/{n}" for n in ("app_secret_key", "app_secret_key_fallbacks", "db_app_password")
    }
    assert {name: set(files) for name, files in readable.items()} == {
        "nginx": set(),
        "nginx_temporary": set(),
        "db": {"/run/secrets/db_superuser_password"},
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
        name: {"name": variables[f"stack_{name}"]} for name in ("db_volume", "media_volume")
    }
    for name, service in services.items():
        writable = {mount["source"] for mount in service.get("volumes", []) if not mount.get("read_only")}
        expected = {"db_volume"} if name == "db" else set() if name in NGINX else {"media_volume"}
        assert writable == expected, name


def test_label_of_the_volume_recreates_containers_when_its_name_changes(services, variables):
    for name, service in services.items():
        volume = variables["stack_db_volume" if name == "db" else "stack_media_volume"]
        assert service["labels"] == {"slipway.volume": volume}, name


def test_blog_gets_texts_unchanged(variables, services):
    words = {
        "SITE_TITLE": variables["stack_site_title"],
        "SITE_DESCRIPTION": variables["stack_site_description"],
        "SITE_AUTHOR": variables["stack_site_author"],
        **{name: str(value) for name, value in variables["stack_blog_environment"].items()},
    }
    for name in BLOG:
        assert services[name]["environment"] | words == services[name]["environment"]
