"""Check the members of each network, the default routes, and the ports that are open to the world."""

import ipaddress
import json

import pytest

MEMBERS = {"edge": {"nginx"}, "app": {"nginx", "flask_blog"}, "data": {"flask_blog", "db"}}
each = pytest.mark.parametrize("network", MEMBERS)


@each
def test_network_has_only_its_members(containers, network):
    joined = {s for s, c in containers.items() if f"slipway_{network}" in c["NetworkSettings"]["Networks"]}
    assert joined == MEMBERS[network]


def test_host_has_only_the_networks_of_the_stack(docker):
    assert sorted(docker("network ls --filter type=custom --format '{{.Name}}'").split()) == sorted(
        f"slipway_{network}" for network in MEMBERS
    )


@each
def test_subnets_are_those_of_the_inventory(docker, variables, network):
    [found] = json.loads(docker("network inspect %s", f"slipway_{network}"))
    assert found["EnableIPv6"]
    assert found["Internal"] == (network != "edge")
    assert [config["Subnet"] for config in found["IPAM"]["Config"]] == [
        variables[f"stack_{network}_subnet"],
        variables[f"stack_{network}_subnet_ipv6"],
    ]


@pytest.mark.parametrize(("service", "way_out"), [("nginx", True), ("flask_blog", False), ("db", False)])
def test_only_nginx_has_a_default_route(host, containers, service, way_out):
    enter = f"nsenter --net --target {containers[service]['State']['Pid']}"
    for family in ("-4", "-6"):
        assert bool(host.check_output(f"{enter} ip {family} route show default")) is way_out
        assert host.check_output(f"{enter} ip {family} route show"), "the container needs some routes"


@pytest.fixture
def tls(base_url):
    """Whether the blog uses HTTPS."""
    return base_url.scheme == "https"


def test_only_nginx_publishes_ports(containers, variables, tls):
    published = {
        s: c["HostConfig"]["PortBindings"] for s, c in containers.items() if c["HostConfig"]["PortBindings"]
    }
    ports = {"80/tcp": "stack_http_port"} | ({"443/tcp": "stack_https_port"} if tls else {})
    assert published == {
        "nginx": {
            port: [{"HostIp": "", "HostPort": str(variables[variable])}] for port, variable in ports.items()
        }
    }


def test_host_listens_only_on_the_ports_of_ssh_and_the_blog(host, tls):
    sockets = [line.split()[3] for line in host.check_output("ss --no-header -ltn").splitlines()]
    listening = {
        (ipaddress.ip_address(a.strip("[]").split("%")[0].replace("*", "::")), int(port))
        for a, port in (socket.rsplit(":", 1) for socket in sockets)
    }
    assert {port for address, port in listening if not address.is_loopback} == {22, 80} | (
        {443} if tls else set()
    )


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_blog_answers_over_both_address_families(machine, reader, family):
    one = reader(getattr(machine, family))
    answer = one.request("/")
    one.close()
    assert answer.status == 200
    assert "Ropes: a table" in answer.text
