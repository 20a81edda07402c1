"""Fixtures shared by the tests: the host from inside and from outside, and its variables."""

import contextlib
import copy
import http.client
import json
import re
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from urllib.parse import urlsplit

import pytest
import testinfra
import yaml
from load import Load
from outside import (
    ENVIRONMENT,
    ROOT,
    Answer,
    Author,
    Http2Reader,
    Machine,
    Reader,
    SlowSender,
    play,
    wait_until,
)
from refusals import (  # noqa: F401 (fixtures of test_refusals_*.py)
    assert_refused,
    context,
    other_runs,
    outcomes,
    preparations,
)

LOADS = pytest.StashKey()


def pytest_addoption(parser):
    """Add --soak, for the tests that take too long for `make test`."""
    parser.addoption("--soak", action="store_true", help="all that is promised under one load (`make soak`)")


def pytest_configure(config):
    """Begin the list of loads for the summary."""
    config.stash[LOADS] = []


def pytest_collection_modifyitems(config, items):
    """Deselect the tests for a soak unless there is --soak."""
    if not config.getoption("soak"):
        left_out = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter, config):
    """Print the results of each load."""
    for load in config.stash[LOADS]:
        terminalreporter.write_sep("-", "under load")
        for line in (*load.steps, load.report):
            terminalreporter.write_line(str(line))


@pytest.fixture(scope="session")
def inventory(pytestconfig):
    """The path of the scenario's inventory."""
    return pytestconfig.getoption("ansible_inventory")


@pytest.fixture(scope="session")
def hostname(pytestconfig):
    """The host's name in the inventory."""
    return pytestconfig.getoption("hosts").removeprefix("ansible://")


@pytest.fixture(scope="session")
def variables(inventory, hostname):
    """The host's variables: the inventory's as Ansible resolves them, over the roles' literal defaults."""
    command = ["ansible", hostname, "--inventory", inventory, "--module-name", "debug", "--one-line"]
    done = subprocess.run(
        [*command, "--args", "var=hostvars[inventory_hostname]"],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    resolved = json.loads(done.stdout.partition("=> ")[2])["hostvars[inventory_hostname]"]
    defaults = [yaml.safe_load(file.read_text()) for file in ROOT.glob("roles/*/defaults/main.yml")]
    return {key: value for role in defaults for key, value in role.items()} | resolved


@pytest.fixture(scope="session")
def host(variables, tmp_path_factory):
    """The host from inside, as root, over one connection."""
    control = tmp_path_factory.mktemp("ssh") / "%C"
    return testinfra.get_host(
        f"ssh://{variables['ansible_user']}@{variables['ansible_host']}:{variables['ansible_port']}",
        sudo=True,
        ssh_identity_file=variables["ansible_ssh_private_key_file"],
        ssh_extra_args=f"{variables['ansible_ssh_common_args']} -o ControlMaster=auto -o ControlPersist=60 "
        f"-o ControlPath={control}",
    )


@pytest.fixture(scope="session")
def machine(hostname):
    """The host's container, as the machine outside sees it."""
    return Machine(f"slipway-{hostname}")


SCANNER = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends iproute2 nmap && rm -rf /var/lib/apt/lists/*
"""


@pytest.fixture(scope="session")
def stranger(hostname):
    """Run a shell command on a neighbour of the host: a container on the same link, with nmap."""
    base = yaml.safe_load((ROOT / "roles/sandbox/vars/main.yml").read_text())["__sandbox_base_image"]
    image, name = "slipway/stranger", f"slipway-test-stranger-{hostname}"

    def docker(*arguments, **options):
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, **options)

    docker("build", "--build-arg", f"BASE_IMAGE={base}", "--tag", image, "-", input=SCANNER)
    how = ["--label=slipway.test", "--network=slipway-sandbox", "--cap-add=NET_ADMIN", "--init", "--rm"]
    docker("run", "--detach", f"--name={name}", *how, image, "sleep", "infinity")
    yield lambda command: docker("exec", name, "bash", "-c", command).stdout
    docker("rm", "--force", name)


@pytest.fixture(scope="session")
def scan(stranger, machine):
    """Scan TCP ports, all or some, of the host or other addresses; return the open ones by family."""

    def scan(ports=range(1, 65536), addresses=None):
        addresses = addresses or {"ipv4": machine.ipv4, "ipv6": machine.ipv6}
        named = ",".join(map(str, ports)) if len(ports) < 100 else f"{ports[0]}-{ports[-1]}"
        # At most two probes of a port that drops packets.
        nmap = f"nmap -n -Pn -sS -T5 --min-rate 30000 --max-retries 1 --open -oG - -p {named}"
        with ThreadPoolExecutor() as pool:
            found = pool.map(
                stranger, [f"{nmap} -{family[-1]} {address}" for family, address in addresses.items()]
            )
        return {
            family: {int(port) for port in re.findall(r"(\d+)/open/", text)}
            for family, text in zip(addresses, found, strict=True)
        }

    return scan


@pytest.fixture(scope="session")
def open_ports(variables):
    """The TCP ports that must be open to the world."""
    https = set() if variables["tls_mode"] == "off" else {variables["stack_https_port"]}
    return {variables["baseline_ssh_port"], variables["stack_http_port"]} | https


@pytest.fixture(scope="session")
def deploy(inventory, hostname):
    """Run a playbook against this host."""
    return lambda playbook, *arguments, **environment: play(
        playbook, "--inventory", inventory, "--limit", hostname, *arguments, **environment
    )


# --- The blog, for readers ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def base_url(variables):
    """The blog's address in parts, as readers type it."""
    return urlsplit(variables["stack_base_url"])


@pytest.fixture(scope="session")
def site(base_url):
    """The blog's name: with the port, as readers type it."""
    return base_url.netloc


@pytest.fixture(scope="session")
def host_authority(host, base_url):
    """The certificate of the host's own CA, as PEM; None without TLS."""
    return None if base_url.scheme == "http" else host.file("/etc/slipway/ca/ca.pem").content_string


@pytest.fixture(scope="session")
def trust(host_authority):
    """A TLS context that trusts only the host's own CA; None without TLS."""
    return host_authority and ssl.create_default_context(cadata=host_authority)


@pytest.fixture(scope="session")
def reader(base_url, site, trust):
    """Make a Reader of the blog, which connects to 127.0.0.1 or to an address of the host."""
    port = {"http": 80, "https": 443}[base_url.scheme]
    return lambda address=None: Reader(
        address or "127.0.0.1", port if address else base_url.port, site, trust
    )


@pytest.fixture(scope="session")
def http2_reader(base_url, site, host_authority):
    """Make an Http2Reader of the blog."""
    assert host_authority, "HTTP/2 needs TLS, which Molecule's hosts have"
    return lambda: Http2Reader("127.0.0.1", base_url.port, site, host_authority)


@pytest.fixture(scope="session")
def dial(reader):
    """Open a connection to the blog and return its socket, for bytes that no HTTP client sends."""

    def dial():
        connection = reader().connection
        connection.connect()
        connection.sock.settimeout(15)
        return connection.sock

    return dial


@pytest.fixture(scope="session")
def exchange(dial):
    """Send raw bytes, and return the answer; without one, raise the error of http.client."""

    def exchange(raw):
        with dial() as connection:
            connection.sendall(raw)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return Answer.of(response)

    return exchange


@pytest.fixture(scope="session")
def ask(reader):
    """Request a path; STATIC in it stands for the path of a static file."""
    one = reader()
    [static] = set(re.findall(r'"(/static/style\.[^"]+\.css)"', one.request("/").text))

    def ask(path, method="GET", **options):
        try:
            return one.request(path.replace("STATIC", static), method, **options)
        finally:
            one.close()

    return ask


@pytest.fixture
def slow(dial, site):
    """Make a SlowSender that begins with a given text."""
    senders = []

    def slow(begin):
        senders.append(SlowSender(dial(), begin.format(site=site)))
        return senders[-1]

    yield slow
    for sender in senders:
        sender.close()


@pytest.fixture
def get(reader):
    """Request a page of the blog, over a new connection in each test."""
    one = reader()
    yield one.request
    one.close()


@pytest.fixture
def signs_in(reader, variables):
    """Try to sign in to the blog, and return the Author, also when the login fails."""
    authors = []

    def signs_in(email, password):
        author = Author(reader(), variables["stack_base_url"], email, password)
        author.reader.close()  # nginx would close it before the next request
        authors.append(author)
        return author

    yield signs_in
    for author in authors:
        author.reader.close()


@pytest.fixture(scope="session")
def enlist(host, slot):
    """Create an administrator of the blog."""
    return lambda email, password: host.check_output(
        f"cd /opt/slipway && echo %s | docker compose exec -T flask_blog_{slot()}"
        " flask user ensure-admin --email %s --password-file -",
        password,
        email,
    )


@pytest.fixture(scope="module")
def author(enlist, reader, variables, sql):
    """Return a signed-in Author with a separate connection."""
    email, password = f"fresh-{token_hex(3)}@example.org", token_hex()
    enlist(email, password)
    with contextlib.ExitStack() as connections:

        def dial():
            return connections.enter_context(contextlib.closing(reader()))

        signed_in = Author(dial(), variables["stack_base_url"], email, password)
        assert signed_in.signed_in

        def author():
            one = copy.copy(signed_in)
            one.reader = dial()
            return one

        yield author
    sql("DELETE FROM post WHERE slug LIKE 'fresh-%'")
    sql(f"DELETE FROM user_account WHERE email = '{email}'")


@pytest.fixture(scope="module")
def fetch(reader):
    """Request a page without a session, over a new connection."""

    def fetch(path, method="GET", **options):
        with contextlib.closing(reader()) as one:
            return one.request(path, method, **options)

    return fetch


@pytest.fixture(scope="session")
def under_load(enlist, reader, site, host_authority, host, variables, base_url, sql, pytestconfig):
    """Put the blog under load, as in `with under_load() as load`; then remove its posts and its account."""

    rate = 220 if pytestconfig.getoption("soak") else 120

    @contextlib.contextmanager
    def under_load():
        name, password = f"load-{token_hex(3)}", token_hex()
        email, posts = f"{name}@example.org", f"FROM post WHERE title LIKE '{name}-%'"
        enlist(email, password)
        author = Author(reader(), variables["stack_base_url"], email, password)
        author.open("/author/posts/new")
        home = author.request("/").text
        author.reader.close()
        plan = {
            "name": name,
            # Lower in `make test`, whose machine may be busy; its report still shows what the load met.
            "rate": rate,
            "address": "127.0.0.1",
            "port": base_url.port,
            "host": site,
            "base_url": variables["stack_base_url"],
            "ca": host_authority,
            "cookie": author.cookie,
            "token": author.token,
            "posts": re.findall(r'href="(/posts/[^"#]+)"', home),
            "style": re.search(r'href="(/static/[^"]+\.css)"', home)[1],
        }
        assert plan["posts"], "the blog has no post that the load could read: import some first"
        try:
            with Load(plan, least=rate - 20) as load:
                yield load
            load.titles = [title for [title] in sql(f"SELECT title {posts}")]
        finally:
            sql(f"DELETE {posts}")
            sql(f"DELETE FROM user_account WHERE email = '{email}'")
            pytestconfig.stash[LOADS].append(load)

    return under_load


@pytest.fixture(scope=lambda config, **_: "session" if config.getoption("soak") else "module")
def load(under_load):
    """One load for all tests of a module, or of a soak."""
    with under_load() as load:
        yield load
    assert load.problems == []


# --- Containers, secrets and releases -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def docker(host):
    """Run docker on the host, and return what it prints."""
    return lambda command, *arguments: host.check_output(f"docker {command}", *arguments)


@pytest.fixture(scope="session")
def inspect(docker):
    """Return the output of `docker inspect` for each container on the host, by service."""

    def inspect():
        found = json.loads(docker("ps --all --quiet | xargs --no-run-if-empty docker inspect") or "[]")
        return {c["Config"]["Labels"].get("com.docker.compose.service", c["Name"]): c for c in found}

    return inspect


@pytest.fixture(scope="session")
def healthy(inspect):
    """Wait until exactly three containers run and are healthy; return the result of `inspect`."""

    def healthy(seconds=60):
        def found():
            containers = inspect()
            states = [c["State"].get("Health", {}).get("Status") for c in containers.values()]
            return containers if states == ["healthy"] * 3 else None

        return wait_until(found, seconds, "three healthy containers")

    return healthy


@pytest.fixture
def containers(inspect):
    """The result of `inspect`, with the slot in service as flask_blog."""
    return {service.replace("_blue", "").replace("_green", ""): c for service, c in inspect().items()}


class Secrets(dict):
    """The secrets' values by file name; repr() hides them, so that a failing test shows none."""

    def __repr__(self):
        return f"Secrets({', '.join(self)})"

    def named_in(self, text):
        """Return the names of the secrets whose value is part of text."""
        return [name for name, value in self.items() if value in text]


@pytest.fixture(scope="session")
def read_secrets(host):
    """Return the present secrets from the files on the host."""

    def read():
        lines = host.check_output('cd /etc/slipway/secrets && for f in *; do echo "$f $(cat $f)"; done')
        return Secrets(line.split(" ", 1) for line in lines.splitlines())

    return read


@pytest.fixture
def secrets(read_secrets):
    """The secrets at the start of the test."""
    return read_secrets()


@pytest.fixture(scope="session")
def sql(docker):
    """Run a query as the superuser inside the database's container, and return the rows."""

    def sql(query):
        rows = docker("exec $(docker ps --quiet --filter name=-db-) psql -U postgres -d blog -XAtc %s", query)
        return [tuple(row.split("|")) for row in rows.splitlines()]

    return sql


@pytest.fixture(scope="session")
def slot(host):
    """Return the slot to which nginx sends readers, according to its flag file."""
    return lambda: "green" if host.file("/var/lib/slipway/slot/green").exists else "blue"


@pytest.fixture
def app_role(slot):
    """The database role of the slot in service."""
    return f"blog_app_{slot()}"


@pytest.fixture
def login(host, containers, secrets, app_role):
    """Log in to the database over TCP, like a service on the network, and run one statement."""
    passwords = {
        "postgres": secrets["db_superuser_password"],
        "blog_migrator": secrets["db_migrator_password"],
        app_role: secrets["db_app_password"],
    }
    address = containers["db"]["NetworkSettings"]["Networks"]["slipway_data"]["IPAddress"]

    def run(role, statement, password=None):
        return host.run(
            "docker exec --env PGPASSWORD=%s %s psql --no-password -XAtqc %s %s",
            passwords[role] if password is None else password,
            containers["db"]["Id"],
            statement,
            f"host={address} user={role} dbname=blog",
        )

    return run


@pytest.fixture(scope="module")
def variant(host, docker, inspect):
    """Build the blog's image with more Dockerfile lines, and return its id, which is new each time."""
    [serving] = [c["Image"] for service, c in inspect().items() if "flask_blog" in service]
    docker("tag %s slipway.test/blog:source", serving)
    made = []

    def variant(lines=""):
        # A new id each time: a release that an earlier test rolled back is held.
        dockerfile = f'FROM slipway.test/blog:source\nLABEL slipway.test="{time.time()}"\n{lines}'
        made.append(host.check_output("echo %s | docker build --quiet -", dockerfile))
        return made[-1]

    yield variant
    docker(f"rmi --force slipway.test/blog:source {' '.join(made)}")


@pytest.fixture(scope="session")
def ledger(host):
    """Return the ledger's entries, oldest first."""
    return lambda: json.loads(host.check_output("cat /var/lib/slipway/releases.json"))


@pytest.fixture(scope="session")
def status(host):
    """Return the output of `slipway status --json`."""
    return lambda: json.loads(host.check_output("slipway status --json"))


@pytest.fixture
def in_harmony(slot, healthy, status, sql):
    """Assert that one slot runs, gets the readers and has a login, and that there is no drift."""

    def in_harmony(serving):
        assert slot() == serving
        assert set(healthy()) == {"nginx", "db", f"flask_blog_{serving}"}
        logins = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'blog_app_%' AND rolcanlogin"
        assert sql(logins) == [(f"blog_app_{serving}",)]
        now = status()
        assert (now["drift"], now["active"], now["image"]) == ([], serving, now["release"]["image"])

    return in_harmony


@pytest.fixture
def in_service(ledger):
    """The ledger's entry of the release in service."""
    return [entry for entry in ledger() if entry["outcome"] == "in service"][-1]
