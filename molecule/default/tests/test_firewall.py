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
    """On the neighbour, add routes through the host to the addresses of `published_by_mistake`."""
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


# --- Connections of containers ------------------------------------------------------------------------------

METADATA = ("169.254.169.254", "fd00:ec2::254")


@pytest.fixture(scope="module")
def metadata(host, run_on_neighbour):
    """Give the neighbour the addresses of a cloud's metadata service, and the host a route to each."""
    addresses = run_on_neighbour("hostname -I").split()
    for address in METADATA:
        gateway = next(one for one in addresses if (":" in one) == (":" in address))
        run_on_neighbour(f"ip address add {address} dev lo")
        host.check_output(f"ip route add {address} via {gateway}")
    yield
    for address in METADATA:
        host.check_output(f"ip route delete {address}")
        run_on_neighbour(f"ip address delete {address} dev lo")


@pytest.fixture(scope="module")
def image_build(docker, inspect):
    """Start a container on Docker's default bridge, where images are built. Return its PID on the host."""
    [image] = {c["Image"] for service, c in inspect().items() if service.startswith("flask_blog")}
    name = "slipway-test-build"
    docker(f"run --detach --name {name} --label slipway.test --entrypoint sleep %s infinity", image)
    yield docker("inspect --format '{{.State.Pid}}' %s", name).strip()
    docker(f"rm --force {name}")


@pytest.fixture
def reaches(host):
    """Tell whether a connection from the network namespace of a process reaches an address.

    Nothing listens at the port, so a connection that reaches the address is refused.
    """

    def reaches(pid, address, port=1):
        script = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"
        return "Connection refused" in host.run(f"nsenter --net --target {pid} {script}").stderr

    return reaches


@pytest.mark.parametrize("action", ["true", "systemctl restart docker", "systemctl restart nftables"])
def test_nginx_reaches_neither_neighbours_nor_metadata_nor_the_host(
    host, containers, machine, metadata, reaches, action
):
    host.check_output(action)
    edge = containers["nginx"]["NetworkSettings"]["Networks"]["slipway_edge"]
    of_host = (edge["Gateway"], edge["IPv6Gateway"], machine.ipv4, machine.ipv6)
    pid = containers["nginx"]["State"]["Pid"]
    assert [one for one in (*machine.gateways, *METADATA, *of_host) if reaches(pid, one)] == []


def test_host_itself_reaches_neighbours_and_metadata(machine, metadata, reaches):
    outside = [*machine.gateways, *METADATA]
    assert [one for one in outside if reaches(1, one)] == outside


def test_image_build_reaches_the_network_and_a_resolver_but_no_metadata(
    machine, metadata, image_build, reaches
):
    assert reaches(image_build, machine.gateways[0])
    assert reaches(image_build, METADATA[0], port=53)
    assert not reaches(image_build, METADATA[0])


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
