"""A neighbour on the host's network reaches only the intended ports, whatever else the host publishes."""

import contextlib
import json
import socket
import ssl

import pytest
from outside import Prober, answers, wait_until

FAMILIES = ("ipv4", "ipv6")
each_family = pytest.mark.parametrize("family", FAMILIES)


# --- Open and closed ports ----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["reload nftables", "restart nftables", "restart docker"])
def test_only_the_intended_ports_are_open_after_reload_or_restart(host, open_ports, scan, action):
    host.check_output(f"systemctl {action}")
    assert scan() == {family: open_ports for family in FAMILIES}


MISTAKEN_PORTS = {5432, 8000}
SERVE = """
import socket, time
for port in (5432, 8000):
    globals()[port] = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def published_by_mistake(docker, inspect):
    """Start a container that publishes ports of the database and the blog. Yield its addresses by family."""
    publish = " ".join(f"--publish {port}:{port}" for port in MISTAKEN_PORTS)
    name = "slipway-test-mistake"
    [image] = {c["Image"] for service, c in inspect().items() if service.startswith("flask_blog")}
    docker(
        f"run --detach --name {name} --label slipway.test --network slipway_edge {publish} "
        "--entrypoint python3 %s -c %s",
        image,
        SERVE,
    )
    networks = '{{(index .NetworkSettings.Networks "slipway_edge").%s}}'
    yield {
        family: docker("inspect --format %s %s", networks % key, name).strip()
        for family, key in {"ipv4": "IPAddress", "ipv6": "GlobalIPv6Address"}.items()
    }
    docker(f"rm --force {name}")


@pytest.fixture
def without_firewall(host):
    """Remove Slipway's firewall rules during a test."""
    yield host.check_output("nft delete table inet slipway")
    host.check_output("systemctl reload nftables")


@pytest.fixture(scope="module")
def routes(run_on_neighbour, machine, published_by_mistake):
    """Add routes to the neighbour that lead to the addresses of that container through the host."""
    for family, address in published_by_mistake.items():
        run_on_neighbour(f"ip route add {address} via {getattr(machine, family)}")
    yield
    for address in published_by_mistake.values():
        run_on_neighbour(f"ip route delete {address}")


def test_port_published_by_mistake_is_open_without_the_firewall(
    without_firewall, published_by_mistake, routes, scan
):
    assert scan(MISTAKEN_PORTS) == {family: MISTAKEN_PORTS for family in FAMILIES}
    assert scan(MISTAKEN_PORTS, published_by_mistake) == {family: MISTAKEN_PORTS for family in FAMILIES}


def test_port_published_by_mistake_is_closed(host, published_by_mistake, scan):
    assert scan(MISTAKEN_PORTS) == {family: set() for family in FAMILIES}
    for port in MISTAKEN_PORTS:
        assert host.run(f"timeout 3 bash -c '</dev/tcp/127.0.0.1/{port}'").rc == 0, (
            "the host itself must reach the port"
        )


def test_container_address_is_unreachable_from_the_network(published_by_mistake, routes, scan):
    assert scan(MISTAKEN_PORTS, published_by_mistake) == {family: set() for family in FAMILIES}


def test_container_reaches_the_network_but_not_the_host(host, containers, machine, variables):
    def connect(address, port):
        enter = f"nsenter --net --target {containers['nginx']['State']['Pid']}"
        return host.run(f"{enter} timeout 2 bash -c '</dev/tcp/{address}/{port}'")

    edge = containers["nginx"]["NetworkSettings"]["Networks"]["slipway_edge"]
    for address in (edge["Gateway"], edge["IPv6Gateway"], machine.ipv4, machine.ipv6):
        assert connect(address, variables["baseline_ssh_port"]).rc == 124, address
    for outside in machine.gateways:
        assert "refused" in connect(outside, 1).stderr, "the gateway must get and refuse the connection"


# --- Restarts of the engine ---------------------------------------------------------------------------------


class Newcomers(Prober):
    """Readers that use a new connection for each request."""

    def ask(self, reader, mark):
        """Send one request, and close the connection."""
        try:
            return super().ask(reader, mark)
        finally:
            reader.close()


def test_no_request_fails_during_a_restart_of_the_engine(host, machine, reader):
    with Newcomers(lambda: reader(machine.ipv4)) as prober:
        host.check_output("systemctl restart docker")
        answered = prober.answered
        wait_until(lambda: prober.answered > answered + 50, 20, "the blog answers again")
    assert prober.failures == []


def test_upgrade_of_the_engine_keeps_the_containers_running(host, machine, reader, inspect):
    before = {service: c["State"]["Pid"] for service, c in inspect().items()}
    with Newcomers(lambda: reader(machine.ipv4)) as prober:
        host.check_output("apt-get install --reinstall --yes docker.io containerd runc")
    assert prober.failures == []
    assert {service: c["State"]["Pid"] for service, c in inspect().items()} == before


# --- SSH ----------------------------------------------------------------------------------------------------


@pytest.fixture
def without_known_clients(host, family):
    """Clear the firewall's set of SSH clients before the test and after it."""
    host.check_output(f"nft flush set inet slipway ssh_{family}")
    yield
    host.check_output(f"nft flush set inet slipway ssh_{family}")


@each_family
def test_connections_to_sshd_are_rate_limited_by_source(
    host, run_on_neighbour, scan, machine, variables, without_known_clients, family
):
    address, port = getattr(machine, family), variables["baseline_ssh_port"]

    def dropped():
        counter = host.check_output("nft --json list counter inet slipway ssh_dropped")
        return json.loads(counter)["nftables"][1]["counter"]["packets"]

    before, sent = dropped(), 2 * variables["baseline_ssh_burst"]
    run_on_neighbour(
        f"nping --tcp --flags syn --dest-port {port} --count {sent} --rate 200 -{family[-1]} {address}"
    )
    let_in = sent - (dropped() - before)
    assert variables["baseline_ssh_burst"] <= let_in < variables["baseline_ssh_burst"] + 20
    if family == "ipv6":
        # The machine that runs the tests is in the same /64 as the neighbour, so it is limited too.
        assert sum(answers(address, port, timeout=0.3) for _ in range(10)) < 5
    wait_until(lambda: scan({port})[family], 10, "connections are accepted again")


# --- Limits for each client ---------------------------------------------------------------------------------


@each_family
def test_connections_of_one_client_are_limited_and_others_can_connect(
    run_on_neighbour, machine, variables, open_ports, family
):
    """The connections are idle and carry no request, so only the firewall can limit them."""
    limit, address, port = variables["baseline_public_connections"], getattr(machine, family), max(open_ports)
    held = []
    with contextlib.ExitStack() as connections:
        with contextlib.suppress(TimeoutError):
            while len(held) < 2 * limit:
                connection = socket.create_connection((address, port), timeout=1)
                held.append(connections.enter_context(connection))
        # Readers of earlier tests may still have some connections.
        assert limit - 20 < len(held) <= limit
        assert not answers(address, port, timeout=1)
        if family == "ipv4":  # over IPv6 the neighbour is in the same /64
            run_on_neighbour(f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'")
    wait_until(lambda: answers(address, port, timeout=1), 10, "connections are accepted again")


@pytest.fixture
def connections(host):
    """Return how many seconds each connection may still last, by the client's address and port."""

    def connections():
        listed = json.loads(host.check_output("nft --json list set inet slipway_public since_ipv4"))
        elements = (element["elem"] for element in listed["nftables"][1]["set"].get("elem", []))
        return {tuple(element["val"]["concat"]): element["expires"] for element in elements}

    return connections


def test_connection_ends_at_its_time_limit_and_others_continue(
    host, connect, site, reader, variables, connections
):
    """Send a body byte by byte. Then delete the connection's timer, as if the timer had expired."""
    other = reader()
    assert other.request("/").status == 200
    before = connections()
    with connect() as connection:
        connection.sendall(f"POST /contact HTTP/1.1\r\nHost: {site}\r\nContent-Length: 900\r\n\r\n".encode())
        [(client, left)] = wait_until(
            lambda: [one for one in connections().items() if one[1] > before.get(one[0], 0)],
            5,
            "the firewall knows the connection",
        )
        assert 0 <= variables["baseline_public_connection_seconds"] - left < 10
        host.check_output("systemctl reload nftables && systemctl restart nftables")
        connection.sendall(b"x")
        assert client in connections(), "a reload of the rules must keep known connections"
        address, port = client
        host.check_output(f"nft delete element inet slipway_public since_ipv4 {{ {address} . {port} }}")
        connection.setblocking(False)

        def is_cut_off():
            try:
                connection.send(b"x")
                return connection.recv(65536) == b""
            except (BlockingIOError, ssl.SSLWantReadError):
                return False
            except OSError:
                return True

        wait_until(is_cut_off, 5, "the connection is cut off")
    assert other.request("/").status == 200
    assert other.dialled == 1
    other.close()


# --- Removal of wrong rules ---------------------------------------------------------------------------------


def test_firewall_rules_that_lock_everybody_out_are_removed(host, machine, variables, deploy, scan):
    port = variables["baseline_ssh_port"]
    tags = ("playbooks/provision.yml", "--tags", "baseline_firewall")
    wrong = deploy(
        *tags, "--extra-vars", "baseline_ssh_port=2", "--extra-vars", "__baseline_firewall_guard=10"
    )
    assert "does not answer at port 2 (baseline_ssh_port)" in wrong.output, wrong.output
    wait_until(lambda: answers(machine.ipv4, port), 30, "the host can be reached again")
    assert host.run("nft list table inet slipway").rc != 0
    right = deploy(*tags)
    assert right.status == 0, right.output
    assert host.check_output("systemctl is-enabled nftables") == "enabled"
    assert scan({port}) == {family: {port} for family in FAMILIES}
