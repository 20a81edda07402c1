"""Test tls_mode: provided, acme and off. The other modules run with tls_mode: selfsigned."""

import json
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml
from certificates import make_certificate
from outside import ROOT, Prober, Reader, wait_until

AUTHORITY = "slipway-test-pebble"

pytestmark = pytest.mark.usefixtures("requires_https")

# --- tls_mode: provided -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restored_certificate(deploy, host, trust, shown_certificate):
    """Restore the host's own certificate after these tests."""
    yield
    done = deploy("playbooks/deploy.yml", "--tags", "tls")
    assert done.status == 0, done.output
    assert shown_certificate(trust)
    assert not host.file("/etc/slipway/acme-ca.pem").exists
    assert not host.file("/etc/systemd/system/certbot.service.d/slipway.conf").exists
    host.check_output("rm -r /etc/letsencrypt")


@pytest.fixture(scope="module")
def run_tls_role(deploy, all_names, restored_certificate):
    """Run deploy.yml with `--tags tls`, and set tls_mode and other variables of the role `tls`."""

    def run_tls_role(mode, *arguments, **variables):
        variables = {f"tls_{name}": value for name, value in ({"mode": mode} | variables).items()}
        return deploy("playbooks/deploy.yml", "--tags", "tls", "-e", json.dumps(variables), *arguments)

    return run_tls_role


def test_provided_certificate_is_used_and_its_key_is_not_printed(
    run_tls_role, shown_certificate, all_names, tmp_path, reader
):
    certificate, key = make_certificate(tmp_path, all_names)
    secret = key.read_text().splitlines()[1]
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    vault = ["--vault-password-file", str(password)]
    subprocess.run(["ansible-vault", "encrypt", *vault, str(key)], check=True, capture_output=True)

    files = {"certificate_file": str(certificate), "key_file": str(key)}
    done = run_tls_role("provided", "-vvv", "--diff", *vault, **files)
    assert done.status == 0, done.output
    assert secret not in done.output
    assert shown_certificate(ssl.create_default_context(cafile=certificate))
    again = run_tls_role("provided", *vault, **files)
    assert set(again.changed.values()) == {0}, again.output


# --- tls_mode: acme -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def acme_ca(machine, all_names, tmp_path_factory):
    """Start a CA on the host's network.

    Yield a TLS context that trusts the CA's root, and the variables with which the play uses the CA.
    """
    place = tmp_path_factory.mktemp("pebble")
    certificate, _ = make_certificate(place, [AUTHORITY])
    place.chmod(0o755)
    base = yaml.safe_load((ROOT / "roles/sandbox/vars/main.yml").read_text())["__sandbox_base_image"]

    def docker(*arguments):
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout

    source = str(Path(__file__).with_name("pebble"))
    docker("build", "--build-arg", f"BASE_IMAGE={base}", "--tag", "slipway/pebble", source)
    docker(
        *("create", "--name", AUTHORITY, "--label", "slipway.test", "--network", "slipway-sandbox"),
        *(f"--add-host={name}:{machine.ipv4}" for name in all_names),
        "slipway/pebble",
    )
    try:
        docker("cp", f"{place}/.", f"{AUTHORITY}:/etc/pebble")
        docker("start", AUTHORITY)
        [inspected] = json.loads(docker("inspect", AUTHORITY))
        address = inspected["NetworkSettings"]["Networks"]["slipway-sandbox"]["IPAddress"]
        manager = Reader(address, 15000, AUTHORITY, ssl.create_default_context(cafile=certificate))

        def root():
            try:
                return manager.request("/roots/0").text
            except OSError:
                manager.close()
                return None

        trust = ssl.create_default_context(cadata=wait_until(root, 20, "the authority answers"))
        manager.close()
        yield (
            trust,
            {
                "acme_directory": f"https://{AUTHORITY}:14000/dir",
                "acme_ca_file": str(certificate),
                "check_dns": False,
            },
        )
    finally:
        docker("rm", "--force", AUTHORITY)


@pytest.fixture(scope="module")
def issued(run_tls_role, acme_ca):
    """Get a certificate for the blog from the CA, and return the Outcome of the play."""
    _, variables = acme_ca
    done = run_tls_role("acme", **variables)
    assert done.status == 0, done.output
    return done


@pytest.fixture
def acme_reader(issued, acme_ca, base_url, site):
    """Make a Reader that trusts only the CA of these tests."""
    trust, _ = acme_ca
    return lambda: Reader("127.0.0.1", base_url.port, site, trust)


CERTBOT = (
    "REQUESTS_CA_BUNDLE=/etc/slipway/acme-ca.pem certbot renew --force-renewal --no-random-sleep-on-renew"
)


def test_certificate_of_the_acme_ca_is_used(issued, acme_ca, shown_certificate, all_names):
    trust, _ = acme_ca
    certificate = shown_certificate(trust)
    assert sorted(value for _, value in certificate["subjectAltName"]) == sorted(all_names)
    assert "Pebble" in str(certificate["issuer"])


def test_second_run_requests_no_certificate(issued, run_tls_role, acme_ca, shown_certificate):
    trust, variables = acme_ca
    before = shown_certificate(trust)
    done = run_tls_role("acme", **variables)
    assert set(done.changed.values()) == {0}, done.output
    assert shown_certificate(trust) == before


def test_renewed_certificate_is_used_at_once_and_no_request_fails(
    host, acme_reader, acme_ca, shown_certificate
):
    trust, _ = acme_ca
    before = shown_certificate(trust)["serialNumber"]
    with Prober(acme_reader, readers=6) as prober:
        host.check_output(CERTBOT)
        assert shown_certificate(trust)["serialNumber"] != before
    assert prober.failures == []
    assert prober.answered > 100


def test_timer_of_certbot_is_enabled_and_trusts_the_ca(issued, host):
    assert host.service("certbot.timer").is_enabled
    environment = host.check_output("systemctl show certbot.service --property=Environment --value")
    assert "REQUESTS_CA_BUNDLE=/etc/slipway/acme-ca.pem" in environment
    host.check_output("systemctl start slipway-tls.service")


def test_failed_renewal_keeps_the_old_certificate(issued, host, acme_ca, shown_certificate, get_with_acme_ca):
    trust, _ = acme_ca
    before = shown_certificate(trust)
    host.check_output("chmod 0700 /var/lib/slipway/acme")
    try:
        done = host.run(CERTBOT)
    finally:
        host.check_output("chmod 0755 /var/lib/slipway/acme")
    assert done.rc == 1
    assert "Some challenges have failed" in done.stdout + done.stderr
    assert shown_certificate(trust) == before
    assert get_with_acme_ca("/").status == 200


def test_name_whose_dns_records_do_not_lead_to_the_host_is_reported(
    issued, run_tls_role, all_names, acme_ca, shown_certificate, get_with_acme_ca
):
    trust, variables = acme_ca
    before = shown_certificate(trust)
    done = run_tls_role("acme", names=[*all_names, "elsewhere.test"], **variables)
    assert done.status == 2
    [message] = done.errors
    for words in (
        f"https://{AUTHORITY}:14000/dir issued no certificate for",
        "elsewhere.test",
        "The previous certificate stays in use",
        "A and AAAA records",
        "port 80",
        "tls_acme_staging",
    ):
        assert words in message
    assert shown_certificate(trust) == before
    assert get_with_acme_ca("/").status == 200


@pytest.fixture
def get_with_acme_ca(acme_reader):
    """Request a page of the blog over a connection that trusts only the CA of these tests."""
    one = acme_reader()
    yield one.request
    one.close()


# --- tls_mode: off ------------------------------------------------------------------------------------------


def test_tls_mode_off_ends_all_renewals(issued, run_tls_role, host):
    """The last certificate stays, and so does the host's own CA, which browsers may trust."""
    units = "systemctl list-unit-files --no-legend 'slipway-tls.*'"
    lineages = "ls /etc/letsencrypt/renewal /etc/letsencrypt/live | grep slipway-"
    assert len(host.run(units).stdout.splitlines()) == 2
    assert host.run(lineages).rc == 0
    done = run_tls_role("off")
    assert done.status == 0, done.output
    assert host.run(units).stdout == ""
    assert host.run(lineages).stdout == ""
    assert not host.file("/etc/slipway/tls.json").exists
    for file in ("/etc/slipway/tls/blog.pem", "/etc/slipway/ca/ca.key"):
        assert host.file(file).exists
    assert "slipway" not in host.check_output("systemctl show certbot.service --property=Environment")
    assert set(run_tls_role("off").changed.values()) == {0}
