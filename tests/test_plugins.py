"""The roles' filters, the action plugin preflight and the module secret_files."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from ansible.errors import AnsibleFilterError
from project import ROOT, load_program

ROLES = ROOT / "roles"
SECRET_FILES = ROLES / "secrets/library/secret_files.py"
tree_digest = load_program(ROLES / "images/filter_plugins/tree_digest.py").tree_digest
image_ids = load_program(ROLES / "images/filter_plugins/image_ids.py").image_ids
bundle_problems = load_program(ROLES / "images/filter_plugins/bundle_problems.py").bundle_problems
certificate_problems = load_program(ROLES / "tls/filter_plugins/certificate_problems.py").certificate_problems
dns = load_program(ROLES / "tls/filter_plugins/dns_problems.py")
subnet_conflicts = load_program(ROLES / "stack/filter_plugins/subnet_conflicts.py").subnet_conflicts
port_conflicts = load_program(ROLES / "stack/filter_plugins/port_conflicts.py").port_conflicts
foreign_objects = load_program(ROLES / "stack/filter_plugins/foreign_objects.py").foreign_objects
cluster_problem = load_program(ROLES / "stack/filter_plugins/cluster_problem.py").cluster_problem

# --- tree_digest --------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A build context."""
    (tmp_path / "blog").mkdir()
    (tmp_path / "Dockerfile").write_text("FROM base\n")
    (tmp_path / "blog/app.py").write_text("print()\n")
    return tmp_path


def rename(tree):
    (tree / "blog/app.py").rename(tree / "blog/main.py")


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "blog/app.py").write_text("print(1)\n"),
        lambda tree: (tree / "blog/app.py").chmod(0o755),
        lambda tree: (tree / "blog/empty.py").touch(),
        lambda tree: (tree / "Dockerfile").unlink(),
        rename,
    ],
    ids=["content", "mode", "new file", "file gone", "name"],
)
def test_digest_changes_with_what_is_built(tree, change):
    before = tree_digest(tree, "base", exclude=["tests"])
    change(tree)
    assert tree_digest(tree, "base", exclude=["tests"]) != before


def test_digest_changes_with_each_input(tree):
    inputs = [(), ("base:1",), ("base:2",), ("base:1", "base:2"), ("base:2", "base:1")]
    assert len({tree_digest(tree, *given) for given in inputs}) == len(inputs)


def test_digest_is_the_same_for_the_same_tree_elsewhere(tree, tmp_path_factory):
    elsewhere = shutil.copytree(tree, tmp_path_factory.mktemp("elsewhere") / "context")
    os.utime(elsewhere / "Dockerfile", (0, 0))
    digest = tree_digest(elsewhere)
    assert digest == tree_digest(tree)
    assert len(digest) == 12


def test_digest_ignores_what_is_excluded(tree):
    before = tree_digest(tree, exclude=["tests", "README.md"])
    (tree / "blog/tests").mkdir()
    (tree / "blog/tests/test_app.py").touch()
    (tree / "README.md").touch()
    assert tree_digest(tree, exclude=["tests", "README.md"]) == before
    assert tree_digest(tree, exclude=["tests"]) != before


def test_digest_of_no_directory_is_an_error(tree):
    with pytest.raises(AnsibleFilterError, match="Dockerfile is not a directory"):
        tree_digest(tree / "Dockerfile")


# --- bundle_problems ----------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path):
    """A bundle like one from playbooks/build.yml, but with small files."""
    services = ("nginx", "db", "flask_blog")
    files = {"images.tar.gz": b"images", **{f"{service}.cdx.json": service.encode() for service in services}}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    about = {
        "architecture": "amd64",
        "revision": "v1",
        "images": {service: f"sha256:{'a' * 64}" for service in services},
        "tags": {service: f"slipway/{service}:1" for service in services},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    (tmp_path / "slipway.json").write_text(json.dumps(about))
    return tmp_path


def describe(**changes):
    """Return a function that changes keys of a bundle's slipway.json; None removes a key."""

    def change(bundle):
        file = bundle / "slipway.json"
        about = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))

    return change


def test_whole_bundle_has_no_problems(bundle):
    assert bundle_problems(bundle, "x86_64") == []


FOREIGN = "slipway.json is not the manifest of a Slipway bundle"


@pytest.mark.parametrize(
    ("change", "problem"),
    {
        "cut off": (
            lambda b: (b / "images.tar.gz").write_bytes(b"image"),
            "images.tar.gz is truncated or was changed",
        ),
        "changed": (
            lambda b: (b / "db.cdx.json").write_bytes(b"dc"),
            "db.cdx.json is truncated or was changed",
        ),
        "half there": (
            lambda b: (b / "images.tar.gz").unlink(),
            "images.tar.gz cannot be read (No such file",
        ),
        "nowhere": (lambda b: (b / "slipway.json").unlink(), "slipway.json cannot be read (No such file"),
        "no JSON": (lambda b: (b / "slipway.json").write_text("{"), FOREIGN),
        "no object": (lambda b: (b / "slipway.json").write_text("[]"), FOREIGN),
        "another's": (lambda b: (b / "slipway.json").write_text('{"images": {}}'), FOREIGN),
        "no architecture": (describe(architecture=None), FOREIGN),
        "fewer images": (describe(images={"nginx": f"sha256:{'a' * 64}"}), FOREIGN),
        "images by tags": (
            describe(images=dict.fromkeys(["nginx", "db", "flask_blog"], "slipway/db:1")),
            FOREIGN,
        ),
        "file elsewhere": (describe(sha256={"/etc/passwd": "0"}), FOREIGN),
        "architecture": (describe(architecture="arm64"), "its images are for arm64, but the host is x86_64"),
    }.values(),
)
def test_bundle_that_cannot_be_used_is_told(bundle, change, problem):
    change(bundle)
    [told] = bundle_problems(bundle, "x86_64")
    assert problem in told


# --- subnet_conflicts ---------------------------------------------------------------------------------------

FACTS = {
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
    "br_1_2": {"ipv4": {"network": "172.18.0.0", "netmask": "255.255.0.0"}},
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
def test_subnet_within_or_around_a_network_of_the_host_is_a_conflict(subnet, interface):
    [problem] = subnet_conflicts({"stack_app_subnet": subnet}, FACTS)
    assert problem.startswith(f"stack_app_subnet {subnet} overlaps network ")
    assert problem.endswith(f" of interface {interface} on the host")


@pytest.mark.parametrize("subnet", ["10.83.1.0/24", "10.21.0.0/16", "fd00:5119:1::/64", "fe80::/64"])
def test_subnet_that_is_free_is_none(subnet):
    assert subnet_conflicts({"stack_app_subnet": subnet}, FACTS) == []


def test_own_bridges_do_not_count():
    assert subnet_conflicts({"stack_app_subnet": "10.83.2.0/24"}, FACTS, ["slipway-app"]) == []


def test_own_subnets_must_not_overlap_each_other():
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
def test_malformed_subnet_is_named(value):
    [problem] = subnet_conflicts({"stack_app_subnet": value, "stack_data_subnet": "10.83.3.0/24"}, FACTS)
    assert problem.startswith(f"stack_app_subnet is {value!r}, which is not a network")


# --- port_conflicts -----------------------------------------------------------------------------------------

LISTENERS = {
    "host_engine": {
        "containers": [{"name": "slipway-nginx-1", "own": True}, {"name": "rival", "own": False}],
    },
    "host_ports": {"80": ["docker-proxy", "container slipway-nginx-1"], "443": ["sshd", "container rival"]},
}


def test_port_that_somebody_else_has_is_told_with_who_has_it():
    [problem] = port_conflicts({"stack_http_port": 80, "stack_https_port": 443}, LISTENERS, "web1")
    assert problem == (
        "Port 443 (stack_https_port) on web1 is in use by sshd, container rival. "
        "Stop it, or set stack_https_port to another port."
    )


def test_port_that_nobody_has_is_free_without_an_engine_too():
    assert port_conflicts({"stack_http_port": 80}, {"host_engine": None, "host_ports": {}}, "web1") == []


# --- preflight ----------------------------------------------------------------------------------------------


@pytest.fixture
def checked(tmp_path):
    """Run checks in a play; return whether it failed, and its output."""

    def checked(checks, **variables):
        task = {"preflight": {"checks": checks}, "vars": variables}
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
        (tmp_path / "play.yml").write_text(json.dumps([play]))
        command = ["ansible-playbook", "--inventory", "localhost,", tmp_path / "play.yml"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode != 0, done.stdout

    return checked


def test_each_check_that_does_not_hold_says_so(checked):
    checks = [
        {"name": "One", "that": "one == 1", "fail_msg": "one is {{ one }}"},
        {"name": "Two", "that": ["two > 1", "two < 3"], "fail_msg": "two is {{ two }}"},
        {"name": "Three", "that": "two == 3", "fail_msg": "three is {{ two }}", "when": "one == 2"},
        {"name": "Four", "that": "two == 4", "fail_msg": "four is {{ two }}", "when": "one == 5"},
    ]
    failed, said = checked(checks, one=5, two=2)
    assert failed
    assert "one is 5" in said
    assert "four is 2" in said
    assert "two is" not in said
    assert "three is" not in said


def test_check_that_cannot_be_evaluated_hides_no_other(checked):
    checks = [
        {"name": "One", "that": "one == 1", "fail_msg": "one is {{ one }}"},
        {"name": "Two has a length", "that": "two | length > 0", "fail_msg": "two is {{ two }}"},
        {"name": "Three", "that": "one == 3", "fail_msg": "three is {{ one }}"},
    ]
    failed, said = checked(checks, one=5, two=2)
    assert failed
    for text in ("one is 5", "Two has a length: ", "three is 5"):
        assert text in said


def test_checks_that_hold_say_nothing(checked):
    failed, said = checked([{"name": "One", "that": "one == 1", "fail_msg": "one is {{ one }}"}], one=1)
    assert (failed, "one is" in said) == (False, False)


# --- foreign_objects ----------------------------------------------------------------------------------------

VOLUMES = {"db_volume": "db_volume", "media_volume": "media_volume"}


def thing(name, own=False, part="", **more):
    """Return a volume, a network or a container as the fact host_engine has it."""
    return {"name": name, "own": own, "part": part, "project": "slipway" if own else "", **more}


def had(volumes=(), networks=(), containers=()):
    """Return the fact host_engine."""
    return {
        "volumes": [{"mountpoint": f"/volumes/{volume['name']}", **volume} for volume in volumes],
        "networks": [{"bridge": "", **network} for network in networks],
        "containers": [{"volumes": [], "networks": [], **container} for container in containers],
    }


OWN = had(
    volumes=[thing(name, own=True, part=name) for name in VOLUMES],
    networks=[thing("slipway_edge", own=True, part="edge", bridge="slipway-edge"), thing("bridge")],
    containers=[thing("slipway-db-1", own=True, part="db"), thing("db", volumes=["data"])],
)


@pytest.mark.parametrize("engine", [None, had(), OWN], ids=["no engine", "nothing there", "own"])
def test_nothing_foreign(engine):
    assert foreign_objects(engine, VOLUMES) == []


def test_volume_of_others_is_named_with_who_uses_it_and_the_ways_out():
    engine = had(volumes=[thing("db_volume")], containers=[thing("web-db-1", volumes=["db_volume"])])
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


def test_volume_of_another_part_is_none_to_use():
    [problem] = foreign_objects(had(volumes=[thing("media_volume", own=True, part="db_volume")]), VOLUMES)[1:]
    assert problem.startswith("The volume media_volume is not Slipway's:")


def test_another_name_for_a_volume_with_data_is_no_way_to_an_empty_blog():
    [problem] = foreign_objects(OWN, VOLUMES | {"db_volume": "posts"})
    assert problem.startswith(
        "stack_db_volume is posts, which would be a new, empty volume; Slipway's data is in"
    )
    assert "Set stack_db_volume: db_volume." in problem
    made = had(volumes=[thing(name, own=True, part="db_volume") for name in ("db_volume", "posts")])
    assert foreign_objects(made, {"db_volume": "posts"}) == []


def test_network_of_others_is_named_by_its_name_or_its_bridge():
    networks = [thing("slipway_app"), thing("theirs", bridge="slipway-data"), thing("other", bridge="br0")]
    first, second = foreign_objects(had(networks=networks), VOLUMES)
    assert first.startswith("The network slipway_app is not Slipway's.")
    assert first.endswith("docker network rm slipway_app")
    assert second.startswith("The network theirs (bridge slipway-data) is not Slipway's.")


def test_container_of_others_is_named():
    containers = [thing("slipway-nginx-1"), thing("slipway-web-1"), thing("web") | {"project": "slipway"}]
    first, second = foreign_objects(had(containers=containers), VOLUMES)
    assert first.startswith("The container slipway-nginx-1 is not Slipway's.")
    assert "docker rename slipway-nginx-1 other-slipway-nginx-1" in first
    assert second.startswith("The container web belongs to another compose project with the name slipway.")


# --- cluster_problem ----------------------------------------------------------------------------------------

IMAGE = ["PATH=/usr/bin:/bin", "PG_MAJOR=17", "PGDATA=/var/lib/postgresql/data/17/a", "EMPTY="]


def test_image_of_the_version_on_the_disk_goes_on():
    assert cluster_problem(IMAGE, "db_volume", {"17/a": "17"}) == ""
    assert cluster_problem(IMAGE, "db_volume", {"17/a": "17", "16/a": "16"}) == ""


@pytest.mark.parametrize(
    ("clusters", "environment", "words"),
    [
        (
            {"17/a": "17"},
            ["PG_MAJOR=16", IMAGE[2]],
            ["PostgreSQL 17 (in 17/a)", "PostgreSQL 16 and", "not read"],
        ),
        (
            {"17/a": "17"},
            ["PG_MAJOR=18", "PGDATA=/var/lib/postgresql/data/18/a"],
            ["PostgreSQL 17 (in 17/a)", "PostgreSQL 18 and uses 18/a", "would create an empty cluster"],
        ),
        ({".": "16"}, IMAGE, ["PostgreSQL 16 (in .)", "uses 17/a", "would create an empty cluster"]),
        ({"17/a": "17"}, None, ["of an unknown version"]),
    ],
    ids=["older", "elsewhere", "of another layout", "unknown"],
)
def test_image_of_another_version_is_refused_with_what_is_on_the_disk(clusters, environment, words):
    problem = cluster_problem(environment, "db_volume", clusters)
    words = [*words, "The volume db_volume has", "bases.lock.yml", "dump"]
    assert [word for word in words if word not in problem] == []


# --- dns_problems -------------------------------------------------------------------------------------------


@pytest.fixture
def records(monkeypatch):
    """Fake DNS on the control node: the addresses of each name, by record type."""
    found = {
        "blog.example.org": {"A": ["203.0.113.9"], "AAAA": ["2001:db8::9"]},
        "www.example.org": {"A": ["203.0.113.9"]},
        "moved.example.org": {"A": ["203.0.113.9"], "AAAA": ["2001:db8::77"]},
        "elsewhere.example.org": {"A": ["198.51.100.1", "203.0.113.9"]},
        "203.0.113.9": {"A": ["203.0.113.9"]},
        "2001:db8::9": {"AAAA": ["2001:db8::9"]},
    }
    kinds = {family: record for record, family in dns.RECORDS.items()}

    def getaddrinfo(name, port, family, kind):
        addresses = found.get(name, {}).get(kinds[family])
        if not addresses:
            raise socket.gaierror("Name or service not known")
        return [(family, kind, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(dns.socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("blog.example.org", []),
        ("www.example.org", []),
        (
            "moved.example.org",
            ["the AAAA record of moved.example.org is 2001:db8::77, which is not an address of the host"],
        ),
        (
            "elsewhere.example.org",
            ["the A record of elsewhere.example.org is 198.51.100.1, which is not an address of the host"],
        ),
        ("nosuch.example.org", ["nosuch.example.org has neither an A nor an AAAA record"]),
    ],
)
def test_each_record_of_a_name_must_lead_to_the_host(records, name, problems):
    assert dns.dns_problems([name], ["203.0.113.9", "2001:db8::9"]) == problems


def test_host_may_go_by_a_name(records):
    assert dns.dns_problems(["www.example.org"], ["blog.example.org", "nosuch.example.org"]) == []


# --- certificate_problems -----------------------------------------------------------------------------------

CERTIFICATE = {
    "public_key": "ours",
    "expired": False,
    "not_after": "20270101000000Z",
    "subject_alt_name": ["DNS:blog.example.org", "DNS:*.example.net"],
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"public_key": "another's"}, "the key in tls_key_file does not match the certificate"),
        ({"expired": True}, "the certificate in tls_certificate_file expired at 20270101000000Z"),
        ({"subject_alt_name": None}, "is for no names, but not for blog.example.org, www.example.net"),
        ({"subject_alt_name": ["DNS:*.net", "DNS:blog.example.org"]}, "but not for www.example.net"),
    ],
)
def test_certificate_is_judged(change, problem):
    names = ["blog.example.org", "www.example.net"]
    problems = certificate_problems(CERTIFICATE | change, {"public_key": "ours"}, names)
    assert len(problems) == bool(problem)
    assert all(problem in told for told in problems)


def test_what_is_no_certificate_or_key_is_named():
    failure = {"failed": True, "msg": "Cannot parse it"}
    assert certificate_problems(failure, {"public_key": ""}, []) == [
        "tls_certificate_file is not a PEM certificate: Cannot parse it"
    ]
    [problem] = certificate_problems(CERTIFICATE, {"failed": True, "msg": "hush"}, [])
    assert problem.startswith("tls_key_file is not a PEM private key")
    assert "hush" not in problem


# --- secret_files -------------------------------------------------------------------------------------------

# Only root can chown a file to another user.
READER = 10001 if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def secret_files(tmp_path):
    """A function that runs the module as Ansible does, and returns its result and its whole output."""
    directory = tmp_path / "etc/secrets"

    def run(names=("admin_password",), check=False, fails=False, optional=(), **parameters):
        arguments = tmp_path / "arguments.json"
        readers = {name: {"uid": READER, "optional": name in optional} for name in names}
        parameters |= {"directory": str(directory), "names": readers, "_ansible_check_mode": check}
        arguments.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": parameters}))
        done = subprocess.run([sys.executable, SECRET_FILES, arguments], capture_output=True, text=True)
        result = json.loads(done.stdout)
        assert result.get("failed", False) is fails, done.stdout + done.stderr
        told = ("msg",) if fails else ("changed", "written", "mended")
        return {name: result[name] for name in told}, done.stdout + done.stderr

    run.directory = directory
    return run


def test_secret_is_made_once(secret_files):
    names = ["admin_password", "app_secret_key"]
    made = {"changed": True, "written": names, "mended": []}
    kept = {"changed": False, "written": [], "mended": []}
    assert secret_files(names, length=24)[0] == made
    values = {name: (secret_files.directory / name).read_text() for name in names}
    assert secret_files(names, length=24)[0] == kept
    assert {file.name: file.read_text() for file in secret_files.directory.iterdir()} == values
    assert len(set(values.values())) == 2
    assert all(value.isalnum() and value.isascii() and len(value) == 24 for value in values.values())


def test_secret_belongs_to_its_reader_alone(secret_files):
    secret_files()
    status = (secret_files.directory / "admin_password").stat()
    assert (status.st_uid, status.st_gid, oct(status.st_mode & 0o7777)) == (READER, READER, "0o400")


def test_directory_lets_nobody_list_it(secret_files):
    def modes():
        return [oct(path.stat().st_mode & 0o7777) for path in (directory.parent, directory)]

    directory = secret_files.directory
    secret_files()
    assert modes() == ["0o711", "0o711"]
    directory.chmod(0o755)
    assert secret_files(check=True)[0]["changed"]
    assert modes() == ["0o711", "0o755"]
    assert secret_files()[0] == {"changed": True, "written": [], "mended": []}
    assert modes() == ["0o711", "0o711"]


def test_optional_secret_is_there_only_while_it_is_given(secret_files):
    def run(**parameters):
        return secret_files(["webhook_token"], optional=["webhook_token"], **parameters)[0]

    path = secret_files.directory / "webhook_token"
    secret_files()
    nothing = {"changed": False, "written": [], "mended": []}
    assert run() == nothing
    assert run(given={"webhook_token": "given by the vault"})["written"] == ["webhook_token"]
    assert run(check=True) == nothing | {"changed": True}
    assert path.read_text() == "given by the vault"
    assert run() == nothing | {"changed": True}
    assert not path.exists()


def test_given_value_wins_and_stays(secret_files):
    secret_files()
    given = {"admin_password": "given by the vault"}
    assert secret_files(given=given)[0]["written"] == ["admin_password"]
    assert not secret_files(given=given)[0]["changed"]
    assert not secret_files()[0]["changed"]
    assert (secret_files.directory / "admin_password").read_text() == "given by the vault"


@pytest.mark.parametrize("left", [b"", b"\n", bytes(40), b"too short", b"two lines\nof it", b"\xff" * 40])
def test_file_that_holds_no_secret_is_refused_with_the_ways_out(secret_files, left):
    names = ["admin_password", "app_secret_key"]
    path = secret_files.directory / "admin_password"
    path.parent.mkdir(parents=True)
    path.write_bytes(left)
    for check in (True, False):
        told = secret_files(names, check=check, fails=True)[0]["msg"]
        assert told.startswith(f"A secret's file is empty or damaged: {path}. Nothing was changed.")
        assert [file.name for file in path.parent.iterdir()] == ["admin_password"]
    path.unlink()
    assert secret_files(names)[0]["written"] == names

    path.chmod(0o600)
    path.write_bytes(left)
    given = {"admin_password": "given by the vault"}
    assert secret_files(names, given=given)[0]["written"] == ["admin_password"]
    assert path.read_text() == "given by the vault"


def test_line_that_an_editor_ended_is_a_secret(secret_files):
    secret_files()
    path = secret_files.directory / "admin_password"
    path.chmod(0o600)
    path.write_text("written by hand\n")
    assert secret_files()[0]["written"] == []


def test_wrong_mode_and_owner_are_mended(secret_files):
    secret_files()
    path = secret_files.directory / "admin_password"
    value = path.read_text()
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    assert secret_files()[0] == {"changed": True, "written": [], "mended": ["admin_password"]}
    test_secret_belongs_to_its_reader_alone(secret_files)
    assert path.read_text() == value
    assert not secret_files()[0]["changed"]


def test_check_mode_tells_and_writes_nothing(secret_files):
    assert secret_files(check=True)[0]["written"] == ["admin_password"]
    assert not secret_files.directory.parent.exists()

    secret_files.directory.mkdir(mode=0o700, parents=True)
    path = secret_files.directory / "admin_password"
    path.write_text("as it was before")
    path.chmod(0o644)
    assert secret_files(check=True)[0]["mended"] == ["admin_password"]
    assert secret_files(check=True, given={"admin_password": "another"})[0]["written"] == ["admin_password"]
    assert (path.read_text(), oct(path.stat().st_mode & 0o777)) == ("as it was before", "0o644")


def test_no_value_is_ever_printed(secret_files):
    given = {"app_secret_key": "given-by-the-vault"}
    names = ["admin_password", "app_secret_key"]
    output = secret_files(names, given=given, _ansible_verbosity=4, _ansible_diff=True)[1]
    assert "app_secret_key" in output
    for file in secret_files.directory.iterdir():
        assert file.read_text() not in output


def test_what_a_crash_left_is_in_nobodys_way(secret_files):
    secret_files()
    (secret_files.directory / ".admin_password.new").write_text("half")
    secret_files(given={"admin_password": "given by the vault"})
    assert [file.name for file in secret_files.directory.iterdir()] == ["admin_password"]


def test_image_that_is_not_there_keeps_its_name():
    names = {"nginx": "slipway/nginx:1", "db": "slipway/db:2"}
    assert image_ids(names, {"slipway/nginx:1": {"id": "sha256:a"}}) == {
        "nginx": "sha256:a",
        "db": "slipway/db:2",
    }
