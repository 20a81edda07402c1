"""No request fails when nginx's configuration or image changes."""

import contextlib
import json
from secrets import token_hex

import pytest
from outside import Prober, wait_until

REDIRECT = "nft list table inet slipway_nginx"


@pytest.fixture
def apply_nginx(host):
    """Run `slipway nginx apply`, and return the steps that the program took."""
    return lambda: json.loads(host.check_output("slipway nginx apply"))["done"]


@pytest.fixture(scope="module", autouse=True)
def restored_nginx(host, docker, inspect):
    """Copy the files that define nginx. After these tests, restore and apply them."""
    docker("tag %s slipway.test/nginx:source", inspect()["nginx"]["Image"])
    host.check_output("cd /opt/slipway && tar --create --file=/run/slipway-test.tar compose.yml nginx")
    yield
    host.check_output("cd /opt/slipway && tar --extract --file=/run/slipway-test.tar")
    # Another `slipway nginx apply` may still run if a test failed.
    wait_until(lambda: host.run("slipway nginx apply").rc == 0, 90, "nginx is restored")
    docker("rmi slipway.test/nginx:source && docker image prune --all --force --filter label=slipway.test")


@pytest.fixture
def other_nginx(host):
    """Build a copy of nginx's image with more Dockerfile lines, set it in compose.yml, and return its id."""

    def other_nginx(lines=""):
        dockerfile = f"FROM slipway.test/nginx:source\n{lines}\n"
        image = host.check_output(
            "echo %s | docker build --quiet --label slipway.test=%s -", dockerfile, token_hex()
        )
        named = f"/^  nginx:/,/image:/s/image: .*/image: {image}/"
        host.check_output("sed --in-place %s /opt/slipway/compose.yml", named)
        return image

    return other_nginx


@pytest.fixture
def assert_only_nginx(host, healthy):
    """Assert that a change of nginx left nothing behind, and return nginx's container."""

    def assert_only_nginx():
        now = healthy()
        assert "nginx" in now
        assert host.run(REDIRECT).rc == 1
        assert host.check_output("ls /var/lib/slipway/slot") in ("", "green")
        return now["nginx"]

    return assert_only_nginx


def test_no_request_fails_during_a_change_of_nginx_configuration(
    under_load, host, inspect, apply_nginx, assert_only_nginx
):
    """A change of nginx's image takes twice as long, so only test_soak.py tests it under load."""
    before = inspect()["nginx"]
    with under_load() as load:
        host.check_output("echo '# changed' >> /opt/slipway/nginx/blog.conf")
        with load.step("another configuration of nginx"):
            assert apply_nginx() == ["reload"]
    assert load.problems == []
    now = assert_only_nginx()
    assert now["Id"] == before["Id"]
    assert now["State"]["StartedAt"] == before["State"]["StartedAt"]


def test_nginx_image_that_does_not_start_is_refused_with_its_error(
    host, other_nginx, inspect, assert_only_nginx, reader
):
    before = inspect()["nginx"]
    # The command is in compose.yml, so the error must be in a file of the image.
    broken = other_nginx('USER root\nRUN echo "spoiled;" >> /etc/nginx/nginx.conf\nUSER 101:101')
    with Prober(reader) as prober:
        done = host.run("slipway nginx apply")
    host.check_output("sed --in-place s/%s/%s/ /opt/slipway/compose.yml", broken, before["Image"])
    assert done.rc == 1
    assert "The new nginx does not work, so the old one serves as before." in done.stderr
    assert 'unknown directive "spoiled"' in done.stderr
    assert prober.failures == []
    now = assert_only_nginx()
    assert now["Id"] == before["Id"]
    assert now["State"]["StartedAt"] == before["State"]["StartedAt"]


def test_killed_replacement_of_nginx_is_finished_by_the_next_run(
    host, other_nginx, apply_nginx, inspect, assert_only_nginx, reader
):
    """An open connection keeps the old nginx running while the temporary nginx gets the new connections."""
    idle, image, before = reader(), other_nginx(), inspect()["nginx"]["Id"]
    with Prober(reader) as prober, contextlib.closing(idle):
        assert idle.request("/").status == 200
        host.check_output("nohup slipway nginx apply > /dev/null 2>&1 &")
        wait_until(lambda: host.run(REDIRECT).rc == 0, 60, "new connections go to the temporary nginx")
        host.check_output("systemctl kill --signal=KILL 'slipway-nginx-*'")
        wait_until(lambda: host.run("pgrep --full '[n]ginx apply'").rc == 1, 5, "the replacement is killed")
        assert host.run(REDIRECT).rc == 0
        assert {"nginx", "nginx_temporary"} < inspect().keys()
        assert inspect()["nginx"]["Id"] == before
        served = prober.answered
        wait_until(lambda: prober.answered > served + 50, 20, "readers are still served")
        idle.close()
        assert apply_nginx() == ["recover", "replace"]
    assert prober.failures == []
    assert assert_only_nginx()["Image"] == image


def test_replacement_of_nginx_is_refused_during_a_release(host, other_nginx, inspect):
    """Another process holds the lock, as a release does."""
    before = inspect()
    other_nginx()
    held = "echo 'a test' > /run/slipway/lock && flock --nonblock /run/slipway/lock slipway nginx apply"
    done = host.run(held)
    assert done.rc == 1
    assert "Another operation is under way: a test." in done.stderr
    assert {name: c["Id"] for name, c in inspect().items()} == {name: c["Id"] for name, c in before.items()}


def test_dry_run_reports_that_nginx_would_be_replaced(deploy, inspect, limits):
    before = inspect()["nginx"]["Id"]
    larger = json.dumps({"stack_nginx_memory_mb": limits()["nginx"]["memory_mb"] + 1})
    outcome = deploy("site.yml", "--check", "--tags", "stack", "--extra-vars", larger)
    assert outcome.status == 0, outcome.output
    _, _, told = outcome.output.partition(
        "TASK [slipway.blog.stack : Start | Apply changes of nginx without losing a request]"
    )
    assert told.splitlines()[1].startswith("changed: ")
    assert inspect()["nginx"]["Id"] == before
