"""If a file that `slipway` reads is missing or damaged, a message names the file. The blog keeps running."""

import json

import pytest

KEPT = "/run/slipway-test-kept"
CERTIFICATE = "/etc/slipway/tls/blog.pem"
# Write a certificate whose issuer has no common name, and its key.
UNNAMED = f"""
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30 \\
        -subj '/O=An authority' -addext subjectAltName=DNS:blog.test \\
        -keyout {KEPT}.key -out {KEPT}.crt 2>/dev/null
    cat {KEPT}.key {KEPT}.crt > {CERTIFICATE}
    rm {KEPT}.key {KEPT}.crt
"""


@pytest.fixture
def damage(host):
    """Keep a file of the host, and run a command that damages it. After the test, restore the file."""
    kept = []

    def damage(path, command):
        host.check_output("cp --archive %s %s", path, KEPT)
        kept.append(path)
        host.check_output(command)

    yield damage
    for path in kept:
        host.check_output("rm --force %s && mv %s %s", path, KEPT, path)


@pytest.mark.parametrize(
    ("path", "command", "says"),
    [
        (
            "/etc/slipway/secrets/app_secret_key",
            "rm /etc/slipway/secrets/app_secret_key",
            "The secret /etc/slipway/secrets/app_secret_key is missing: run site.yml",
        ),
        (
            "/opt/slipway/release.json",
            "echo { > /opt/slipway/release.json",
            "/opt/slipway/release.json is broken",
        ),
        (
            "/var/lib/slipway/releases.json",
            """echo '[{"slot": "purple"}]' > /var/lib/slipway/releases.json""",
            "/var/lib/slipway/releases.json is broken",
        ),
        (
            "/opt/slipway/roles.sql",
            "rm /opt/slipway/roles.sql",
            "No such file or directory: /opt/slipway/roles.sql",
        ),
    ],
    ids=["secret", "configuration", "ledger", "roles"],
)
def test_missing_or_broken_file_is_reported_and_the_blog_keeps_running(
    host, damage, in_service, inspect, path, command, says
):
    before = {service: one["Id"] for service, one in inspect().items()}
    damage(path, command)
    done = host.run("slipway release %s", in_service["image"])
    told = done.stdout + done.stderr
    assert done.rc == 1
    assert says in told
    assert "Traceback" not in told
    assert {service: one["Id"] for service, one in inspect().items()} == before


@pytest.mark.drill
def test_rollback_works_with_a_certificate_of_an_unnamed_authority(
    host, damage, status, in_service, variant, deploy, ledger
):
    host.check_output("slipway release %s", variant())
    damage(CERTIFICATE, UNNAMED)
    assert status()["certificate"]["issuer"] == "An authority"
    done = deploy("playbooks/rollback.yml")
    assert done.status == 0, done.output
    assert ledger()[-1]["image"] == in_service["image"]


def test_status_reports_a_damaged_certificate(host, damage, status, in_service):
    damage(CERTIFICATE, f"echo damaged > {CERTIFICATE}")
    told = status()
    assert told["image"] == in_service["image"]
    [sentence] = told["drift"]
    assert sentence.startswith("The certificate cannot be read: run site.yml. ")


def test_deploy_of_an_unchanged_image_names_the_release_that_serves(
    host, deploy, hostname, in_service, inspect, ledger
):
    containers = inspect()
    ids = {service: containers[service]["Image"] for service in ("nginx", "db")}
    ids["flask_blog"] = in_service["image"]

    def with_version(version):
        extra = json.dumps({"images_ids": ids, "blog_version": version})
        # In YAML, Ansible would fold long lines.
        done = deploy(
            "playbooks/deploy.yml",
            *("--tags", "release", "--extra-vars", extra),
            ANSIBLE_CALLBACK_RESULT_FORMAT="json",
        )
        assert done.status == 0, done.output
        return done

    with_version("9.8")
    first = with_version("9.9")
    told = f"Nothing to release: {in_service['id']} (9.8) of {in_service['at']} already serves"
    assert told in first.output
    assert "Its version in the ledger becomes 9.9." in first.output
    assert first.changed == {hostname: 1}
    [entry] = [entry for entry in ledger() if entry["id"] == in_service["id"]]
    assert entry == in_service | {"version": "9.9"}
    second = with_version("9.9")
    assert f"Nothing to release: {in_service['id']} (9.9)" in second.output
    assert second.changed == {hostname: 0}
