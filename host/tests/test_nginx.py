"""How nginx is replaced: the steps and their order with a fake engine, the rules with a real nft."""

import http.server
import threading

import pytest
from fakes import Killed
from nginx_host import NEW, OLD, assert_complete, make_host

from slipway import host as real
from slipway import nginx
from slipway.shell import Failure


@pytest.fixture
def host(tmp_path):
    """A host where nginx runs with the old definition."""
    return make_host(tmp_path)


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


def test_closed_connections_are_forgotten_before_a_container_stops(host):
    """The engine would also remove a new connection whose client uses the port of a closed one."""
    nginx.apply(host)
    assert list(dict.fromkeys(host.forgotten)) == [
        ("10.83.1.1", "redirect"),
        ("fd00::1", "redirect"),
        ("10.83.1.2", "no redirect"),
        ("fd00::2", "no redirect"),
    ]


def test_host_without_conntrack_can_replace_nginx_too(host):
    host.has_conntrack = False
    assert nginx.apply(host) == ["replace"]
    assert_complete(host)


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
