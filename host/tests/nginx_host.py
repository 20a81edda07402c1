"""A fake host for the tests of changes of nginx."""

import itertools
import json
import math

from fakes import Killed

from slipway import host as real
from slipway import nginx
from slipway.settings import Settings
from slipway.shell import Failure

OLD, NEW = "old-definition", "new-definition"
# The definition of the database, as `docker compose config --format json` prints it.
DB = {
    "image": "sha256:db",
    "command": ["postgres", "-c", "max_connections=50"],
    "environment": {"POSTGRES_DB": "blog"},
    "mem_limit": "536870912",
    "cpus": 1.5,
    "labels": {"slipway.volume": "db_volume"},
}


class Host(real.Host):
    """A host with a fake engine, a fake firewall and fake readers.

    Attributes:
        containers: the `docker inspect` output of each container, by id.
        rules: the rules in the program's own nft table, or None.
        events: what the program did, in order.
        definition: nginx's definition in compose.yml.
        database: the database's definition in compose.yml.
        stopped: containers that do not run.
        broken: services that do not become healthy.
        taken: whether the engine reports nginx's ports as allocated.
        life: number of changes after which the program is killed.
        health: the engine's successive answers about nginx's health.
        answer: returns the HTTP status of a container's address.
        current: tells whether nginx started after the last change to its files.
        renewed: whether a reload starts new workers.
        has_conntrack: whether the program conntrack is installed.
        forgotten: the addresses whose closed connections were removed, each with the change before that.
    """

    def __init__(self, settings, state):
        super().__init__(settings)
        self.slot, self.files = state / "slot", state / "conf.d"
        self.slot.mkdir()
        self.files.mkdir()
        self.answer, self.current, self.renewed = lambda address: 200, lambda: True, True
        self.containers, self.rules, self.events, self.broken, self.life = {}, None, [], set(), None
        self.definition, self.database = NEW, OLD
        self.stopped, self.numbers = set(), itertools.count(1)
        self.health, self.taken = ["healthy"], False
        self.has_conntrack, self.forgotten = True, []
        self.create("nginx", OLD)

    def create(self, service, definition):
        number = next(self.numbers)
        self.containers[f"{service}-{number}"] = {
            "Id": f"{service}-{number}",
            "Name": f"/{service}",
            "Created": "2026-01-01T00:00:00Z",
            "State": {"Pid": number, "Status": "restarting", "StartedAt": "2026-01-01T00:00:00Z"},
            "Image": DB["image"],
            "HostConfig": {"Memory": 536870912, "NanoCpus": 1500000000},
            "Config": {
                "Hostname": f"host-of-{service}-{number}",
                "Cmd": DB["command"],
                "Env": ["PATH=/bin", "POSTGRES_DB=blog"],
                "Labels": {
                    "slipway.volume": "db_volume",
                    "com.docker.compose.service": service,
                    "com.docker.compose.config-hash": definition,
                },
            },
            "Mounts": [
                {"Destination": "/run/slot", "Source": str(self.slot)},
                {"Destination": "/etc/nginx/conf.d", "Source": str(self.files)},
            ],
            "NetworkSettings": {
                "Ports": {
                    "80/tcp": [{"HostIp": ip, "HostPort": "8080"} for ip in ("0.0.0.0", "::")],
                    "443/tcp": [{"HostIp": ip, "HostPort": "443"} for ip in ("0.0.0.0", "::")],
                    "443/udp": None,
                },
                "Networks": {
                    "slipway_edge": {"IPAddress": f"10.83.1.{number}", "GlobalIPv6Address": f"fd00::{number}"}
                },
            },
        }

    def of(self, service):
        return [
            name
            for name, container in self.containers.items()
            if container["Config"]["Labels"]["com.docker.compose.service"] == service
        ]

    def flag(self, name):
        return self.slot / f"drain-host-of-{name}"

    def change(self, event):
        """Record a change; once `life` is used up, kill the program before the change takes effect."""
        self.events.append(event)
        if self.life is not None:
            self.life -= 1
            if self.life < 0:
                raise Killed

    def run(self, *command, stdin=None):
        match command:
            case ["docker", "ps", *_]:
                [service] = [word.rpartition("=")[2] for word in command if "service=" in word]
                if "--filter=status=running" in command:
                    return "\n".join(name for name in self.of(service) if name not in self.stopped)
                assert "--all" in command
                return "\n".join(self.of(service))
            case ["docker", "inspect", "--format={{.State.Health.Status}}", _]:
                return f"{self.health.pop(0) if self.health[1:] else self.health[0]}\n"
            case ["docker", "events", *_]:
                return '{"exitCode": "137"}\n{"exitCode": "1"}\n'
            case ["docker", "inspect", *names]:
                return json.dumps([self.containers[name] for name in names])
            case ["docker", "compose", *_, "config", "--hash=nginx,db"]:
                return f"db {OLD}\nnginx {stdin or self.definition}\n"
            case ["docker", "compose", *_, "config", "--format", "json"]:
                return json.dumps(
                    {"x-blog-environment": {"BASE_URL": "https://blog.example.org"}, "services": {"db": DB}}
                )
            case ["docker", "compose", *_, "up", "--detach", "--no-deps", "--wait", _, service]:
                self.up(service)
            case ["docker", "compose", *_, "config", "--hash=db"]:
                return f"db {self.database}\n"
            case ["docker", "exec", "--interactive", container, "timeout", _, "psql", *_]:
                self.events.append(f"{'hold' if 'LOCK TABLE' in stdin else 'release'} posts of {container}")
            case ["docker", "compose", *_, "up", "--detach", "--pull=never", "--wait", _, "db", "nginx"]:
                self.events.append("up")
                self.start_all()
            case ["docker", "network" | "volume", "ls", "--quiet", _]:
                return f"{command[1]}-1\n"
            case ["docker", "stop", _, name]:
                self.change(f"stop {name.partition('-')[0]}")
            case ["docker", "rm", "--force", name]:
                self.change(f"remove {name.partition('-')[0]}")
                del self.containers[name]
            case ["docker", "exec", _, "nginx", *options]:
                self.change(f"nginx {' '.join(options)}")
                if "configuration" in self.broken:
                    raise Failure("unknown directive")
            case ["systemctl", "restart", "docker"]:
                self.change("restart the engine")
                self.taken = False
            case ["nsenter", *_]:
                # Once the flag is set, nginx closes every connection.
                [name] = [n for n, c in self.containers.items() if str(c["State"]["Pid"]) == command[3]]
                return "" if self.flag(name).exists() else "ESTAB 0 0 10.83.1.2:443 192.0.2.1:5000"
            case ["nft", "list", "tables"]:
                return "table inet slipway\n" + ("table inet slipway_nginx\n" if self.rules else "")
            case ["nft", "--file", "-"]:
                rules = stdin.removeprefix(nginx.NO_REDIRECT)
                self.change("redirect" if rules else "no redirect")
                self.rules = rules or None
            case _:
                raise AssertionError(f"unexpected command: {command}")
        return ""

    def up(self, service):
        for name in self.of(service):
            drained = " drained" if self.flag(name).exists() else ""
            self.change(f"end{drained} {service}")
            del self.containers[name]
        self.change(f"start {service}")
        self.create(service, self.definition)
        if service in self.broken:
            raise Failure(f"container {service} exited (1)")
        if self.taken:
            raise Failure("Bind for 0.0.0.0:443 failed: port is already allocated")

    def start_all(self):
        """Start nginx and the database. A test replaces this function."""

    def output(self, *command):
        if command[0] == "conntrack":
            if not self.has_conntrack:
                raise Failure("`conntrack` cannot be run")
            self.forgotten.append((command[-1], self.events[-1]))
            return "0 flow entries have been deleted."
        assert command[:2] == ("docker", "logs")
        return f"last words of {command[-1].partition('-')[0]}\n"

    def get(self, address, path, host, timeout=5, tls=False, cookie=""):
        at, _, port = address.rpartition(":")
        assert path == "/"
        assert host == "blog.example.org"
        assert tls is True
        assert port == "443"
        return self.answer(at.strip("[]")), ""

    def is_root(self):
        return True

    def children(self, pid, command):
        assert command == "nginx: worker process"
        return {"2"} if self.renewed and "nginx -s reload" in self.events else {"1"}

    def started(self, pid):
        return math.inf if self.current() else 0

    def new_connections_are_served(self):
        """Tell whether new connections reach a running container."""
        if not self.rules:
            return bool(self.of("nginx"))
        addresses = (
            self.containers[name]["NetworkSettings"]["Networks"] for name in self.of("nginx_temporary")
        )
        return any(f"ip to {at['slipway_edge']['IPAddress']}:" in self.rules for at in addresses)


def make_host(tmp_path):
    """Return a host where nginx runs with the old definition, and a program with short timeouts."""
    settings = Settings(
        project=tmp_path / "project", runtime=tmp_path / "run", idle_seconds=0.2, start_seconds=0.2
    )
    return Host(settings, tmp_path)


def assert_complete(host):
    """Assert that nginx matches compose.yml, and that no temporary nginx, rules or flags are left."""
    [name] = host.containers
    definition = host.containers[name]["Config"]["Labels"]["com.docker.compose.config-hash"]
    assert host.of("nginx") == [name]
    assert definition == host.definition
    assert host.rules is None
    assert list(host.slot.iterdir()) == []
