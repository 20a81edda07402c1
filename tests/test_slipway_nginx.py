"""The program slipway-nginx: what it does, in which order, with a fake engine; its rules, with a real nft."""

import fcntl
import functools
import http.server
import io
import itertools
import json
import subprocess
import sys
import threading

import pytest
from project import ROOT, load_program

OLD, NEW = "old-definition", "new-definition"


class Killed(BaseException):
    """The program ends here, as by SIGKILL."""


class Host:
    """An engine, a firewall and readers, as far as the program sees them.

    Attributes:
        containers: what `docker inspect` says of each container, by id.
        redirect: the rules of the program's own table, or None.
        events: what the program did, in order.
        definition: nginx's, in compose.yml.
        stopped: containers that do not run.
        broken: services that do not become healthy.
        taken: whether the engine takes nginx's ports for allocated.
        life: after how many changes the program is killed.
        health: what the engine says of nginx's health, time after time.
    """

    def __init__(self, program, state):
        self.program, self.slot = program, state / "slot"
        self.slot.mkdir()
        self.containers, self.redirect, self.events, self.broken, self.life = {}, None, [], set(), None
        self.definition, self.stopped, self.numbers = NEW, set(), itertools.count(1)
        self.health, self.taken = ["healthy"], False
        self.create("nginx", OLD)

    def create(self, service, definition):
        number = next(self.numbers)
        self.containers[f"{service}-{number}"] = {
            "Id": f"{service}-{number}",
            "State": {"Pid": number},
            "Config": {
                "Hostname": f"host-of-{service}-{number}",
                "Labels": {
                    "com.docker.compose.service": service,
                    "com.docker.compose.config-hash": definition,
                },
            },
            "Mounts": [{"Destination": "/run/slot", "Source": str(self.slot)}],
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
        """Note what the program did; the end comes before or after it, in turn."""
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
            case ["docker", "inspect", form, name] if form == f"--format={self.program.STATE}":
                return f"/{name.partition('-')[0]} restarting\n"
            case ["docker", "events", *_]:
                return "137\n1\n"
            case ["docker", "inspect", name]:
                return json.dumps([self.containers[name]])
            case ["docker", "compose", *_, "config", "--hash=nginx"]:
                return f"nginx {stdin or self.definition}"
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
                if "spoiled" in self.broken:
                    raise self.program.Failure("unknown directive")
            case ["systemctl", "restart", "docker"]:
                self.change("the engine starts anew")
                self.taken = False
            case ["nsenter", *_]:
                # Each reader's next answer is their last, once the flag is up.
                [name] = [n for n, c in self.containers.items() if str(c["State"]["Pid"]) == command[3]]
                return "" if self.flag(name).exists() else "ESTAB 0 0 10.83.1.2:443 192.0.2.1:5000"
            case ["nft", "list", "tables"]:
                return "table inet slipway\n" + ("table inet slipway_nginx\n" if self.redirect else "")
            case ["nft", "--file", "-"]:
                rules = stdin.removeprefix(self.program.NO_REDIRECT)
                self.change("redirect" if rules else "no redirect")
                self.redirect = rules or None
            case _:
                raise AssertionError(f"nobody expected {command}")
        return ""

    def up(self, service):
        for name in self.of(service):
            drained = " drained" if self.flag(name).exists() else ""
            self.change(f"end{drained} {service}")
            del self.containers[name]
        self.change(f"start {service}")
        self.create(service, self.definition)
        if service in self.broken:
            raise self.program.Failure(f"container {service} exited (1)")
        if self.taken:
            raise self.program.Failure("Bind for 0.0.0.0:443 failed: port is already allocated")

    def status(self, address, port, url):
        assert (port, url) == (443, "https://blog.example.org")
        return 200

    def somebody_serves(self):
        """Tell whether new connections lead to a container that runs."""
        if not self.redirect:
            return bool(self.of("nginx"))
        addresses = (
            self.containers[name]["NetworkSettings"]["Networks"] for name in self.of("nginx_stand_in")
        )
        return any(f"ip to {at['slipway_edge']['IPAddress']}:" in self.redirect for at in addresses)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The program, with its lock in tmp_path, and no patience."""
    program = load_program(ROOT / "roles/stack/files/slipway-nginx")
    monkeypatch.setattr(program, "LOCK", tmp_path / "run/lock")
    for name in ("IDLE_SECONDS", "START_SECONDS"):
        monkeypatch.setattr(program, name, 0.2)
    monkeypatch.setattr(program, "log", lambda container: f"last words of {container.partition('-')[0]}\n")
    monkeypatch.setattr(program.Container, "is_current", lambda container: True)
    return program


@pytest.fixture
def host(program, tmp_path, monkeypatch):
    """A host on which nginx runs with the definition before."""
    host = Host(program, tmp_path)
    monkeypatch.setattr(program, "run", host.run)
    monkeypatch.setattr(program, "status", host.status)
    return host


def settled(host):
    """Tell whether nginx is what compose.yml says and nothing is left of how it became so."""
    [name] = host.containers
    definition = host.containers[name]["Config"]["Labels"]["com.docker.compose.config-hash"]
    return (host.of("nginx"), definition, host.redirect, list(host.slot.iterdir())) == (
        [name],
        host.definition,
        None,
        [],
    )


# --- A replacement ------------------------------------------------------------------------------------------


def test_replacement_goes_by_a_stand_in(program, host):
    assert program.settle() == ["replace"]
    assert host.events == [
        "start nginx_stand_in",
        "redirect",
        "end drained nginx",
        "start nginx",
        "no redirect",
        "stop nginx_stand_in",
        "remove nginx_stand_in",
    ]
    assert settled(host)
    assert program.settle() == []


def test_rules_lead_every_port_of_the_old_one_to_the_stand_in(program, host, check):
    host.broken.add("nginx")  # so that they stay
    with pytest.raises(program.Failure):
        program.settle()
    [name] = host.of("nginx_stand_in")
    number = host.containers[name]["State"]["Pid"]
    given = program.NO_REDIRECT + host.redirect
    load = "nft --file /tmp/rules && nft --file /tmp/rules"
    script = f"cat > /tmp/rules; {load} && nft --numeric-priority list table {program.TABLE}"
    done = check("--cap-add=NET_ADMIN", "--tmpfs=/tmp", command=["sh", "-c", script], stdin=given)
    assert (done.returncode, done.stderr) == (0, "")
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
def test_stand_in_that_does_not_serve_readers_gets_none(program, host, monkeypatch, seen):
    monkeypatch.setattr(
        program, "status", lambda address, port, url: 200 if address in ("10.83.1.1", "fd00::1") else seen
    )
    with pytest.raises(program.Failure, match="does not answer to https://blog"):
        program.settle()
    assert host.events == ["start nginx_stand_in", "remove nginx_stand_in"]


def test_nginx_without_tls_is_asked_without_it(program, host):
    """As where a load balancer in front of it ends TLS, whatever readers type."""
    del host.containers["nginx-1"]["NetworkSettings"]["Ports"]["443/tcp"]
    assert program.running("nginx").port == 80


def test_page_is_asked_for_by_the_name_that_readers_type(program):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.headers["Host"] == "blog.example.org" else 404)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request).start()
        assert program.status("127.0.0.1", server.server_port, "https://blog.example.org") == 200


def test_stand_in_need_not_do_better_than_what_serves(program, host, monkeypatch):
    """During maintenance, or before the first release."""
    monkeypatch.setattr(program, "status", lambda address, port, url: 503)
    program.settle()
    assert settled(host)


def test_whatever_answers_is_better_than_one_that_does_not(program, host, monkeypatch):
    """As where nothing answers to a new name before it is in force, and the blog after that."""
    monkeypatch.setattr(
        program, "status", lambda address, port, url: None if address in ("10.83.1.1", "fd00::1") else 502
    )
    program.settle()
    assert settled(host)


def test_stand_in_answers_over_both_families(program, host, monkeypatch):
    monkeypatch.setattr(program, "status", lambda address, port, url: 200 if "." in address else None)
    with pytest.raises(program.Failure, match="does not answer"):
        program.settle()
    assert [host.of("nginx"), host.of("nginx_stand_in"), host.redirect] == [["nginx-1"], [], None]


def test_image_that_does_not_start_leaves_the_old_one(program, host):
    host.broken.add("nginx_stand_in")
    with pytest.raises(program.Failure) as failure:
        program.settle()
    assert str(failure.value) == (
        "The new nginx does not work, so the old one serves as before. container nginx_stand_in exited (1)\n"
        "The container nginx_stand_in is restarting (exit code 1). Its last lines:\n"
        "    last words of nginx_stand_in"
    )
    assert host.events == ["start nginx_stand_in", "remove nginx_stand_in"]
    assert list(host.containers) == ["nginx-1"]


def test_stand_in_serves_on_where_nginx_then_does_not_start(program, host):
    host.broken.add("nginx")
    with pytest.raises(program.Failure, match="a stand-in serves in nginx's place"):
        program.settle()
    assert host.redirect
    assert host.somebody_serves()


@pytest.mark.parametrize("life", range(8))
def test_killed_at_any_moment_somebody_serves_and_the_next_run_finishes(program, host, life):
    host.life = life
    if life < 7:
        with pytest.raises(Killed):
            program.settle()
    else:
        program.settle()
    assert host.somebody_serves()
    host.life = None
    program.settle()
    assert settled(host)


def test_after_a_reboot_half_way_nothing_is_left(program, host):
    """The rules are gone, the stand-in has stopped, and nginx came back by itself, with its flag up."""
    host.create("nginx_stand_in", NEW)
    host.stopped.add("nginx_stand_in-2")
    host.flag("nginx-1").touch()
    host.definition = OLD
    host.containers["nginx-1"]["Config"]["Labels"]["com.docker.compose.config-hash"] = OLD
    assert program.settle() == ["recover"]
    assert settled(host)


@pytest.fixture
def without_power(host):
    """It is lost between two containers of nginx: one is removed, and the stand-in has stopped."""
    del host.containers["nginx-1"]
    host.create("nginx_stand_in", NEW)
    host.stopped.add("nginx_stand_in-2")
    host.flag("nginx-1").touch()


@pytest.mark.usefixtures("without_power")
def test_after_a_loss_of_power_there_is_an_nginx_again(program, host):
    assert program.settle() == ["recover"]
    assert host.events == ["start nginx", "no redirect", "remove nginx_stand_in"]
    assert settled(host)


@pytest.mark.usefixtures("without_power")
def test_engine_that_lost_power_and_holds_on_to_ports_starts_anew(program, host):
    host.taken = True
    assert program.settle() == ["recover"]
    assert host.events == [
        "start nginx",
        "the engine starts anew",
        "end nginx",
        "start nginx",
        "no redirect",
        "remove nginx_stand_in",
    ]
    assert settled(host)


@pytest.mark.usefixtures("without_power")
def test_engine_is_left_alone_where_it_is_nginx_that_does_not_start(program, host):
    host.broken.add("nginx")
    with pytest.raises(program.Failure, match="exited"):
        program.settle()
    assert host.events == ["start nginx"]


def test_without_nginx_there_is_nothing_to_replace(program, host):
    del host.containers["nginx-1"]
    assert program.settle() == []
    assert host.events == []
    host.redirect = "left over"
    assert program.settle() == ["recover"]
    assert settled(host)


# --- A reload -----------------------------------------------------------------------------------------------


@pytest.fixture
def workers(program, host, monkeypatch):
    """nginx's workers, which a reload replaces."""
    monkeypatch.setattr(
        program.Container, "workers", lambda container: {"2"} if "nginx -s reload" in host.events else {"1"}
    )


@pytest.mark.usefixtures("workers")
def test_reload_drains_first(program, host, monkeypatch):
    drained = []
    change = host.change
    monkeypatch.setattr(
        host, "change", lambda event: (drained.append(host.flag("nginx-1").exists()), change(event))
    )
    program.reload()
    assert list(zip(host.events, drained, strict=True)) == [("nginx -t -q", False), ("nginx -s reload", True)]
    assert not host.flag("nginx-1").exists()


def test_configuration_that_nginx_refuses_drains_nobody(program, host):
    host.broken.add("spoiled")
    with pytest.raises(program.Failure, match="unknown directive"):
        program.reload()
    assert (host.events, list(host.slot.iterdir())) == (["nginx -t -q"], [])


def test_reload_that_brings_no_new_workers_is_said(program, host, monkeypatch):
    monkeypatch.setattr(program.Container, "workers", lambda container: {"1"})
    with pytest.raises(program.Failure, match="did not take the new configuration"):
        program.reload()
    assert not host.flag("nginx-1").exists()


@pytest.mark.usefixtures("workers")
def test_reload_of_what_was_ill_waits_until_it_is_well(program, host):
    """As where nginx had started before there was anything for it to read."""
    host.health = ["unhealthy", "healthy"]
    program.reload()
    assert host.health == ["healthy"]
    host.health, host.events = ["unhealthy"], []
    with pytest.raises(program.Failure, match="is not healthy: `slipway logs nginx` says why"):
        program.reload()


def test_reload_without_nginx_says_how_to_start_it(program, host):
    host.containers.clear()
    with pytest.raises(program.Failure, match="docker compose up -d"):
        program.reload()


@pytest.mark.usefixtures("workers")
def test_reload_comes_where_a_file_is_newer_than_what_runs(program, host, monkeypatch):
    host.definition = OLD
    host.containers["nginx-1"]["Config"]["Labels"]["com.docker.compose.config-hash"] = OLD
    monkeypatch.setattr(program.Container, "is_current", lambda container: "nginx -s reload" in host.events)
    assert program.settle() == ["reload"]
    assert program.settle() == []


def test_what_runs_is_current_until_a_file_changes(tmp_path):
    program = load_program(ROOT / "roles/stack/files/slipway-nginx")
    nginx = object.__new__(program.Container)
    nginx.mounts = {"/etc/nginx/conf.d": tmp_path}
    (tmp_path / "blog.conf").write_text("old")
    processes = []

    # Both clocks are coarse, so each step is repeated until they see it.
    def is_current_after_a_start():
        processes.append(subprocess.Popen(["sleep", "60"]))
        nginx.workers = lambda: {str(processes[-1].pid)}
        return nginx.is_current()

    def is_outdated_after(change):
        change()
        return not nginx.is_current()

    def written():
        (tmp_path / "blog.conf").write_text("new")

    def removed():
        (tmp_path / "other.conf").touch()
        (tmp_path / "other.conf").unlink()

    try:
        for change in (written, removed):
            assert program.wait_until(is_current_after_a_start, 5)
            assert program.wait_until(functools.partial(is_outdated_after, change), 5)
    finally:
        for process in processes:
            process.kill()
            process.wait()


# --- Commands -----------------------------------------------------------------------------------------------


def call(program, monkeypatch, *arguments, stdin=""):
    monkeypatch.setattr(sys, "argv", ["slipway-nginx", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    return program.main()


@pytest.mark.parametrize(("text", "done"), [(NEW, "replace"), (OLD, "nothing")])
def test_check_tells_what_a_compose_yml_would_need_and_changes_nothing(
    program, host, monkeypatch, capsys, text, done
):
    host.containers["nginx-1"]["Config"]["Labels"]["com.docker.compose.config-hash"] = OLD
    assert call(program, monkeypatch, "settle", "--check", stdin=text) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": done != "nothing", "done": [done]}
    assert host.events == []


def test_changes_are_the_work_of_a_unit(program, host, monkeypatch):
    started = []

    def become(name, command):
        started.append(command)
        raise Killed

    monkeypatch.setattr(program.os, "execvp", become)
    with pytest.raises(Killed):
        call(program, monkeypatch, "settle")
    assert host.events == []
    [[*_, unit, python, path, command, told]] = started
    assert (started[0][0], python, command, told) == ("systemd-run", sys.executable, "settle", "--in-unit")
    assert unit.startswith("--unit=slipway-nginx-")
    assert path.endswith("slipway-nginx")


def test_release_under_way_is_named(program, host, monkeypatch, capsys):
    program.LOCK.parent.mkdir()
    with program.LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("anna, since 2026-11-22T18:00:00Z, process 7")
        file.flush()
        assert call(program, monkeypatch, "settle", "--in-unit") == 1
    told = capsys.readouterr().err
    assert "under way: anna, since 2026-11-22T18:00:00Z, process 7." in told
    assert host.events == []


def test_lock_tells_a_release_who_has_it(program, host, monkeypatch, capsys):
    holders = []
    change = host.change
    monkeypatch.setattr(
        host, "change", lambda event: (holders.append(program.LOCK.read_text()), change(event))
    )
    assert call(program, monkeypatch, "settle", "--in-unit") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True, "done": ["replace"]}
    assert all(holder.startswith("a change of nginx, since 2") for holder in holders)
    assert holders


def test_commands_see_nothing_of_the_callers_environment(program, monkeypatch):
    monkeypatch.setenv("BLUE_IMAGE", "of the caller")
    assert {line.split("=")[0] for line in program.run("env").splitlines()} == {"PATH", "HOME"}


def test_command_that_fails_ends_with_its_last_lines(program):
    with pytest.raises(program.Failure, match=r"`sh -c .* failed:") as failure:
        program.run("sh", "-c", "seq 100 >&2; exit 3")
    assert str(failure.value).splitlines()[1:] == [f"    {number}" for number in range(86, 101)]
