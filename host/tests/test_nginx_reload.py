"""How nginx is reloaded, and the commands `slipway nginx`."""

import functools
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import Killed
from nginx_host import NEW, OLD, make_host

from slipway import cli, nginx
from slipway import host as real
from slipway.lock import lock
from slipway.shell import Failure


@pytest.fixture
def host(tmp_path):
    """A host where nginx runs with the old definition."""
    return make_host(tmp_path)


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

    # Start times of processes and change times of files are coarse: repeat each step until they differ.
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
    assert told == {"changed": done != "nothing", "done": [done], "up": False, "database": []}
    assert host.events == []


@pytest.mark.parametrize("command", ["apply", "reload"])
def test_changes_run_in_a_systemd_unit(host, started, command):
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


def another_definition(host):
    """Make the database's container differ from compose.yml."""
    container = database(host)
    container["Config"]["Labels"]["com.docker.compose.config-hash"] = NEW
    container["HostConfig"]["Memory"] = 1


@pytest.mark.parametrize(
    ("change", "up"),
    [
        (lambda host: None, True),
        (lambda host: database(host)["State"].update(Status="exited"), False),
        (lambda host: database(host)["State"].update(Health={"Status": "unhealthy"}), False),
        (another_definition, False),
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
    told = json.loads(capsys.readouterr().out)
    assert told.pop("database") == (["memory"] if change is another_definition else [])
    assert told == {"changed": False, "done": [], "up": up}
    assert host_that_is_up.events == []


def test_apply_refuses_to_run_during_a_release(host, capsys):
    with lock(host, "anna"):
        assert cli.main(["nginx", "apply", "--in-unit"], host) == 1
        holder = host.settings.lock.read_text()
    assert f"Another operation is under way: {holder}." in capsys.readouterr().err
    assert host.events == []


def test_apply_writes_its_purpose_to_the_lock(host, capsys):
    holders, change = [], host.change
    host.change = lambda event: (holders.append(host.settings.lock.read_text()), change(event))
    assert cli.main(["nginx", "apply", "--in-unit"], host) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"changed": True, "done": ["replace"], "up": False, "database": []}
    assert all(holder.startswith("a change of nginx, since 2") for holder in holders)
    assert holders
