"""playbooks/status.yml reports the release, who released it and when, and every difference."""

import json
import re

import pytest

KEPT = "/run/slipway-test"
CHANGED = {
    "nginx": "/opt/slipway/nginx/blog.conf",
    "journal": "/etc/systemd/journald.conf.d/slipway.conf",
    "compose": "/opt/slipway/compose.yml",
    "slots": "/var/lib/slipway/slots.env",
}


@pytest.fixture
def report(deploy):
    """Run the playbook. Return a function that takes a label, such as `drift`.

    That function returns the text after the label, for each line that begins with the label.
    """

    def report(*arguments):
        # In YAML, Ansible would fold long lines.
        done = deploy("playbooks/status.yml", *arguments, ANSIBLE_CALLBACK_RESULT_FORMAT="json")
        assert done.status == 0, done.output
        assert set(done.changed.values()) == {0}, done.output
        [told] = re.findall(r'"msg": (\[.*?\])\n', done.output, re.DOTALL)
        lines = [line.split(None, 1) for line in json.loads(told)]
        return lambda word: [rest for first, rest in lines if first == word]

    return report


def assert_no_difference(told, entry, containers, host):
    """Assert that the report lists no difference, and that its other lines are correct."""
    assert told("drift") == ["none"]
    assert told("checkout") == []
    assert told("changed") == []
    assert told("release") == [f"{entry['id']} ({entry['version']}, {entry['revision']})"]
    assert told("since") == [f"{entry['at']} by {entry['by']}"]
    assert told("image") == [entry["image"]]
    assert told("slot") == [entry["slot"]]
    assert told("maintenance") == ["off"]
    assert told("pending") == []
    assert told("firewall") == []
    [url] = told("url")
    assert told("outside") == [f"{url}/ answers"]
    states = {service: " ".join(told(service)[0].split()) for service in containers}
    assert states == dict.fromkeys(["nginx", "db", f"flask_blog_{entry['slot']}"], "running healthy")
    free = int(
        host.check_output("df --block-size=MB --output=avail /var/lib/slipway | tr --delete --complement 0-9")
    )
    assert int(told("disk")[0].split()[0]) == pytest.approx(free, rel=0.05)
    end = host.check_output("openssl x509 -in /etc/slipway/tls/blog.pem -noout -enddate -dateopt iso_8601")
    assert told("until")[0].startswith(end.removeprefix("notAfter=").split()[0])


def test_status_reports_each_difference(report, host, docker, variant, inspect, in_service, healthy, deploy):
    # Earlier tests may have left files that differ from the record; site.yml restores them.
    assert deploy("site.yml").status == 0
    slot = in_service["slot"]
    before = inspect()
    assert_no_difference(report(), in_service, before, host)

    other = variant()
    host.check_output("mkdir %s", KEPT)
    for name, file in CHANGED.items():
        host.check_output("cp --preserve %s %s/%s", file, KEPT, name)
    try:
        host.check_output(
            f"cd /opt/slipway && {slot.upper()}_IMAGE={other} docker compose up --detach flask_blog_{slot}"
        )
        host.check_output("echo '# by hand' >> %s && rm %s", CHANGED["nginx"], CHANGED["journal"])
        host.check_output("sed -i 's/stop_grace_period: 35s/stop_grace_period: 36s/' %s", CHANGED["compose"])
        host.check_output("sed -i 's/^COMPOSE_PROFILES=.*/COMPOSE_PROFILES=blue,green/' %s", CHANGED["slots"])
        host.check_output(
            f"echo {'BLUE' if slot == 'green' else 'GREEN'}_IMAGE={other} >> {CHANGED['slots']}"
        )
        docker("stop %s", before["db"]["Id"])
        ids = {
            "nginx": before["nginx"]["Image"],
            "db": before["db"]["Image"],
            "flask_blog": f"sha256:{'0' * 64}",
        }
        told = report("--extra-vars", json.dumps({"images_ids": ids}))
    finally:
        for name, file in CHANGED.items():
            host.check_output("mv %s/%s %s", KEPT, name, file)
        host.check_output("rmdir %s && cd /opt/slipway && docker compose up --detach", KEPT)
    assert told("drift") == [
        f"The {slot} slot runs {other}, but the ledger has {in_service['image']}.",
        f"The configuration of the {slot} slot differs from compose.yml: run site.yml.",
        f"slots.env lists blue, green, but the {slot} slot serves: run site.yml.",
    ]
    assert told("checkout") == [
        "defines a different image of the blog from the one in service: "
        "`ansible-playbook playbooks/deploy.yml` releases it, unless it is blocked",
    ]
    assert told("changed") == [
        f"{CHANGED[name]} since site.yml wrote it: see `ansible-playbook site.yml --check --diff`"
        for name in ("journal", "compose", "nginx")
    ]
    assert told("db")[0].split() == ["exited"]
    assert told("image") == [in_service["image"]]

    after = healthy()
    assert_no_difference(report(), in_service, after, host)


@pytest.mark.drill
def test_status_reports_a_lost_record_and_site_yml_writes_it_again(report, host, deploy):
    record = "/var/lib/slipway/files.json"
    before = json.loads(host.file(record).content_string)
    host.check_output("rm %s", record)
    assert report()("changed") == [
        "/var/lib/slipway/files.json is missing or damaged: run site.yml, which writes it again"
    ]
    assert deploy("site.yml").status == 0
    assert report()("changed") == []
    assert json.loads(host.file(record).content_string).keys() == before.keys()


# --- A page from outside ------------------------------------------------------------------------------------

# Nothing listens on this port of the machine that runs the tests.
NOWHERE = ("--extra-vars", "release_outside_address=127.0.0.1:1")


@pytest.mark.drill
def test_run_fails_if_the_control_node_gets_no_page(deploy, variables):
    done = deploy("playbooks/deploy.yml", "--tags", "release", *NOWHERE)
    assert done.status == 2, done.output
    message, url = done.errors[-1], variables["stack_base_url"]
    assert "The run is complete, but readers may not reach the blog" in message
    assert f"{url}/ cannot be reached at 127.0.0.1, port 1: [Errno 111] Connection refused." in message
    assert "The host itself serves the page at 127.0.0.1" in message
    assert "release_outside_check: false" in message


def test_request_from_outside_can_be_turned_off(deploy, hostname):
    off = ("--extra-vars", "release_outside_check=false")
    done = deploy("playbooks/deploy.yml", "--tags", "release", *NOWHERE, *off)
    assert done.status == 0, done.output
    assert done.changed == {hostname: 0}


def test_status_reports_that_the_control_node_gets_no_page(report, variables):
    [told] = report(*NOWHERE)("outside")
    assert told.startswith(f"{variables['stack_base_url']}/ cannot be reached at 127.0.0.1, port 1: ")


def test_run_expects_the_maintenance_page_during_maintenance(deploy, report, hostname):
    assert deploy("playbooks/maintenance.yml", "--extra-vars=maintenance=on").changed == {hostname: 1}
    try:
        done = deploy("playbooks/deploy.yml", "--tags", "release")
        assert done.status == 0, done.output
        assert report()("maintenance")[0].startswith("ON")
        assert report()("outside")[0].endswith("/ answers")
    finally:
        assert deploy("playbooks/maintenance.yml", "--extra-vars=maintenance=off").changed == {hostname: 1}
