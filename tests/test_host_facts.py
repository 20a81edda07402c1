"""The module host_facts, with canned output of the host's programs and canned answers of the engine."""

import contextlib
import json
import os
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer
from types import SimpleNamespace

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from project import ROOT, load_program

OUTPUT = {
    "dpkg-query": ["installed nftables", "config-files gone", "installed docker.io"],
    "systemctl": [
        *("Id=docker.service", "ActiveState=active", "UnitFileState=enabled", "NeedDaemonReload=no"),
        *("StateChangeTimestampMonotonic=1500000", ""),
        *("Id=cron.service", "ActiveState=active", "UnitFileState=disabled", "NeedDaemonReload=yes"),
        *("StateChangeTimestampMonotonic=0", ""),
        *("Id=nftables.service", "ActiveState=failed", "UnitFileState=enabled", "NeedDaemonReload=no"),
        *("StateChangeTimestampMonotonic=0", ""),
        *("Id=-.mount", "ActiveState=active", "NeedDaemonReload=no", "StateChangeTimestampMonotonic=0"),
    ],
    "nft": [
        '{"nftables": [{"metainfo": {}},',
        '{"chain": {"family": "inet", "table": "slipway", "name": "forward"}}]}',
    ],
    "ss": [
        'LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3),("systemd",pid=1,fd=7))',
        'LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=1,fd=4))',
        "LISTEN 0 4096 *:80 *:*",
    ],
}


def labels(project="slipway", directory="/opt/slipway", **more):
    """Return labels as compose sets them."""
    own = {"project": project, "project.working_dir": directory} | more
    return {"secret": "never-to-be-shown"} | {
        f"com.docker.compose.{key}": value for key, value in own.items()
    }


def container(name, labels, ports=(), mounts=(), networks=()):
    """Return a container as the engine's API does."""
    return {
        "Names": [f"/{name}"],
        "Labels": labels,
        "ImageID": f"sha256:{name}",
        "State": "running",
        "Ports": [{"PrivatePort": 80, "Type": "tcp"}, *({"PublicPort": port} for port in ports)],
        "Mounts": [{"Type": "bind"}, *({"Type": "volume", "Name": volume} for volume in mounts)],
        "NetworkSettings": {
            "Networks": {network: {"IPAddress": "10.0.0.2", "GlobalIPv6Address": ""} for network in networks}
        },
    }


def engine_answers(database, other):
    """Return an engine's answers by path; its two volumes are in these directories."""
    return {
        "/volumes": {
            "Volumes": [
                {
                    "Name": "db_volume",
                    "Labels": labels(volume="db_volume"),
                    "Mountpoint": str(database),
                },
                {"Name": "data", "Labels": None, "Mountpoint": str(other)},
            ]
        },
        "/networks": [
            {
                "Name": "slipway_app",
                "Labels": labels(network="app"),
                "Options": {"com.docker.network.bridge.name": "slipway-app"},
            },
            {"Name": "host", "Labels": {}, "Options": None},
        ],
        "/containers/json?all=1": [
            container("slipway-db-1", labels(service="db"), mounts=["db_volume"], networks=["slipway_data"]),
            container("web", {}, ports=[80, 80]),
            container("slipway-db-2", labels(directory="/root/slipway", service="db"), ports=[90, 91]),
        ],
        "/images/json": [
            {
                "Id": "sha256:a",
                "RepoTags": ["slipway/flask_blog:1", "blog:latest"],
                "RepoDigests": ["registry.example.org/blog@sha256:b"],
                "Labels": {
                    "slipway.image": "slipway/flask_blog:1",
                    "org.opencontainers.image.base.name": "slipway/base-python:1",
                    "org.opencontainers.image.revision": "1.4",
                    "secret": "never-to-be-shown",
                },
            },
            {"Id": "sha256:c", "RepoTags": None, "RepoDigests": None, "Labels": None},
        ],
    }


@contextlib.contextmanager
def serve(path, answers):
    """Answer requests at a socket: with JSON by path, or with status 500 if the answer is empty."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            text = json.dumps(answers[self.path]).encode()
            self.send_response(200 if answers[self.path] else 500)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def address_string(self):
            return "engine"

        def log_message(self, *arguments):
            pass

    with UnixStreamServer(path, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A fake engine at a socket, and its answers by path."""
    database, other = tmp_path / "database", tmp_path / "other"
    for volume in (database, other):
        for directory in ("17/a", "17/a/base/1", "17/b.init"):
            (volume / directory).mkdir(parents=True)
            (volume / directory / "PG_VERSION").write_text("17\n")
    answers = engine_answers(database, other)
    socket_path = str(tmp_path / "docker.sock")
    module = load_program(ROOT / "plugins/module_utils/engine.py")
    monkeypatch.setattr(module, "SOCKET", socket_path)
    with serve(socket_path, answers):
        yield SimpleNamespace(
            module=module,
            answers=answers,
            database=database,
            ask=lambda: module.engine(module.ask_engine()),
        )


@pytest.fixture
def facts(monkeypatch):
    """The module, on a host whose programs print the lines of OUTPUT."""
    module = load_program(ROOT / "plugins/modules/host_facts.py")
    monkeypatch.setattr(
        module, "ask", lambda *command: next(OUTPUT[word] for word in command if word in OUTPUT), raising=True
    )
    return module


def test_facts_come_from_the_output_of_the_hosts_programs(facts):
    assert facts.packages() == ["nftables", "docker.io"]
    active = facts.units()
    assert {name: (unit["enabled"], unit["outdated"]) for name, unit in active.items()} == {
        "docker.service": (True, False),
        "cron.service": (False, True),
        "-.mount": (False, False),
    }
    assert active["docker.service"]["since"] - active["-.mount"]["since"] == pytest.approx(1.5)
    assert time.time() - active["-.mount"]["since"] == pytest.approx(time.monotonic(), abs=1)
    assert facts.chains() == ["inet slipway forward"]
    containers = [{"name": "web", "ports": [80]}, {"name": "many", "ports": [90, 91]}]
    assert facts.ports(containers) == {
        "22": ["sshd", "systemd"],
        "80": ["container web"],
        "90": ["container many"],
        "91": ["container many"],
    }


def test_facts_mark_slipways_own_volumes_networks_and_containers(engine):
    """An object is Slipway's own if compose's labels say so. The facts include no other labels."""
    told = engine.ask()
    assert "never-to-be-shown" not in json.dumps(told)
    own = {kind: [one["name"] for one in told[kind] if one["managed"]] for kind in told}
    assert own == {"volumes": ["db_volume"], "networks": ["slipway_app"], "containers": ["slipway-db-1"]}
    assert told["networks"][0] == {
        "name": "slipway_app",
        "managed": True,
        "compose_key": "app",
        "project": "slipway",
        "bridge": "slipway-app",
    }
    database, web, other = told["containers"]
    assert database["compose_key"] == "db"
    assert database["volumes"] == ["db_volume"]
    assert database["networks"] == ["slipway_data"]
    assert database["families"] == ["ipv4"]
    assert database["image"] == "sha256:slipway-db-1"
    assert database["state"] == "running"
    assert web["ports"] == [80]
    assert other["ports"] == [90, 91]
    assert other["project"] == "slipway"


def test_facts_list_the_clusters_of_the_databases_volume_only(engine):
    volumes = {volume["name"]: volume for volume in engine.ask()["volumes"]}
    assert volumes["db_volume"]["clusters"] == {"17/a": "17"}
    assert volumes["db_volume"]["mountpoint"] == str(engine.database)
    assert volumes["data"]["clusters"] == {}


def test_invalid_version_of_a_cluster_is_ignored(engine):
    """The database can write to its volume, and may be compromised."""
    file = engine.database / "17/a/PG_VERSION"
    key = engine.database / "key"
    key.write_text("17")
    for change in (
        lambda: file.write_text("never-to-be-shown"),
        lambda: file.write_bytes(b"\xff\xff"),
        lambda: file.symlink_to(key),
        lambda: os.mkfifo(file),
        file.mkdir,
    ):
        file.unlink()
        change()
        assert engine.ask()["volumes"][0]["clusters"] == {}


def test_facts_list_images_by_each_of_their_names(engine):
    """Only labels that are known to be public are returned."""
    told = engine.module.images(engine.module.ask_engine())
    blog = {
        "id": "sha256:a",
        "label": "slipway/flask_blog:1",
        "base": "slipway/base-python:1",
        "revision": "1.4",
    }
    other = {"id": "sha256:c", "label": "", "base": "", "revision": ""}
    names = ("slipway/flask_blog:1", "blog:latest", "registry.example.org/blog@sha256:b", "sha256:a")
    assert told == dict.fromkeys(names, blog) | {"sha256:c": other}


def test_facts_name_the_image_of_each_sbom(facts, tmp_path):
    component = {"name": "slipway/db", "version": "1"}
    (tmp_path / "db.cdx.json").write_text(json.dumps({"metadata": {"component": component}}))
    (tmp_path / "nginx.cdx.json").write_text("{")
    (tmp_path / "flask_blog.cdx.json").write_text("[]")
    (tmp_path / "other.json").write_text("{}")
    assert facts.subjects(tmp_path) == {"db": "slipway/db:1"}
    assert facts.subjects(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("fault", ["error", "nobody listens", "none"])
def test_engine_that_does_not_answer_has_no_facts(engine, monkeypatch, fault, tmp_path):
    if fault == "error":
        engine.answers["/networks"] = []
    elif fault == "none":
        monkeypatch.setattr(engine.module, "SOCKET", str(tmp_path / "nowhere.sock"))
    else:
        monkeypatch.setattr(engine.module, "SOCKET", str(tmp_path / "left.sock"))
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "left.sock"))
    assert engine.module.ask_engine() is None


def test_facts_of_a_bare_host_are_empty(facts, monkeypatch):
    monkeypatch.undo()
    assert facts.ask("no-such-program") == []
    assert facts.ask("false") == []
    monkeypatch.setattr(facts, "ask", lambda *command: [])
    assert facts.packages() == []
    assert facts.units() == {}
    assert facts.chains() == []
    assert facts.ports([]) == {}


def test_kernel_settings_that_are_not_in_force_are_found(facts, tmp_path):
    """A file whose name sorts later may override a setting, and the kernel may not have a setting."""
    files = {
        "usr/lib/sysctl.d/50-default.conf": "kernel.sysrq = 438\n",
        "etc/sysctl.d/60-slipway.conf": "# a = b\nkernel.sysrq = 0\nnet.a = 1\nnet.b=2\nvm.c = 3\nno.x = 1\n",
        "etc/sysctl.d/99-local.conf": "; x = y\n-vm.c = 4\n",
        "proc/sys/kernel/sysrq": "438\n",
        "proc/sys/net/a": "1\n",
        "proc/sys/net/b": "0\n",
        "proc/sys/vm/c": "4\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert facts.outdated_sysctl(tmp_path) == ["kernel.sysrq", "net.b"]
    assert facts.outdated_sysctl(tmp_path / "nowhere") == []


FORWARDING = [
    "-A FORWARD -j DOCKER-USER",
    "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-A DOCKER ! -i slipway-edge -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.83.1.2:80",
    "-A DOCKER ! -i slipway-edge -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.83.1.2:443",
]
OWN = {"name": "nginx", "managed": True, "ports": [80, 443], "families": ["ipv4", "ipv6"]}
WITHOUT_IPV6 = OWN | {"families": ["ipv4"]}
OTHER = {"name": "web", "managed": False, "ports": [90], "families": ["ipv4"]}


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "containers", "lost"),
    [
        (FORWARDING, FORWARDING, [OWN, OTHER], []),
        ([], [], [OWN], [80, 443]),
        (FORWARDING, [], [OWN], [80, 443]),
        (FORWARDING, [], [WITHOUT_IPV6], []),
        (FORWARDING[:3], FORWARDING, [OWN], [443]),
        (FORWARDING[1:], FORWARDING, [OWN], [80, 443]),
        (FORWARDING[:1] + FORWARDING[2:], FORWARDING, [OWN], [80, 443]),
        ([], [], [OTHER], []),
    ],
    ids=[
        "complete",
        "flushed",
        "no IPv6 rules",
        "no IPv6",
        "one port",
        "no FORWARD",
        "no PREROUTING",
        "others",
    ],
)
def test_ports_that_the_engine_does_not_forward_are_found(facts, monkeypatch, ipv4, ipv6, containers, lost):
    rules = {"iptables-save": ipv4, "ip6tables-save": ipv6}
    monkeypatch.setattr(facts, "ask", lambda command: rules[command])
    assert facts.unforwarded(containers, ["inet slipway forward"]) == lost


def test_rules_of_another_firewall_backend_are_not_judged(facts, monkeypatch):
    monkeypatch.setattr(facts, "ask", lambda command: [])
    assert facts.unforwarded([OWN], ["ip docker-bridges nat-prerouting"]) == []


def test_facts_of_the_system_include_all_that_the_roles_use(facts):
    """Ansible's collectors hide their errors: a role would fail only later, when it uses the missing fact."""
    texts = [path.read_text() for path in (ROOT / "roles").rglob("*") if path.suffix in (".yml", ".j2")]
    used = set(re.findall(r"ansible_facts\['(?!host_)(\w+)'\]", "\n".join(texts)))
    assert len(used) >= 14
    with patch_module_args({}):
        found = facts.system(AnsibleModule({}))
    assert {name for name in used if f"ansible_{name}" not in found} == set()
