"""The filters of the role `stack`."""

import pytest
from project import ROOT, load_program

FILTERS = ROOT / "plugins/filter"
subnet_conflicts = load_program(FILTERS / "subnet_conflicts.py").subnet_conflicts
port_conflicts = load_program(FILTERS / "port_conflicts.py").port_conflicts
foreign_objects = load_program(FILTERS / "foreign_objects.py").foreign_objects
cluster_problem = load_program(FILTERS / "cluster_problem.py").cluster_problem

# --- subnet_conflicts ---------------------------------------------------------------------------------------

INTERFACES = {
    "interfaces": ["lo", "eth0", "slipway-app", "br-1.2"],
    "lo": {
        "ipv4": {"network": "127.0.0.0", "netmask": "255.0.0.0"},
        "ipv6": [{"address": "::1", "prefix": "128"}],
    },
    "eth0": {
        "ipv4": {"network": "10.20.0.0", "netmask": "255.255.0.0"},
        "ipv4_secondaries": [{"network": "192.168.7.0", "netmask": "255.255.255.0"}],
        "ipv6": [
            {"address": "fe80::42:1", "prefix": "64"},
            {"address": "2001:db8:1:2::5", "prefix": "64"},
        ],
    },
    "slipway_app": {"ipv4": {"network": "10.83.2.0", "netmask": "255.255.255.0"}},
    "br_1.2": {"ipv4": {"network": "172.18.0.0", "netmask": "255.255.0.0"}},
}


@pytest.mark.parametrize(
    ("subnet", "interface"),
    [
        ("10.20.30.0/24", "eth0"),
        ("10.20.0.0/15", "eth0"),
        ("192.168.7.128/25", "eth0"),
        ("2001:db8:1::/48", "eth0"),
        ("2001:db8:1:2:3::/80", "eth0"),
        ("172.18.9.0/24", "br-1.2"),
        ("10.83.2.0/24", "slipway-app"),
    ],
)
def test_subnet_that_overlaps_a_network_of_the_host_is_a_conflict(subnet, interface):
    [problem] = subnet_conflicts({"stack_app_subnet": subnet}, INTERFACES)
    assert problem.startswith(f"stack_app_subnet {subnet} overlaps network ")
    assert problem.endswith(f" of interface {interface} on the host")


@pytest.mark.parametrize("subnet", ["10.83.1.0/24", "10.21.0.0/16", "fd00:5119:1::/64", "fe80::/64"])
def test_free_subnet_is_no_conflict(subnet):
    assert subnet_conflicts({"stack_app_subnet": subnet}, INTERFACES) == []


def test_subnet_of_an_own_bridge_is_no_conflict():
    assert subnet_conflicts({"stack_app_subnet": "10.83.2.0/24"}, INTERFACES, ["slipway-app"]) == []


def test_subnets_that_overlap_each_other_are_conflicts():
    subnets = {
        "a": "10.83.0.0/16",
        "b": "10.83.2.0/24",
        "c": "10.84.0.0/16",
        "d": "fd00::/64",
        "e": "fd00::/48",
    }
    assert subnet_conflicts(subnets, {"interfaces": []}) == [
        "b 10.83.2.0/24 overlaps a 10.83.0.0/16",
        "e fd00::/48 overlaps d fd00::/64",
    ]


@pytest.mark.parametrize("value", ["10.83.2.1/24", "10.83.2/24", "10.83.2.0/33", "", "many"])
def test_malformed_subnet_is_reported(value):
    [problem] = subnet_conflicts({"stack_app_subnet": value, "stack_data_subnet": "10.83.3.0/24"}, INTERFACES)
    assert problem.startswith(f"stack_app_subnet is {value!r}, which is not a network")


# --- port_conflicts -----------------------------------------------------------------------------------------

LISTENERS = {
    "host_engine": {
        "containers": [{"name": "slipway-nginx-1", "managed": True}, {"name": "rival", "managed": False}],
    },
    "host_ports": {"80": ["docker-proxy", "container slipway-nginx-1"], "443": ["sshd", "container rival"]},
}


def test_taken_port_is_reported_with_its_holders():
    [problem] = port_conflicts({"stack_http_port": 80, "stack_https_port": 443}, LISTENERS, "web1")
    assert problem == (
        "Port 443 (stack_https_port) on web1 is in use by sshd, container rival. "
        "Stop it, or set stack_https_port to another port."
    )


def test_free_port_is_no_conflict_without_an_engine():
    assert port_conflicts({"stack_http_port": 80}, {"host_engine": None, "host_ports": {}}, "web1") == []


# --- foreign_objects ----------------------------------------------------------------------------------------

VOLUMES = {"db_volume": "db_volume", "media_volume": "media_volume"}


def engine_object(name, managed=False, compose_key="", **more):
    """Return a volume, a network or a container as the fact host_engine has it."""
    return {
        "name": name,
        "managed": managed,
        "compose_key": compose_key,
        "project": "slipway" if managed else "",
        **more,
    }


def engine_facts(volumes=(), networks=(), containers=()):
    """Return the fact host_engine."""
    return {
        "volumes": [{"mountpoint": f"/volumes/{volume['name']}", **volume} for volume in volumes],
        "networks": [{"bridge": "", **network} for network in networks],
        "containers": [{"volumes": [], "networks": [], **container} for container in containers],
    }


OWN_OBJECTS = engine_facts(
    volumes=[engine_object(name, managed=True, compose_key=name) for name in VOLUMES],
    networks=[
        engine_object("slipway_edge", managed=True, compose_key="edge", bridge="slipway-edge"),
        engine_object("bridge"),
    ],
    containers=[
        engine_object("slipway-db-1", managed=True, compose_key="db"),
        engine_object("db", volumes=["data"]),
    ],
)


@pytest.mark.parametrize(
    "engine", [None, engine_facts(), OWN_OBJECTS], ids=["no engine", "nothing there", "managed"]
)
def test_own_objects_are_not_foreign(engine):
    assert foreign_objects(engine, VOLUMES) == []


def test_foreign_volume_is_reported_with_its_containers_and_the_remedies():
    engine = engine_facts(
        volumes=[engine_object("db_volume")], containers=[engine_object("web-db-1", volumes=["db_volume"])]
    )
    [problem] = foreign_objects(engine, VOLUMES)
    assert problem.startswith("The volume db_volume is not Slipway's (it is used by web-db-1): ")
    for words in (
        "stack_db_volume: slipway_db_volume",
        "docker volume rm db_volume",
        "docker volume create --label com.docker.compose.project=slipway "
        "--label com.docker.compose.volume=db_volume slipway_db_volume && cp --archive /volumes/db_volume/. "
        "$(docker volume inspect --format '{{.Mountpoint}}' slipway_db_volume)/",
    ):
        assert words in problem
    assert foreign_objects(engine, VOLUMES | {"db_volume": "slipway_db_volume"}) == []


def test_volume_of_another_purpose_is_reported():
    [problem] = foreign_objects(
        engine_facts(volumes=[engine_object("media_volume", managed=True, compose_key="db_volume")]), VOLUMES
    )[1:]
    assert problem.startswith("The volume media_volume is not Slipway's:")


def test_new_volume_name_is_refused_while_another_volume_has_the_data():
    [problem] = foreign_objects(OWN_OBJECTS, VOLUMES | {"db_volume": "posts"})
    assert problem.startswith(
        "stack_db_volume is posts, which would be a new, empty volume; Slipway's data is in"
    )
    assert "Set stack_db_volume: db_volume." in problem
    made = engine_facts(
        volumes=[
            engine_object(name, managed=True, compose_key="db_volume") for name in ("db_volume", "posts")
        ]
    )
    assert foreign_objects(made, {"db_volume": "posts"}) == []


def test_foreign_network_is_reported_by_its_name_or_its_bridge():
    networks = [
        engine_object("slipway_app"),
        engine_object("theirs", bridge="slipway-backup"),
        engine_object("other", bridge="br0"),
    ]
    first, second = foreign_objects(engine_facts(networks=networks), VOLUMES)
    assert first.startswith("The network slipway_app is not Slipway's.")
    assert first.endswith("docker network rm slipway_app")
    assert second.startswith("The network theirs (bridge slipway-backup) is not Slipway's.")


def test_foreign_container_is_reported():
    containers = [
        engine_object("slipway-nginx-1"),
        engine_object("slipway-web-1"),
        engine_object("web") | {"project": "slipway"},
    ]
    first, second = foreign_objects(engine_facts(containers=containers), VOLUMES)
    assert first.startswith("The container slipway-nginx-1 is not Slipway's.")
    assert "docker rename slipway-nginx-1 other-slipway-nginx-1" in first
    assert second.startswith("The container web belongs to another compose project with the name slipway.")


# --- cluster_problem ----------------------------------------------------------------------------------------

ENVIRONMENT = ["PATH=/usr/bin:/bin", "PG_MAJOR=17", "PGDATA=/var/lib/postgresql/data/17/a", "EMPTY="]


def test_image_of_the_clusters_version_is_accepted():
    assert cluster_problem(ENVIRONMENT, "db_volume", {"17/a": "17"}) == ""
    assert cluster_problem(ENVIRONMENT, "db_volume", {"17/a": "17", "16/a": "16"}) == ""


@pytest.mark.parametrize(
    ("clusters", "environment", "words"),
    [
        (
            {"17/a": "17"},
            ["PG_MAJOR=16", ENVIRONMENT[2]],
            ["PostgreSQL 17 (in 17/a)", "PostgreSQL 16 and", "not read"],
        ),
        (
            {"17/a": "17"},
            ["PG_MAJOR=18", "PGDATA=/var/lib/postgresql/data/18/a"],
            ["PostgreSQL 17 (in 17/a)", "PostgreSQL 18 and uses 18/a", "would create an empty cluster"],
        ),
        ({".": "16"}, ENVIRONMENT, ["PostgreSQL 16 (in .)", "uses 17/a", "would create an empty cluster"]),
        ({"17/a": "17"}, None, ["of an unknown version"]),
    ],
    ids=["older", "elsewhere", "of another layout", "unknown"],
)
def test_image_of_another_version_is_refused_and_the_clusters_are_named(clusters, environment, words):
    problem = cluster_problem(environment, "db_volume", clusters)
    words = [*words, "The volume db_volume has", "bases.lock.yml", "upgrade_database.yml"]
    assert [word for word in words if word not in problem] == []
