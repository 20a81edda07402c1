"""The files that a host gets, rendered by Ansible and checked by the programs that read them."""

import json
import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest
import yaml
from project import ROOT

# Variables without a default, and the facts that the role `images` sets for the other roles.
REQUIRED = {
    "render_system": "Debian 13",
    "stack_domain": "blog.example.org",
    "release_admin_email": "anna@example.org",
    "images_ids": {
        "nginx": f"sha256:{'a' * 64}",
        "db": f"sha256:{'d' * 64}",
        "flask_blog": f"sha256:{'f' * 64}",
    },
}
CASES = {
    "defaults": REQUIRED,
    "everything_else": {
        **REQUIRED,
        "render_system": "Ubuntu 24",
        "baseline_ssh_port": 65535,
        "baseline_public_tcp_ports": [80, 80, 8443],
        "baseline_host_tcp_ports": [1],
        "baseline_host_udp_ports": [51820, 51821],
        "baseline_container_interfaces": ["ctr-*", "virbr0"],
        "baseline_ssh_rate": 1,
        "baseline_ssh_burst": 1,
        "baseline_reboot_time": "",
        "stack_domain_aliases": ["localhost", "a-very-long-name.of-a-blog.example.net"],
        "stack_domain_redirects": ["www.example.org", "old.example.org"],
        "stack_base_url": "https://blog.example.org:8443",
        "stack_http_port": 8080,
        "stack_https_port": 8443,
        # A string, as from a command line.
        "stack_http3": "true",
        "tls_mode": "provided",
        "tls_hsts_seconds": 0,
        "stack_trusted_proxies": ["10.1.0.0/16", "192.0.2.1", "2001:db8:5::/48"],
        "stack_methods": ["GET", "HEAD", "POST", "DELETE"],
        "stack_max_body_kb": 512,
        "stack_rate_pages": 7,
        "stack_rate_writes": 2,
        "stack_rate_connections": 9,
        "stack_rate_exempt": ["198.51.100.0/24", "2001:db8:6::/48"],
        "stack_app_subnet": "172.31.255.16/28",
        "stack_app_subnet_ipv6": "fd00:1::/64",
        "stack_db_volume": "slipway_db",
        "stack_flask_blog_memory_mb": 200,
        "stack_cpus": 0.5,
        "stack_log_max_size": "1m",
        "stack_log_max_file": 7,
        "stack_blog_environment": {
            "CSP_IMG_SRC": "'self' https://img.example.org",
            "PRICE": "$5",
            "COUNT": 3,
        },
    },
    # YAML reads a bare `off` as false.
    "plain_http": {
        **REQUIRED,
        "tls_mode": False,
        "stack_http3": True,
        "stack_domain_redirects": ["www.example.org"],
    },
    "awkward_words": {
        **REQUIRED,
        "render_system": "Debian 12",
        "baseline_public_tcp_ports": [],
        "baseline_reboot_time": "23:59",
        "stack_site_title": 'Anna\'s "blog": $HOME ${BLUE_IMAGE} $$ # {1: &a *b} \\n ünïcødé 🚢',
        "stack_site_description": "two\nlines, and a tab\t",
        "stack_site_author": "no",
    },
}
SLOT_IMAGES = {"BLUE_IMAGE": "sha256:blue", "GREEN_IMAGE": "sha256:green", "TOOL_IMAGE": "sha256:tool"}
NGINX = ["nginx", "nginx_stand_in"]
BLOG = ["flask_blog_blue", "flask_blog_green", "flask", "flask_migrate"]


@pytest.fixture(scope="session")
def rendered(ansible, tmp_path_factory):
    """Directory with a directory for each case, all rendered by one run."""
    directory = tmp_path_factory.mktemp("rendered")
    inventory = directory / "inventory.yml"
    inventory.write_text(json.dumps({"all": {"hosts": CASES}}, ensure_ascii=False))
    done = ansible(
        "playbook",
        "--inventory",
        inventory,
        "--extra-vars",
        f"render_to={directory}",
        "--tags",
        "render",
        ROOT / "tests/render.yml",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="session", params=CASES)
def case(request):
    """Name of one case."""
    return request.param


@pytest.fixture(scope="session")
def variables(case):
    """The case's variables, and the defaults of the others."""
    defaults = [ROOT / f"roles/{role}/defaults/main.yml" for role in ("baseline", "stack", "tls")]
    merged = {name: value for file in defaults for name, value in yaml.safe_load(file.read_text()).items()}
    return merged | CASES[case]


@pytest.fixture(scope="session")
def tls(variables):
    """Whether the case has HTTPS."""
    return variables["tls_mode"] is not False


@pytest.fixture(scope="session")
def http3(variables, tls):
    """Whether the case has HTTP/3."""
    return tls and bool(variables["stack_http3"])


@pytest.fixture(scope="session")
def files(case, rendered):
    """Directory of the files that were rendered for the case."""
    return rendered / case


@pytest.fixture(scope="session")
def compose(files, check):
    """The output of `docker compose config` for compose.yml, with all profiles."""
    environment = [f"--env={name}={image}" for name, image in SLOT_IMAGES.items()]
    command = ["docker", "compose", "--file=-", "--profile=*", "config", "--format=json"]
    done = check(*environment, command=command, stdin=(files / "compose.yml").read_text())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # Compose writes $ as $$, so that it can read its own output.
    return json.loads(done.stdout.replace("$$", "$"))


@pytest.fixture(scope="session")
def services(compose):
    """Compose's services by name."""
    return compose["services"]


@pytest.fixture(scope="session")
def blog_conf(files):
    """nginx's rendered configuration."""
    return (files / "blog.conf").read_text()


@pytest.fixture(scope="session")
def configuration(files):
    """The rendered configuration of the program slipway, which two roles write."""
    stack, release = (json.loads((files / f"{role}.json").read_text()) for role in ("stack", "release"))
    return stack | release


# nginx must find a certificate: a host has one before nginx starts.
JUDGE = """
mkdir -p /etc/slipway/tls
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj /CN=blog -days 1 \\
  -keyout /tmp/key -out /tmp/certificate 2>/dev/null
cat /tmp/key /tmp/certificate >/etc/slipway/tls/blog.pem
nginx -t -q
"""


def test_nginx_accepts_its_configuration(files, services, check):
    done = check(
        *(f"--tmpfs={mount.partition(':')[0]}" for mount in services["nginx"]["tmpfs"]),
        f"--volume={ROOT}/roles/images/files/nginx/nginx.conf:/etc/nginx/nginx.conf:ro",
        f"--volume={files}/blog.conf:/etc/nginx/conf.d/blog.conf:ro",
        command=["sh", "-euc", JUDGE],
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_no_place_of_nginx_forgets_a_header(blog_conf, tls, http3):
    """A server or location that has an add_header inherits none from the level above."""
    added = re.findall(r"^add_header (\S+) \$add_\w+ always;$", blog_conf, re.MULTILINE)
    assert len(set(added)) == len(added) == 9 + tls + http3
    assert len(re.findall(r"^\s*add_header", blog_conf, re.MULTILINE)) == len(added)


def test_nginx_believes_and_exempts_only_these(variables, blog_conf):
    proxies, exempt = variables["stack_trusted_proxies"], variables["stack_rate_exempt"]
    assert re.findall(r"^set_real_ip_from (\S+);$", blog_conf, re.MULTILINE) == proxies
    blocks = dict(re.findall(r"^geo ([^{]+) \{\n(.*?)^\}", blog_conf, re.MULTILINE | re.DOTALL))
    assert {key: block.split() for key, block in blocks.items()} == {
        "$counted": ["default", "1;", *(word for network in exempt for word in (network, "0;"))],
    }


def test_nginx_limits_what_it_hands_to_the_blog(variables, blog_conf):
    assert f"zone=pages:1m rate={variables['stack_rate_pages']}r/s;" in blog_conf
    assert f"zone=writes:1m rate={variables['stack_rate_writes']}r/m;" in blog_conf
    places = re.findall(r"(?:limit_req .*;\s*)*proxy_pass .*;", blog_conf)
    limits = [
        f"limit_req zone=pages burst={variables['stack_rate_pages'] * 4} nodelay;",
        f"limit_req zone=writes burst={variables['stack_rate_writes'] - 1} nodelay;",
        "proxy_pass http://$slot;",
    ]
    ways = [tuple(re.split(r"\s*\n\s*", place)) for place in places]
    assert ways.count(tuple(limits)) == 2 * 6
    # An author's large body counts towards the rates before nginx asks the blog who sends it.
    assert ways.count(tuple(limits[2:])) == len(ways) - 2 * 6 == 2 * 2
    assert blog_conf.count("\n        ".join([*limits[:2], "auth_request /author/may-upload;"])) == 2
    assert blog_conf.count(f"limit_conn connections {variables['stack_rate_connections']};") == 2 * 2
    assert blog_conf.count(f"client_max_body_size {variables['stack_max_body_kb']}k;") == 2
    assert blog_conf.count(f'!~ "^({"|".join(variables["stack_methods"])})$"') == 2


def test_no_place_of_nginx_follows_a_link_to_a_file(blog_conf):
    """nginx also serves no file from the server's root, which is a link that the blog controls."""
    locations = re.findall(r"^ +location [^{]+ \{\n(.*?)^ +\}$", blog_conf, re.MULTILINE | re.DOTALL)
    with_files = [body for body in locations if re.search(r"^\s+(root|try_files) ", body, re.MULTILINE)]
    assert len(with_files) > 5
    for body in with_files:
        assert re.search(r"^\s+root /(srv|srv/www|srv/acme|usr/share/nginx);$", body, re.MULTILINE), body
        assert "disable_symlinks on;" in body, body
    answered = [body for body in locations if re.search(r"proxy_pass|return|rewrite", body)]
    assert {*with_files, *answered} == set(locations)


def test_maintenance_keeps_readers_from_all_but_these_ways_to_the_blog(blog_conf):
    """Others are reached through these, except /healthz. In a release's gate $maintenance stays empty."""
    locations = dict(re.findall(r"^ +location ([^{]+) \{\n(.*?)^ +\}$", blog_conf, re.MULTILINE | re.DOTALL))
    closed = {where for where, body in locations.items() if "if ($maintenance) { return 503; }" in body}
    asked = {where for where, body in locations.items() if "proxy_pass" in body}
    assert closed == {"/", "/author/", "= /author/media"}
    behind_a_closed_one = {
        "@page",
        "@author_page",
        "@large_body_of_author",
        "@large_body_of_stranger",
        "= /author/may-upload",
    }
    assert asked - closed == {"= /healthz"} | behind_a_closed_one
    assert blog_conf.count('set $maintenance "";') == 2
    assert blog_conf.count("if (-f /run/slot/maintenance) { set $maintenance on; }") == 1


def test_every_server_that_answers_drains(blog_conf):
    """Docker's health check is exempt, because it keeps no connection."""
    servers = re.findall(r"^server \{\n(.*?)^\}$", blog_conf, re.MULTILINE | re.DOTALL)
    answering = [s for s in servers if "return 444;" not in s and "listen 127.0.0.1:8082;" not in s]
    assert len(servers) > len(answering) > 1
    for server in answering:
        before, _, drain = server.partition("error_page 418 = @drain;")
        assert drain.startswith("\n    if (-f $drain) { return 418; }\n    location @drain {\n")
        # All refusals come before the drain: a drained request does not pass them again.
        assert "return" not in drain.partition("location @drain {")[2].partition("location ")[0]
        assert before.count("recursive_error_pages on;") == 1


def test_nft_accepts_the_rules_again_and_again(files, check):
    load = "nft --file /etc/nftables.conf"
    done = check(
        "--cap-add=NET_ADMIN",
        f"--volume={files}/nftables.conf:/etc/nftables.conf:ro",
        command=["sh", "-c", f"{load} && {load} && nft list tables"],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "table inet slipway_public\ntable inet slipway\n"
    assert done.stderr == ""
    assert "flush ruleset" not in (files / "nftables.conf").read_text()


def test_ports_of_the_stack_are_public_and_no_others(case, files):
    sets = re.findall(
        r"set (\w+) \{\s+type inet_service(?:\s+elements = \{ (.*) \})?\s+\}",
        (files / "nftables.conf").read_text(),
    )
    nothing = {"public_tcp": "", "public_udp": "", "host_tcp": "", "host_udp": ""}
    expected = {
        "defaults": nothing | {"public_tcp": "80, 443"},
        "plain_http": nothing | {"public_tcp": "80, 443"},
        "awkward_words": nothing,
        "everything_else": {
            "public_tcp": "80, 8443",
            "public_udp": "8443",
            "host_tcp": "1",
            "host_udp": "51820, 51821",
        },
    }
    assert dict(sets) == expected[case]


ORIGINS = {
    "Debian 12": "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
    "Debian 13": "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
    "Ubuntu 24": "origin=Ubuntu,archive=${distro_codename}-security,label=Ubuntu",
}


def test_apt_upgrades_what_is_a_matter_of_security_and_reboots_when_told(variables, files, check):
    mount = f"--volume={files}/apt.conf:/etc/apt/apt.conf.d/52slipway:ro"
    done = check(mount, command=["apt-config", "dump"])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    dumped = [
        line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith("Unattended-Upgrade:")
    ]
    found = {name.removeprefix("Unattended-Upgrade::"): value.strip('";') for name, value in dumped}
    assert found["Origins-Pattern::"] == ORIGINS[variables["render_system"]]
    assert found["Automatic-Reboot"] == ("true" if variables["baseline_reboot_time"] else "false")
    assert found.get("Automatic-Reboot-Time", "") == variables["baseline_reboot_time"]


def test_services_are_these_and_run_these_images(variables, services):
    ids = variables["images_ids"]
    assert {name: service["image"] for name, service in services.items()} == {
        "nginx": ids["nginx"],
        "nginx_stand_in": ids["nginx"],
        "db": ids["db"],
        "flask": "sha256:tool",
        "flask_migrate": "sha256:tool",
        "flask_blog_blue": "sha256:blue",
        "flask_blog_green": "sha256:green",
    }


def test_slots_tools_and_the_stand_in_wait_to_be_asked_for(services):
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "nginx_stand_in": ["stand_in"],
        "flask_blog_blue": ["blue"],
        "flask_blog_green": ["green"],
        "flask": ["tools"],
        "flask_migrate": ["tools"],
    }


def test_only_nginx_publishes_ports(variables, services, tls, http3):
    published = {
        (name, port["protocol"], port["target"], port.get("host_ip"), port.get("published"))
        for name, service in services.items()
        for port in service.get("ports", [])
    }
    https = str(variables["stack_https_port"])
    ports = {("tcp", 80): str(variables["stack_http_port"]), **({("tcp", 443): https} if tls else {})}
    ports |= {("udp", 443): https} if http3 else {}
    assert published == {
        # Only on the loopback addresses, at ports that Docker chooses.
        *(("nginx_stand_in", *port, address, None) for port in ports for address in ("127.0.0.1", "::1")),
        *(("nginx", *port, None, at) for port, at in ports.items()),
    }


def test_stand_in_is_nginx_but_for_its_addresses(services):
    other = {"ports", "networks", "profiles", "restart"}
    nginx, stand_in = (
        {key: value for key, value in services[name].items() if key not in other}
        for name in ("nginx", "nginx_stand_in")
    )
    assert stand_in == nginx


def test_nginx_speaks_tls_or_not(variables, blog_conf, tls, http3):
    listening = re.findall(
        r"listen (\d+|\[::\]:\d+)( ssl| quic| quic reuseport)?(?: default_server)?;", blog_conf
    )
    assert (("443", " ssl") in listening) is tls
    assert (("443", " quic") in listening) is http3
    assert ("ssl_reject_handshake on;" in blog_conf) is tls
    assert ("Strict-Transport-Security" in blog_conf) is tls
    if tls:
        assert f'on "max-age={variables["tls_hsts_seconds"]}";' in blog_conf
    for redirect in variables["stack_domain_redirects"]:
        assert re.search(rf"server_name .*\b{re.escape(redirect)}\b", blog_conf)


def test_networks_keep_the_database_from_the_world(compose, services):
    assert {name: set(service["networks"]) for name, service in services.items()} == {
        "nginx": {"edge", "app"},
        "nginx_stand_in": {"edge", "app"},
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


def test_nginx_and_slipway_find_the_slots_where_compose_puts_them(
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


def test_slipway_asks_for_pages_as_readers_do(variables, services, blog_conf, configuration, tls):
    port = variables["stack_https_port" if tls else "stack_http_port"]
    assert configuration["public"] == f"127.0.0.1:{port}"
    assert configuration["tls"] == tls
    url = urlsplit(services["flask_blog_blue"]["environment"]["BASE_URL"])
    assert configuration["host"] == url.netloc
    assert url.scheme == ("https" if tls else "http")
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


def test_what_serves_comes_back_and_is_watched(services):
    restarts = {name: service["restart"] for name, service in services.items()}
    once = {name: "no" for name in ("flask", "flask_migrate", "nginx_stand_in")}
    assert restarts == {name: "unless-stopped" for name in services} | once
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["healthcheck"]["retries"] == 3
    assert "/healthz" in services["flask_blog_blue"]["healthcheck"]["test"][-1]
    assert "/healthz" in services["nginx"]["healthcheck"]["test"][-1]
    assert "pg_isready" in services["db"]["healthcheck"]["test"]


def test_the_blog_starts_after_a_healthy_database(services):
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


def test_secrets_are_files(services, readable):
    for name, service in services.items():
        environment = service.get("environment", {})
        named = {value for name, value in environment.items() if name.endswith("_FILE")}
        assert named <= readable[name].keys(), name


def test_each_secret_has_as_few_readers_as_it_needs(readable):
    blog = {
        f"/run/secrets/blog/{n}" for n in ("app_secret_key", "app_secret_key_fallbacks", "db_app_password")
    }
    assert {name: set(files) for name, files in readable.items()} == {
        "nginx": set(),
        "nginx_stand_in": set(),
        "db": {"/run/secrets/db_superuser_password"},
        "flask_migrate": {"/run/secrets/db_migrator_password", *blog},
        "flask_blog_blue": blog,
        "flask_blog_green": blog,
        "flask": blog,
    }


@pytest.mark.parametrize("slot", ["blue", "green"])
def test_each_slot_has_a_login_and_secrets_of_its_own(services, readable, slot):
    service = f"flask_blog_{slot}"
    assert urlsplit(services[service]["environment"]["DATABASE_URL"]).username == f"blog_app_{slot}"
    assert {path.split("/")[-2] for path in readable[service].values()} == {slot}


def test_no_environment_holds_a_secret(services):
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            assert name.endswith("_FILE") or not re.search("PASSWORD|SECRET|TOKEN|KEY", name)
            assert urlsplit(value).password is None


def test_data_outlives_the_containers(compose, services, variables):
    assert compose["volumes"] == {
        name: {"name": variables[f"stack_{name}"]} for name in ("db_volume", "media_volume")
    }
    for name, service in services.items():
        writable = {mount["source"] for mount in service.get("volumes", []) if not mount.get("read_only")}
        expected = {"db_volume"} if name == "db" else set() if name in NGINX else {"media_volume"}
        assert writable == expected, name


def test_another_name_of_a_volume_makes_the_containers_with_it_anew(services, variables):
    for name, service in services.items():
        volume = variables["stack_db_volume" if name == "db" else "stack_media_volume"]
        assert service["labels"] == {"slipway.volume": volume}, name


def test_words_reach_the_blog_as_they_were_written(variables, services):
    words = {
        "SITE_TITLE": variables["stack_site_title"],
        "SITE_DESCRIPTION": variables["stack_site_description"],
        "SITE_AUTHOR": variables["stack_site_author"],
        **{name: str(value) for name, value in variables["stack_blog_environment"].items()},
    }
    for name in BLOG:
        assert services[name]["environment"] | words == services[name]["environment"]
