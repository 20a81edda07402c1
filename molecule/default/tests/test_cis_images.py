"""Check the images against section 4 of the CIS Docker Benchmark."""

import pytest
from cis import each_service

# A check must fail if cis.yml lists it, and must pass otherwise.
pytestmark = pytest.mark.usefixtures("expected_failures")


@each_service
def test_4_1_image_runs_as_an_unprivileged_user(inspect_image, service):
    uid, _, gid = inspect_image(service)["Config"]["User"].partition(":")
    assert int(uid) > 0
    assert int(gid) > 0


@each_service
def test_4_3_image_has_no_unnecessary_packages(run_in_image, service):
    needless = "sudo ssh sshd curl wget nc cc make git pip pip3"
    assert run_in_image(service, f"for p in {needless}; do command -v $p; done; true") == ""
    files = "/var/lib/apt/lists /var/cache/apt /root/.cache /tmp /var/tmp"
    assert run_in_image(service, f"find {files} -type f ! -name lock 2>/dev/null; true") == ""


def test_4_5_images_are_signed(host):
    assert host.environment().get("DOCKER_CONTENT_TRUST") == "1"


@each_service
def test_4_6_image_has_a_health_check(inspect_image, service):
    assert inspect_image(service)["Config"].get("Healthcheck")


@each_service
def test_4_8_image_has_no_setuid_or_setgid_file(run_in_image, service):
    assert run_in_image(service, "find / -xdev -type f -perm /6000") == ""


@each_service
def test_4_9_image_is_built_without_add(docker, running, service):
    steps = docker("history --no-trunc --format '{{.CreatedBy}}' %s", running[service]["Image"]).splitlines()
    assert any(step.startswith("COPY ") for step in steps)
    assert not any(step.startswith("ADD ") for step in steps)


@each_service
def test_4_10_image_contains_no_secret(docker, run_in_image, running, secrets, service):
    shown = docker("history --no-trunc %s", running[service]["Image"])
    assert secrets.named_in(shown) == []
    keys = (
        r"find / -xdev ( -name '*.key' -o -name 'id_*' -o -name '*_key' -o -path '/run/secrets/*' ) -type f"
    )
    assert run_in_image(service, keys.replace("(", r"\(").replace(")", r"\)")) == ""
