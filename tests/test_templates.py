"""The files that a host gets, rendered by Ansible and judged by the programs that will read them."""

import json
import re
import subprocess
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest
import yaml
from project import ROOT

# What has no default, and what the role `images` leaves for the others.
REQUIRED = {
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
        "stack_domain_aliases": ["127.0.0.1", "localhost", "a-very-long-name.of-a-blog.example.net"],
        "stack_base_url": "https://blog.example.org:8443",
        "stack_http_port": 8080,
        "stack_trusted_proxies": ["10.1.0.0/16", "192.0.2.1", "2001:db8:5::/48"],
        "stack_methods": ["GET", "HEAD", "POST", "DELETE"],
        "stack_max_body_kb": 512,
        "stack_rate_pages": 7,
        "stack_rate_writes": 2,
        "stack_rate_connections": 9,
        "stack_rate_exempt": ["198.51.100.0/24", "2001:db8:6::/48"],
        "stack_directory": "/srv/blog",
        "stack_state_directory": "/srv/state",
        "stack_secrets_directory": "/srv/secrets",
        "stack_app_subnet": "172.31.255.16/28",
        "stack_app_subnet_ipv6": "fd00:1::/64",
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
    "awkward_words": {
        **REQUIRED,
        "stack_site_title": 'Anna\'s "blog": $HOME ${BLUE_IMAGE} $$ # {1: &a *b} \\n ünïcødé 🚢',
        "stack_site_description": "two\nlines, and a tab\t",
        "stack_site_author": "no",
    },
}
SLOT_IMAGES = {"BLUE_IMAGE": "sha256:blue", "GREEN_IMAGE": "sha256:green", "TOOL_IMAGE": "sha256:tool"}
BLOG = ["flask_blog_blue", "flask_blog_green", "flask", "flask_migrate"]


def docker(*command, **options):
    return subprocess.run(["docker", *command], capture_output=True, text=True, **options)


@pytest.fixture(scope="session")
def check():
    """A function that runs a command in a container with the parsers, with options of `docker run`."""
    base = yaml.safe_load((ROOT / "roles/sandbox/vars/main.yml").read_text())["__sandbox_base_image"]
    if docker("image", "inspect", base).returncode:
        pytest.fail(f"The engine has no image {base}: run `make sandbox-base` first.", pytrace=False)
    image = "slipway/checkers"
    built = docker("build", "--build-arg", f"BASE_IMAGE={base}", "--tag", image, str(ROOT / "tests/checkers"))
    assert built.returncode == 0, built.stderr

    def run(*options, command, stdin=""):
        always = ["--rm", "--interactive", "--network=none", "--label=slipway.test=unit"]
        return docker("run", *always, *options, image, *command, input=stdin)

    return run


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
    return yaml.safe_load((ROOT / "roles/stack/defaults/main.yml").read_text()) | CASES[case]


@pytest.fixture(scope="session")
def files(case, rendered):
    """Directory of the files that were rendered for the case."""
    return rendered / case


@pytest.fixture(scope="session")
def compose(files, check):
    """What compose makes of compose.yml, for all profiles at once."""
    environment = [f"--env={name}={image}" for name, image in SLOT_IMAGES.items()]
    command = ["docker", "compose", "--file=-", "--profile=*", "config", "--format=json"]
    done = check(*environment, command=command, stdin=(files / "compose.yml").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    # The output can be fed to compose again, so it says $$ for $.
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
    """The rendered configuration of the program slipway."""
    return json.loads((files / "slipway.json").read_text())


def test_nginx_accepts_its_configuration(files, check):
    done = check(
        f"--volume={ROOT}/roles/images/files/nginx/nginx.conf:/etc/nginx/nginx.conf:ro",
        f"--volume={files}/blog.conf:/etc/nginx/conf.d/blog.conf:ro",
        command=["nginx", "-t", "-q"],
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_place_of_nginx_forgets_a_header(blog_conf):
    """A server or location with an add_header of its own inherits none of the others."""
    added = re.findall(r"^add_header (\S+) \$add_\w+ always;$", blog_conf, re.MULTILINE)
    assert len(set(added)) == len(added) == 9
    assert len(re.findall(r"^\s*add_header", blog_conf, re.MULTILINE)) == 9


def test_nginx_believes_and_exempts_only_these(variables, blog_conf):
    proxies, exempt = variables["stack_trusted_proxies"], variables["stack_rate_exempt"]
    assert re.findall(r"^set_real_ip_from (\S+);$", blog_conf, re.MULTILINE) == proxies
    blocks = dict(re.findall(r"^geo ([^{]+) \{\n(.*?)^\}", blog_conf, re.MULTILINE | re.DOTALL))
    assert {key: block.split() for key, block in blocks.items()} == {
        "$realip_remote_addr $by_proxy": [
            "default",
            "0;",
            *(word for network in proxies for word in (network, "1;")),
        ],
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
    assert len(places) > 2
    assert {tuple(re.split(r"\s*\n\s*", place)) for place in places} == {tuple(limits)}
    assert blog_conf.count(f"limit_conn connections {variables['stack_rate_connections']};") == 2
    assert blog_conf.count(f"client_max_body_size {variables['stack_max_body_kb']}k;") == 2
    assert blog_conf.count(f'!~ "^({"|".join(variables["stack_methods"])})$"') == 2


def test_services_are_these_and_run_these_images(variables, services):
    ids = variables["images_ids"]
    assert {name: service["image"] for name, service in services.items()} == {
        "nginx": ids["nginx"],
        "db": ids["db"],
        "flask": "sha256:tool",
        "flask_migrate": "sha256:tool",
        "flask_blog_blue": "sha256:blue",
        "flask_blog_green": "sha256:green",
    }


def test_slots_and_tools_wait_to_be_asked_for(services):
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "flask_blog_blue": ["blue"],
        "flask_blog_green": ["green"],
        "flask": ["tools"],
        "flask_migrate": ["tools"],
    }


def test_only_nginx_publishes_a_port(variables, services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    port = {
        "mode": "ingress",
        "protocol": "tcp",
        "target": 80,
        "published": str(variables["stack_http_port"]),
    }
    assert published == {"nginx": [port]}


def test_networks_keep_the_database_from_the_world(compose, services):
    assert {name: set(service["networks"]) for name, service in services.items()} == {
        "nginx": {"edge", "app"},
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
    address = {name: services[name]["networks"]["app"]["ipv4_address"] for name in ("nginx", *BLOG[:2])}
    slots = {"blue": address["flask_blog_blue"], "green": address["flask_blog_green"]}
    upstreams = dict(re.findall(r"upstream (\w+) \{\s*server ([\d.]+):8000;", blog_conf))
    assert upstreams == slots == configuration["slots"]

    preview, _, port = configuration["preview"].rpartition(":")
    assert preview == address["nginx"]
    assert f"listen {port};" in blog_conf

    subnet = ip_network(compose["networks"]["app"]["ipam"]["config"][0]["subnet"])
    assert len(set(address.values())) == 3
    assert all(ip_address(value) in subnet for value in address.values())


def test_slipway_asks_for_pages_as_readers_do(variables, services, blog_conf, configuration):
    published = services["nginx"]["ports"][0]["published"]
    assert configuration["public"] == f"127.0.0.1:{published}"
    url = urlsplit(services["flask_blog_blue"]["environment"]["BASE_URL"])
    assert configuration["host"] == url.netloc
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
    assert restarts == {name: "unless-stopped" for name in services} | {"flask": "no", "flask_migrate": "no"}
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


def test_secrets_are_files(variables, compose, services):
    assert {name: secret["file"] for name, secret in compose["secrets"].items()} == {
        name: f"{variables['stack_secrets_directory']}/{name}"
        for name in ("db_superuser_password", "db_migrator_password", "db_app_password", "app_secret_key")
    }
    for name, service in services.items():
        mounted = {secret["target"] for secret in service.get("secrets", [])}
        environment = service.get("environment", {})
        named = {value for name, value in environment.items() if name.endswith("_FILE")}
        assert named == mounted, name


def test_each_secret_has_as_few_readers_as_it_needs(services):
    app = {"app_secret_key", "db_app_password"}
    assert {
        name: {mount["source"] for mount in service.get("secrets", [])} for name, service in services.items()
    } == {
        "nginx": set(),
        "db": {"db_superuser_password"},
        "flask_migrate": {"app_secret_key", "db_migrator_password"},
        "flask_blog_blue": app,
        "flask_blog_green": app,
        "flask": app,
    }


def test_no_environment_holds_a_secret(services):
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            assert name.endswith("_FILE") or not re.search("PASSWORD|SECRET|TOKEN|KEY", name)
            assert urlsplit(value).password is None


def test_data_outlives_the_containers(compose, services):
    assert compose["volumes"] == {name: {"name": name} for name in ("db_volume", "media_volume")}
    for name, service in services.items():
        writable = {mount["source"] for mount in service.get("volumes", []) if not mount.get("read_only")}
        assert writable == {"db": {"db_volume"}, "nginx": set()}.get(name, {"media_volume"})


def test_words_reach_the_blog_as_they_were_written(variables, services):
    words = {
        "SITE_TITLE": variables["stack_site_title"],
        "SITE_DESCRIPTION": variables["stack_site_description"],
        "SITE_AUTHOR": variables["stack_site_author"],
        **{name: str(value) for name, value in variables["stack_blog_environment"].items()},
    }
    for name in BLOG:
        assert services[name]["environment"] | words == services[name]["environment"]
