"""HTTPS from outside, and the ways in which the host gets its certificate."""

import http.client
import json
import re
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml
from certificates import make_certificate
from outside import ROOT, Prober, Reader, wait_until

SSLYZE = ROOT / ".venv/audit/bin/sslyze"
AUTHORITY = "slipway-test-pebble"
LOOK = "openssl s_client -connect 127.0.0.1:443"


@pytest.fixture(scope="module", autouse=True)
def https(base_url):
    """Skip these tests on hosts without TLS."""
    if base_url.scheme != "https":
        pytest.skip("this host has tls_mode: off")


@pytest.fixture(scope="module")
def names(variables):
    """All names of the blog: those that it serves, and those that it redirects."""
    served = [variables["stack_domain"], *variables["stack_domain_aliases"]]
    return served + variables["stack_domain_redirects"]


@pytest.fixture(scope="module")
def shown(base_url):
    """Return the certificate that the blog shows for a name, verified with a TLS context."""

    def shown(trust, name=base_url.hostname):
        with (
            socket.create_connection(("127.0.0.1", base_url.port), timeout=10) as plain,
            trust.wrap_socket(plain, server_hostname=name) as connection,
        ):
            return connection.getpeercert()

    return shown


# --- From outside -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority_file(host, tmp_path_factory):
    """The certificate of the host's own CA, as a local file."""
    file = tmp_path_factory.mktemp("tls") / "ca.pem"
    file.write_text(host.file("/etc/slipway/ca/ca.pem").content_string)
    return file


def test_certificate_is_for_each_name_of_the_blog(shown, trust, names):
    for name in names:
        assert [value for _, value in shown(trust, name)["subjectAltName"]] == names


def test_mozilla_s_intermediate_set_is_kept(base_url, authority_file):
    done = subprocess.run(
        [
            SSLYZE,
            "--mozilla_config=intermediate",
            f"--certinfo_ca_file={authority_file}",
            f"{base_url.hostname}:{base_url.port}{{127.0.0.1}}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "Compliant" in done.stdout


def test_old_protocol_is_refused(host, base_url):
    ask = f"{LOOK} -servername {base_url.hostname} -cipher DEFAULT@SECLEVEL=0"
    for version in ("-tls1", "-tls1_1"):
        assert "alert protocol version" in host.run(f"{ask} {version} </dev/null").stderr
    assert host.run(f"{ask} -tls1_2 </dev/null").rc == 0


def test_key_exchange_outlives_a_quantum_computer(host, base_url):
    told = host.check_output(f"{LOOK} -servername {base_url.hostname} </dev/null 2>&1")
    assert "Negotiated TLS1.3 group: X25519MLKEM768" in told


def test_http_2_is_spoken(base_url, trust):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    plain = socket.create_connection(("127.0.0.1", base_url.port), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname=base_url.hostname) as connection:
        assert connection.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1"])
def test_unknown_name_gets_no_handshake(shown, name):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        shown(context, name)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/nosuch", 404), ("/errors/errors.css", 200), ("/media/nosuch", 404), ("/author/", 302)],
)
def test_browsers_are_told_to_keep_to_https(get, variables, path, status):
    answer = get(path)
    assert answer.status == status
    assert answer.headers["strict-transport-security"] == f"max-age={variables['tls_hsts_seconds']}"


def test_static_file_tells_it_too(get):
    [path] = re.findall(r'"(/static/style\.[^"]+\.css)"', get("/").text)
    assert get(path).headers["strict-transport-security"].startswith("max-age=")


@pytest.fixture
def plain(variables):
    """Request over plain HTTP, as after a user types a name."""
    port = variables["sandbox_http_port"]

    def ask(name, path, **request):
        reader = Reader("127.0.0.1", port, name)
        answer = reader.request(path, **request)
        reader.close()
        return answer

    return ask


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_plain_http_sends_everyone_on(plain, names, variables, method):
    for name in names:
        answer = plain(name, "/posts/a%20b?c=d%2Fe", method=method)
        assert answer.status == 308
        assert answer.headers["location"] == f"{variables['stack_base_url']}/posts/a%20b?c=d%2Fe"
        assert "strict-transport-security" not in answer.headers


def test_plain_http_has_no_answer_for_a_stranger(plain):
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        plain("evil.example", "/")


def test_name_that_is_sent_on_is_sent_over_https_too(base_url, variables, trust):
    for name in variables["stack_domain_redirects"]:
        reader = Reader("127.0.0.1", base_url.port, name, trust)
        answer = reader.request("/tags/?page=2")
        reader.close()
        assert answer.status == 308
        assert answer.headers["location"] == f"{variables['stack_base_url']}/tags/?page=2"
        assert answer.headers["strict-transport-security"].startswith("max-age=")


# --- On the host --------------------------------------------------------------------------------------------


def test_key_is_for_nginx_alone(host, containers):
    file = host.file("/etc/slipway/tls/blog.pem")
    assert (file.uid, file.gid, file.mode) == (101, 101, 0o400)
    assert host.file("/etc/slipway/ca/ca.key").mode == 0o600
    assert host.file("/etc/slipway/ca").mode == 0o700
    assert host.run("docker exec %s touch /etc/slipway/tls/mark", containers["nginx"]["Id"]).rc == 1


def test_certificate_is_looked_at_every_day(host):
    assert host.service("slipway-tls.timer").is_enabled
    assert host.service("slipway-tls.timer").is_running
    host.check_output("systemctl start slipway-tls.service")


def test_status_tells_of_the_certificate(host, base_url, names):
    told = host.check_output("slipway status")
    assert re.search(rf"^tls +{re.escape(', '.join(names))}$", told, re.MULTILINE)
    certificate = json.loads(host.check_output("slipway status --json"))["certificate"]
    assert certificate["names"] == names
    assert 30 < certificate["days_left"] <= 90


def test_reload_with_a_bad_configuration_changes_nothing(host, reader):
    spoiled = "/opt/slipway/nginx/spoiled.conf"
    host.check_output("echo 'spoiled;' > %s", spoiled)
    try:
        with Prober(reader) as prober:
            done = host.run("slipway nginx reload")
    finally:
        host.check_output("rm %s", spoiled)
    assert done.rc == 1
    assert 'unknown directive "spoiled"' in done.stderr
    assert prober.failures == []


def test_reload_is_not_noticed(host, reader, containers):
    nginx = containers["nginx"]["Id"]
    workers = f"docker top {nginx} -o pid,args | grep 'worker process$'"
    before = host.check_output(workers)
    with Prober(reader, readers=6) as prober:
        for _ in range(3):
            host.check_output("slipway nginx reload")
    assert prober.failures == []
    assert prober.answered > 100
    assert not set(before.splitlines()) & set(host.check_output(workers).splitlines())
    assert host.check_output("ls /var/lib/slipway/slot") in ("", "green")


# --- tls_mode: provided -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def as_before(deploy, host, trust, shown):
    """Restore the host's own certificate after these tests."""
    yield
    done = deploy("playbooks/deploy.yml", "--tags", "tls")
    assert done.status == 0, done.output
    assert shown(trust)
    host.check_output(
        "rm -rf /etc/letsencrypt /etc/slipway/acme-ca.pem /etc/systemd/system/certbot.service.d"
    )


@pytest.fixture(scope="module")
def use(deploy, names, as_before):
    """Run the part of the play for the certificate, with a tls_mode and other variables."""

    def use(mode, *arguments, **variables):
        variables = {f"tls_{name}": value for name, value in ({"mode": mode} | variables).items()}
        return deploy("playbooks/deploy.yml", "--tags", "tls", "-e", json.dumps(variables), *arguments)

    return use


def test_certificate_of_yours_is_shown_and_its_key_is_not(use, shown, names, tmp_path, reader):
    certificate, key = make_certificate(tmp_path, names)
    secret = key.read_text().splitlines()[1]
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    vault = ["--vault-password-file", str(password)]
    subprocess.run(["ansible-vault", "encrypt", *vault, str(key)], check=True, capture_output=True)

    files = {"certificate_file": str(certificate), "key_file": str(key)}
    done = use("provided", "-vvv", "--diff", *vault, **files)
    assert done.status == 0, done.output
    assert secret not in done.output
    assert shown(ssl.create_default_context(cafile=certificate))
    again = use("provided", *vault, **files)
    assert set(again.changed.values()) == {0}, again.output


# --- tls_mode: acme -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(machine, names, tmp_path_factory):
    """A CA on the host's network: a TLS context that trusts its root, and the play's variables for it."""
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
        *(f"--add-host={name}:{machine.ipv4}" for name in names),
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
def issued(use, authority):
    """Get a certificate from the CA for the blog, and return the outcome of the play."""
    _, variables = authority
    done = use("acme", **variables)
    assert done.status == 0, done.output
    return done


@pytest.fixture
def acme_reader(issued, authority, base_url, site):
    """Make a Reader that trusts only the CA of these tests."""
    trust, _ = authority
    return lambda: Reader("127.0.0.1", base_url.port, site, trust)


CERTBOT = (
    "REQUESTS_CA_BUNDLE=/etc/slipway/acme-ca.pem certbot renew --force-renewal --no-random-sleep-on-renew"
)


def test_authority_s_certificate_is_shown(issued, authority, shown, names):
    trust, _ = authority
    certificate = shown(trust)
    assert sorted(value for _, value in certificate["subjectAltName"]) == sorted(names)
    assert "Pebble" in str(certificate["issuer"])


def test_second_run_asks_for_nothing(issued, use, authority, shown):
    trust, variables = authority
    before = shown(trust)
    done = use("acme", **variables)
    assert set(done.changed.values()) == {0}, done.output
    assert shown(trust) == before


def test_renewal_is_in_service_at_once_and_not_noticed(host, acme_reader, authority, shown):
    trust, _ = authority
    before = shown(trust)["serialNumber"]
    with Prober(acme_reader, readers=6) as prober:
        host.check_output(CERTBOT)
        assert shown(trust)["serialNumber"] != before
    assert prober.failures == []
    assert prober.answered > 100


def test_timer_of_certbot_renews_and_knows_the_authority(issued, host):
    assert host.service("certbot.timer").is_enabled
    environment = host.check_output("systemctl show certbot.service --property=Environment --value")
    assert "REQUESTS_CA_BUNDLE=/etc/slipway/acme-ca.pem" in environment
    host.check_output("systemctl start slipway-tls.service")


def test_renewal_that_fails_leaves_what_serves(issued, host, authority, shown, get_acme):
    trust, _ = authority
    before = shown(trust)
    host.check_output("chmod 0700 /var/lib/slipway/acme")
    try:
        done = host.run(CERTBOT)
    finally:
        host.check_output("chmod 0755 /var/lib/slipway/acme")
    assert done.rc == 1
    assert "Some challenges have failed" in done.stdout + done.stderr
    assert shown(trust) == before
    assert get_acme("/").status == 200


def test_name_that_leads_elsewhere_is_told(issued, use, names, authority, shown, get_acme):
    trust, variables = authority
    before = shown(trust)
    done = use("acme", names=[*names, "elsewhere.test"], **variables)
    assert done.status == 2
    [message] = done.errors
    for words in (
        f"https://{AUTHORITY}:14000/dir gave no certificate for",
        "elsewhere.test",
        "What served before goes on to serve",
        "A and AAAA records",
        "port 80",
        "tls_acme_staging",
    ):
        assert words in message
    assert shown(trust) == before
    assert get_acme("/").status == 200


@pytest.fixture
def get_acme(acme_reader):
    """Request a page of the blog, and trust only the CA of these tests."""
    one = acme_reader()
    yield one.request
    one.close()


# --- tls_mode: off ------------------------------------------------------------------------------------------


def test_off_renews_nothing_any_more(issued, use, host):
    """The last certificate stays, and so does the host's CA, which browsers may trust."""
    units = "systemctl list-unit-files --no-legend 'slipway-tls.*'"
    lineages = "ls /etc/letsencrypt/renewal /etc/letsencrypt/live | grep slipway-"
    assert len(host.run(units).stdout.splitlines()) == 2
    assert host.run(lineages).rc == 0
    done = use("off")
    assert done.status == 0, done.output
    assert host.run(units).stdout == ""
    assert host.run(lineages).stdout == ""
    assert not host.file("/etc/slipway/tls.json").exists
    for file in ("/etc/slipway/tls/blog.pem", "/etc/slipway/ca/ca.key"):
        assert host.file(file).exists
    assert "slipway" not in host.check_output("systemctl show certbot.service --property=Environment")
    assert set(use("off").changed.values()) == {0}
