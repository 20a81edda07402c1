"""A subnet or port that is in use, or an invalid network, is refused before anything changes."""

import json

import pytest
from refusals import Case, each

CASES = [
    Case(
        "port of a program",
        [
            "Port 22 (stack_http_port) on molecule-default is in use by sshd",
            "set stack_http_port to another port",
        ],
        {"stack_http_port": "22"},
    ),
    Case(
        "port of a program, for HTTPS",
        [
            "Port 22 (stack_https_port) on",
            "is in use by sshd",
            "set stack_https_port to another port",
        ],
        {"stack_https_port": "22", "tls_mode": "selfsigned", "stack_domain": "blog.test"},
    ),
    Case(
        "port of a container",
        [
            "Port 8099 (stack_http_port)",
            "in use by container slipway-test-rival",
            "set stack_http_port to another port",
        ],
        {"stack_http_port": "8099"},
    ),
    Case(
        "IPv4 subnet of the host",
        [
            "stack_app_subnet {subnet} overlaps network",
            "of interface eth0 on the host",
            "Choose another subnet",
        ],
        {"stack_app_subnet": "{subnet}"},
    ),
    Case(
        "IPv6 subnet of the host",
        [
            "stack_data_subnet_ipv6 {subnet_ipv6} overlaps network",
            "of interface eth0 on the host",
            "Choose another subnet",
        ],
        {"stack_data_subnet_ipv6": "{subnet_ipv6}"},
    ),
    Case(
        "two subnets that overlap",
        ["stack_data_subnet 10.83.0.0/16 overlaps stack_edge_subnet 10.83.1.0/24", "Choose another subnet"],
        {"stack_data_subnet": "10.83.0.0/16"},
    ),
    Case(
        "invalid prefix length of a subnet",
        ["stack_edge_subnet is '10.83.1.0/33', which is not a network", "Choose another subnet"],
        {"stack_edge_subnet": "10.83.1.0/33"},
    ),
    Case(
        "address instead of a subnet",
        ["stack_edge_subnet is '10.83.1.9/24', which is not a network", "host bits set"],
        {"stack_edge_subnet": "10.83.1.9/24"},
    ),
    *(
        Case(
            f"network {network} in {variable}",
            [
                f"Invalid network {json.dumps(network)} in stack_trusted_proxies or stack_rate_exempt",
                "Write a network like 10.0.0.0/24",
            ],
            {variable: [network]},
        )
        for variable, network in {
            "stack_trusted_proxies": "0.0.0.0/0",
            "stack_rate_exempt": "10.0.0.1/8",
        }.items()
    ),
]


@pytest.fixture(scope="module")
def preparations(docker, inspect):
    """Start a container of another project, which publishes port 8099."""
    image = inspect()["nginx"]["Image"]
    name = "slipway-test-rival"
    yield docker("run --detach --name %s --label slipway.test --publish 8099:80 %s sleep inf", name, image)
    docker("rm --force %s", name)


@each(CASES)
def test_wrong_network_or_port_is_refused(case, assert_refused):
    assert_refused(case)
