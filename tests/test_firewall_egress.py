"""The addresses that containers can reach through the firewall: the rendered rules run without Docker."""

import functools

import pytest

# Each bridge here is one end of a veth pair. The other end is in a network namespace, which stands for a
# container. The namespace `world` has the addresses of a neighbour and of the metadata services of cloud
# providers; 10.9.6.2 and fd09:6::2 stand for the database. Nothing listens anywhere: a connection that
# arrives gets "Connection refused".
TOPOLOGY = """
nft --file /etc/nftables.conf
machine() {
  unshare --net sleep 60 <&- >&- 2>&- &
  until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done
  eval "$1=$!"
}
cable() {
  ip link add "$1" type veth peer name far netns "$2"
  ip link set "$1" up
  ip address add "10.9.$3.1/24" dev "$1"
  ip address add "fd09:$3::1/64" dev "$1" nodad
  nsenter --net=/proc/$2/ns/net sh -euc "
    ip link set lo up; ip link set far up
    ip address add 10.9.$3.2/24 dev far; ip address add fd09:$3::2/64 dev far nodad
    ip route add default via 10.9.$3.1; ip route add default via fd09:$3::1"
}
machine world; cable eth0 $world 1
for address in 192.0.2.9/32 192.0.2.10/32 2001:db8::9/128 \
  169.254.169.254/32 100.100.100.200/32 fd00:ec2::254/128; do
  nsenter --net=/proc/$world/ns/net ip address add $address dev lo
  case $address in *:*) gateway=fd09:1::2;; *) gateway=10.9.1.2;; esac
  ip route add $address via $gateway
done
number=2
for bridge in docker0 br-0123 slipway-edge slipway-app slipway-data slipway-backup; do
  machine container; cable $bridge $container $number; number=$((number + 1))
  eval "$(echo $bridge | tr - _)=$container"
done
try() {
  said=$(nsenter --net=/proc/$2/ns/net timeout 2 bash -c "exec 3<>/dev/tcp/$3/$4" 2>&1) || true
  case $said in *"Connection refused"*) echo "$1 $3 $4 arrives";; *) echo "$1 $3 $4 refused";; esac
}
# New interfaces need some seconds before they use IPv6.
for source in $docker0 $br_0123; do
  for attempt in $(seq 20); do
    case $(try attempt $source 2001:db8::9 80) in *arrives) break;; esac
  done
done
for bridge in docker0 br-0123 slipway-edge slipway-app slipway-data; do
  eval "container=\\$$(echo $bridge | tr - _)"
  for address in 192.0.2.9 2001:db8::9 169.254.169.254 100.100.100.200 fd00:ec2::254 10.9.6.2 fd09:6::2; do
    try $bridge $container $address 80
  done
  try $bridge $container 169.254.169.254 53
done
for address in 192.0.2.9 2001:db8::9 192.0.2.10 169.254.169.254; do
  for port in 22 23 53 80 443; do try slipway-backup $slipway_backup $address $port; done
done
for address in 169.254.169.254 100.100.100.200 fd00:ec2::254; do try host $$ $address 80; done
kill $(jobs -p)
"""
SYSTEM = [
    "--cap-add=NET_ADMIN",
    "--cap-add=SYS_ADMIN",
    "--security-opt=apparmor=unconfined",
    "--sysctl=net.ipv4.ip_forward=1",
    "--sysctl=net.ipv6.conf.all.disable_ipv6=0",
    "--sysctl=net.ipv6.conf.all.forwarding=1",
]
NEIGHBOUR = {"192.0.2.9", "2001:db8::9"}
METADATA = {"169.254.169.254", "100.100.100.200", "fd00:ec2::254"}
RESOLVER = ("169.254.169.254", "53")


@pytest.fixture(scope="module")
def connections(rendered_cases, check):
    """A function that returns where connections from a bridge, or from the host, arrive: (address, port)."""

    @functools.cache
    def attempts(case):
        done = check(
            *SYSTEM,
            f"--volume={rendered_cases}/{case}/nftables.conf:/etc/nftables.conf:ro",
            command=["bash", "-euc", TOPOLOGY],
        )
        assert done.returncode == 0, done.stderr
        tried = [line.split() for line in done.stdout.splitlines()]
        assert len(tried) == 5 * 8 + 4 * 5 + 3, done.stdout + done.stderr
        return tried

    return lambda case, source: {
        (address, port)
        for bridge, address, port, end in attempts(case)
        if (bridge, end) == (source, "arrives")
    }


@pytest.fixture
def arrives(connections):
    return functools.partial(connections, "defaults")


@pytest.mark.parametrize(
    ("bridge", "own"),
    [("slipway-edge", set()), ("slipway-app", set()), ("slipway-data", {"10.9.6.2", "fd09:6::2"})],
)
def test_containers_of_the_stack_reach_nothing_outside_their_network(arrives, bridge, own):
    assert {address for address, _port in arrives(bridge)} == own


@pytest.mark.parametrize("bridge", ["docker0", "br-0123"])
def test_image_builds_reach_the_world_and_the_resolver_but_no_metadata_and_no_database(arrives, bridge):
    assert arrives(bridge) == {(address, "80") for address in NEIGHBOUR} | {RESOLVER}


# The repository of large_host is at s3.example.org. The firewall does not know the addresses of a name.
ANYWHERE = {
    (address, port) for address in ("192.0.2.9", "192.0.2.10", "2001:db8::9") for port in ("53", "443")
}


@pytest.mark.parametrize(
    ("case", "reachable"),
    [
        ("defaults", set()),
        ("awkward_words", {("192.0.2.9", "23")}),
        ("large_host", ANYWHERE | {RESOLVER}),
    ],
)
def test_database_reaches_only_the_repository_of_its_backups(connections, case, reachable):
    assert connections(case, "slipway-backup") == reachable


def test_host_itself_reaches_the_metadata_of_its_provider(arrives):
    assert arrives("host") == {(address, "80") for address in METADATA}
