"""Changes of nginx: the steps and their order with a fake engine, the rules with a real nft."""

import fcntl
import functools
import hashlib
import http.server
import io
import itertools
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fakes import Killed

from slipway import cli, nginx
from slipway import host as real
from slipway.settings import Settings
from slipway.shell import Failure

OLD, NEW = "old-definition", "new-definition"


class Host(real.Host):
    """A host with a fake engine, a fake firewall and fake readers.

    Attributes:
        containers: the `docker inspect` output of each container, by id.
        rules: the rules in the program's own nft table, or None.
        events: what the program did, in order.
        definition: nginx's definition in compose.yml.
        stopped: containers that do not run.
        broken: services that do not become healthy.
        taken: whether the engine reports nginx's ports as allocated.
        life: number of changes after which the program is killed.
        health: the engine's successive answers about nginx's health.
        answer: returns the HTTP status of a container's address.
        current: tells whether nginx started after the last change to its files.
        renewed: whether a reload starts new workers.
    """

    def __init__(self, settings, state):
        super().__init__(settings)
        self.slot, self.files = state / "slot", state / "conf.d"
        self.slot.mkdir()
        self.files.mkdir()
        self.answer, self.current, self.renewed = lambda address: 200, lambda: True, True
        self.containers, self.rules, self.events, self.broken, self.life = {}, None, [], set(), None
        self.definition, self.stopped, self.numbers = NEW, set(), itertools.count(1)
        self.health, self.taken = ["healthy"], False
        self.create("nginx", OLD)

    def create(self, service, definition):
        number = next(self.numbers)
        self.containers[f"{service}-{number}"] = {
            "Id": f"{service}-{number}",
            "Name": f"/{service}",
            "Created": "2026-01-01T00:00:00Z",
            "State": {"Pid": number, "Status": "restarting"},
            "Config": {
                "Hostname": f"host-of-{service}-{number}",
                "Labels": {
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
                return json.dumps({"x-blog-environment": {"BASE_URL": "https://blog.example.org"}})
            case ["docker", "compose", *_, "up", "--detach", "--no-deps", "--wait", _, service]:
                self.up(service)
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

    def output(self, *command):
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


@pytest.fixture
def host(tmp_path):
    """A host where nginx runs with the old definition, and a program with short timeouts."""
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


# --- A replacement ------------------------------------------------------------------------------------------


def test_replacement_uses_a_temporary_nginx(host):
    assert nginx.apply(host) == ["replace"]
    assert host.events == [
        "start nginx_temporary",
        "redirect",
        "end drained nginx",
        "start nginx",
        "no redirect",
        "stop nginx_temporary",
        "remove nginx_temporary",
    ]
    assert_complete(host)
    assert nginx.apply(host) == []


def test_rules_redirect_every_published_port_to_the_temporary_nginx(host, check):
    host.broken.add("nginx")  # so that the rules stay
    with pytest.raises(Failure):
        nginx.apply(host)
    [name] = host.of("nginx_temporary")
    number = host.containers[name]["State"]["Pid"]
    given = nginx.NO_REDIRECT + host.rules
    load = "nft --file /tmp/rules && nft --file /tmp/rules"
    script = f"cat > /tmp/rules; {load} && nft --numeric-priority list table {nginx.TABLE}"
    done = check("--cap-add=NET_ADMIN", "--tmpfs=/tmp", command=["sh", "-c", script], stdin=given)
    assert done.stderr == ""
    assert done.returncode == 0
    rules = [line.strip() for line in done.stdout.splitlines() if "dnat" in line]
    expected = [
        f"meta nfproto {family} fib daddr type local tcp dport {asked} dnat {to}:{port}"
        for port, asked in ((443, 443), (80, 8080))
        for family, to in (("ipv4", f"ip to 10.83.1.{number}"), ("ipv6", f"ip6 to [fd00::{number}]"))
    ]
    assert rules == expected * 2
    for hook in ("prerouting", "output"):
        assert f"type nat hook {hook} priority -110" in done.stdout


@pytest.mark.parametrize("seen", [None, 500, 502])
def test_temporary_nginx_that_does_not_answer_gets_no_readers(host, seen):
    host.answer = lambda address: 200 if address in ("10.83.1.1", "fd00::1") else seen
    with pytest.raises(Failure, match="does not answer requests for https://blog"):
        nginx.apply(host)
    assert host.events == ["start nginx_temporary", "remove nginx_temporary"]


def test_nginx_without_tls_is_requested_over_http(host):
    """For example, a load balancer in front of nginx terminates TLS."""
    del host.containers["nginx-1"]["NetworkSettings"]["Ports"]["443/tcp"]
    assert nginx.running(host, "nginx").port == 80


def test_request_has_the_public_host_name():
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.headers["Host"] == "blog.example.org" else 404)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request).start()
        port, url = server.server_port, "https://blog.example.org"
        assert nginx.status(real.Host(), "127.0.0.1", port, url) == 200


def test_temporary_nginx_may_answer_with_the_same_error_as_the_old_one(host):
    """During maintenance and before the first release, every nginx answers 503."""
    host.answer = lambda address: 503
    nginx.apply(host)
    assert_complete(host)


def test_temporary_nginx_may_answer_with_any_status_if_the_old_one_does_not_answer(host):
    """For example, only the new nginx answers to a new host name."""
    host.answer = lambda address: None if address in ("10.83.1.1", "fd00::1") else 502
    nginx.apply(host)
    assert_complete(host)


def test_temporary_nginx_must_answer_over_ipv4_and_ipv6(host):
    host.answer = lambda address: 200 if "." in address else None
    with pytest.raises(Failure, match="does not answer"):
        nginx.apply(host)
    assert host.of("nginx") == ["nginx-1"]
    assert host.of("nginx_temporary") == []
    assert host.rules is None


def test_image_that_does_not_start_leaves_the_old_nginx_running(host):
    host.broken.add("nginx_temporary")
    with pytest.raises(Failure) as failure:
        nginx.apply(host)
    assert str(failure.value) == (
        "The new nginx does not work, so the old one serves as before. container nginx_temporary exited (1)\n"
        "The container nginx_temporary is restarting (exit code 1). Its last lines:\n"
        "    last words of nginx_temporary"
    )
    assert host.events == ["start nginx_temporary", "remove nginx_temporary"]
    assert list(host.containers) == ["nginx-1"]


def test_temporary_nginx_keeps_serving_if_the_new_nginx_does_not_start(host):
    host.broken.add("nginx")
    with pytest.raises(Failure, match="A temporary nginx serves readers until site"):
        nginx.apply(host)
    assert host.rules
    assert host.new_connections_are_served()


@pytest.mark.parametrize("life", range(8))
def test_kill_at_any_step_leaves_an_nginx_that_serves_and_the_next_run_finishes(host, life):
    host.life = life
    if life < 7:
        with pytest.raises(Killed):
            nginx.apply(host)
    else:
        nginx.apply(host)
    assert host.new_connections_are_served()
    host.life = None
    nginx.apply(host)
    assert_complete(host)


def test_next_run_cleans_up_after_a_reboot_during_a_replacement(host):
    """The rules are gone, the temporary nginx is stopped, and nginx restarted with its flag still set."""
    host.create("nginx_temporary", NEW)
    host.stopped.add("nginx_temporary-2")
    host.flag("nginx-1").touch()
    host.definition = OLD
    host.containers["nginx-1"]["Config"]["Labels"]["com.docker.compose.config-hash"] = OLD
    assert nginx.apply(host) == ["recover"]
    assert_complete(host)


def test_next_run_finishes_a_replacement_that_the_previous_version_began(host):
    """The temporary nginx of the previous version serves readers, under its former name."""
    host.create(nginx.FORMER_TEMPORARY, NEW)
    host.rules = "ip to 10.83.1.2:443"
    host.flag("nginx-1").touch()
    assert nginx.apply(host) == ["recover", "replace"]
    assert host.events[:3] == ["no redirect", "stop nginx_stand_in", "remove nginx_stand_in"]
    assert_complete(host)


def test_next_run_starts_nginx_while_the_temporary_nginx_of_the_previous_version_serves(host):
    del host.containers["nginx-1"]
    host.create(nginx.FORMER_TEMPORARY, NEW)
    host.rules = "ip to 10.83.1.2:443"
    assert nginx.apply(host) == ["recover"]
    assert host.events == ["start nginx", "no redirect", "stop nginx_stand_in", "remove nginx_stand_in"]
    assert_complete(host)


@pytest.fixture
def without_power(host):
    """A power loss during a replacement: the old nginx is removed, and the temporary one is stopped."""
    del host.containers["nginx-1"]
    host.create("nginx_temporary", NEW)
    host.stopped.add("nginx_temporary-2")
    host.flag("nginx-1").touch()


@pytest.mark.usefixtures("without_power")
def test_next_run_starts_nginx_after_a_power_loss(host):
    assert nginx.apply(host) == ["recover"]
    assert host.events == ["start nginx", "no redirect", "remove nginx_temporary"]
    assert_complete(host)


@pytest.mark.usefixtures("without_power")
def test_next_run_restarts_an_engine_that_keeps_ports_allocated_after_a_power_loss(host):
    host.taken = True
    assert nginx.apply(host) == ["recover"]
    assert host.events == [
        "start nginx",
        "restart the engine",
        "end nginx",
        "start nginx",
        "no redirect",
        "remove nginx_temporary",
    ]
    assert_complete(host)


@pytest.mark.usefixtures("without_power")
def test_next_run_does_not_restart_the_engine_if_nginx_itself_fails_to_start(host):
    host.broken.add("nginx")
    with pytest.raises(Failure, match="exited"):
        nginx.apply(host)
    assert host.events == ["start nginx"]


def test_apply_replaces_nothing_if_nginx_does_not_run(host):
    del host.containers["nginx-1"]
    assert nginx.apply(host) == []
    assert host.events == []
    host.rules = "left over"
    assert nginx.apply(host) == ["recover"]
    assert_complete(host)


# --- A reload -----------------------------------------------------------------------------------------------


def test_reload_drains_nginx_first(host):
    drained, change = [], host.change
    host.change = lambda event: (drained.append(host.flag("nginx-1").exists()), change(event))
    nginx.reload(host)
    assert list(zip(host.events, drained, strict=True)) == [("nginx -t -q", False), ("nginx -s reload", True)]
    assert not host.flag("nginx-1").exists()


def test_reload_does_not_drain_nginx_if_it_rejects_the_configuration(host):
    host.broken.add("configuration")
    with pytest.raises(Failure, match="unknown directive"):
        nginx.reload(host)
    assert host.events == ["nginx -t -q"]
    assert list(host.slot.iterdir()) == []


def test_reload_fails_if_no_new_workers_start(host):
    host.renewed = False
    with pytest.raises(Failure, match="started no workers with the new configuration"):
        nginx.reload(host)
    assert not host.flag("nginx-1").exists()


def test_reload_waits_until_nginx_is_healthy(host):
    """For example, nginx is unhealthy if it started before its files existed."""
    host.health = ["unhealthy", "healthy"]
    nginx.reload(host)
    assert host.health == ["healthy"]
    host.health, host.events = ["unhealthy"], []
    with pytest.raises(Failure, match="is not healthy: see `slipway logs nginx`"):
        nginx.reload(host)


def test_reload_without_nginx_reports_how_to_start_it(host):
    host.containers.clear()
    with pytest.raises(Failure, match="docker compose up -d"):
        nginx.reload(host)


def test_apply_reloads_nginx_if_a_file_is_newer_than_its_workers(host):
    host.definition = OLD
    host.containers["nginx-1"]["Config"]["Labels"]["com.docker.compose.config-hash"] = OLD
    host.current = lambda: "nginx -s reload" in host.events
    assert nginx.apply(host) == ["reload"]
    assert nginx.apply(host) == []


def test_nginx_is_current_until_a_file_changes(tmp_path):
    container = object.__new__(nginx.Container)
    container.host, container.mounts = real.Host(), {"/etc/nginx/conf.d": tmp_path}
    (tmp_path / "blog.conf").write_text("old")
    processes = []

    # Both clocks are coarse, so repeat each step until they show the difference.
    def is_current_after_a_start():
        processes.append(subprocess.Popen(["sleep", "60"]))
        container.workers = lambda: {str(processes[-1].pid)}
        return container.is_current()

    def is_outdated_after(change):
        change()
        return not container.is_current()

    def written():
        (tmp_path / "blog.conf").write_text("new")

    def removed():
        (tmp_path / "other.conf").touch()
        (tmp_path / "other.conf").unlink()

    try:
        for change in (written, removed):
            assert real.wait_until(is_current_after_a_start, 5)
            assert real.wait_until(functools.partial(is_outdated_after, change), 5)
    finally:
        for process in processes:
            process.kill()
            process.wait()


# --- Commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "done"), [(NEW, "replace"), (OLD, "nothing")])
def test_check_reports_the_task_for_a_compose_yml_and_changes_nothing(host, monkeypatch, capsys, text, done):
    host.containers["nginx-1"]["Config"]["Labels"]["com.docker.compose.config-hash"] = OLD
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert cli.main(["nginx", "apply", "--check"], host) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"changed": done != "nothing", "done": [done], "up": False}
    assert host.events == []


@pytest.mark.parametrize("command", ["apply", "reload"])
def test_changes_run_in_a_systemd_unit(host, monkeypatch, command):
    started = []

    def become(name, command):
        started.append(command)
        raise Killed

    monkeypatch.setattr(os, "execvp", become)
    with pytest.raises(Killed):
        cli.main(["nginx", command], host)
    assert host.events == []
    [[*words, unit, python, isolated, clean, path, nginx, what, told]] = started
    assert words == ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"]
    assert unit.startswith("--unit=slipway-nginx-")
    assert python == sys.executable
    assert isolated == "-I"
    assert clean == "-B"
    assert Path(path) == Path(cli.__file__).with_name("__main__.py")
    assert nginx == "nginx"
    assert what == command
    assert told == "--in-unit"


@pytest.fixture
def host_that_is_up(host):
    """A host where nginx and the database run as compose.yml defines them, and are healthy."""
    host.definition = OLD
    host.create("db", OLD)
    host.settings.project.mkdir()
    (host.settings.project / "compose.yml").write_text("services: {}\n")
    described(host).write_text(json.dumps({"compose": hashlib.sha256(b"services: {}\n").hexdigest()}))
    for container in host.containers.values():
        container["State"] |= {"Status": "running", "Health": {"Status": "healthy"}}
    return host


def described(host):
    """Return stack.json, in which the role stack records the compose.yml that runs."""
    return host.settings.project / "stack.json"


def database(host):
    """Return the container of the database."""
    [name] = host.of("db")
    return host.containers[name]


@pytest.mark.parametrize(
    ("change", "up"),
    [
        (lambda host: None, True),
        (lambda host: database(host)["State"].update(Status="exited"), False),
        (lambda host: database(host)["State"].update(Health={"Status": "unhealthy"}), False),
        (
            lambda host: database(host)["Config"]["Labels"].update({"com.docker.compose.config-hash": NEW}),
            False,
        ),
        (lambda host: host.containers.pop(*host.of("db")), False),
        (lambda host: host.containers.pop(*host.of("nginx")), False),
        (lambda host: (host.settings.project / "compose.yml").write_text("networks: {}\n"), False),
        (lambda host: described(host).write_text("{}"), False),
        (lambda host: described(host).write_text("corrupt"), False),
        (lambda host: described(host).unlink(), False),
    ],
    ids=[
        *("as defined", "stopped", "unhealthy", "other definition", "no database", "no nginx"),
        *("other compose.yml", "former version", "damaged", "no record"),
    ],
)
def test_apply_reports_whether_compose_has_nothing_to_start(host_that_is_up, capsys, change, up):
    change(host_that_is_up)
    assert cli.main(["nginx", "apply"], host_that_is_up) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False, "done": [], "up": up}
    assert host_that_is_up.events == []


def test_apply_refuses_to_run_during_a_release(host, capsys):
    host.settings.runtime.mkdir()
    with host.settings.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("anna, since 2026-11-22T18:00:00Z, process 7")
        file.flush()
        assert cli.main(["nginx", "apply", "--in-unit"], host) == 1
    told = capsys.readouterr().err
    assert "Another operation is under way: anna, since 2026-11-22T18:00:00Z, process 7." in told
    assert host.events == []


def test_apply_writes_its_purpose_to_the_lock(host, capsys):
    holders, change = [], host.change
    host.change = lambda event: (holders.append(host.settings.lock.read_text()), change(event))
    assert cli.main(["nginx", "apply", "--in-unit"], host) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True, "done": ["replace"], "up": False}
    assert all(holder.startswith("a change of nginx, since 2") for holder in holders)
    assert holders
