"""Test HTTPS as readers get it, and the certificate's files on the host."""

import http.client
import json
import re
import socket
import ssl
import subprocess

import pytest
from outside import ROOT, Prober, Reader

SSLYZE = ROOT / ".venv/audit/bin/sslyze"
LOOK = "openssl s_client -connect 127.0.0.1:443"

pytestmark = pytest.mark.usefixtures("requires_https")

# --- HTTPS from outside -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority_file(host, tmp_path_factory):
    """Write the certificate of the host's own CA to a local file, and return the file's path."""
    file = tmp_path_factory.mktemp("tls") / "ca.pem"
    file.write_text(host.file("/etc/slipway/ca/ca.pem").content_string)
    return file


def test_certificate_has_each_name_of_the_blog(shown_certificate, trust, all_names):
    for name in all_names:
        assert [value for _, value in shown_certificate(trust, name)["subjectAltName"]] == all_names


def test_tls_settings_comply_with_mozillas_intermediate_set(base_url, authority_file):
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


def test_old_tls_versions_are_refused(host, base_url):
    ask = f"{LOOK} -servername {base_url.hostname} -cipher DEFAULT@SECLEVEL=0"
    for version in ("-tls1", "-tls1_1"):
        assert "alert protocol version" in host.run(f"{ask} {version} </dev/null").stderr
    assert host.run(f"{ask} -tls1_2 </dev/null").rc == 0


def test_key_exchange_is_post_quantum(host, base_url):
    told = host.check_output(f"{LOOK} -servername {base_url.hostname} </dev/null 2>&1")
    assert "Negotiated TLS1.3 group: X25519MLKEM768" in told


def test_http_2_is_offered(base_url, trust):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    plain = socket.create_connection(("127.0.0.1", base_url.port), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname=base_url.hostname) as connection:
        assert connection.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1"])
def test_unknown_name_gets_no_handshake(shown_certificate, name):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        shown_certificate(context, name)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/nosuch", 404), ("/errors/errors.css", 200), ("/media/nosuch", 404), ("/author/", 302)],
)
def test_answer_has_hsts(get, variables, path, status):
    answer = get(path)
    assert answer.status == status
    assert answer.headers["strict-transport-security"] == f"max-age={variables['tls_hsts_seconds']}"


def test_static_file_has_hsts(get):
    [path] = re.findall(r'"(/static/style\.[^"]+\.css)"', get("/").text)
    assert get(path).headers["strict-transport-security"].startswith("max-age=")


@pytest.fixture
def plain(variables):
    """Send a request over plain HTTP, as a browser does when a user types a name."""
    port = variables["sandbox_http_port"]

    def ask(name, path, **request):
        reader = Reader("127.0.0.1", port, name)
        answer = reader.request(path, **request)
        reader.close()
        return answer

    return ask


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_plain_http_redirects_each_name_to_https(plain, all_names, variables, method):
    for name in all_names:
        answer = plain(name, "/posts/a%20b?c=d%2Fe", method=method)
        assert answer.status == 308
        assert answer.headers["location"] == f"{variables['stack_base_url']}/posts/a%20b?c=d%2Fe"
        assert "strict-transport-security" not in answer.headers


def test_plain_http_gives_an_unknown_name_no_answer(plain):
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        plain("evil.example", "/")


def test_redirected_name_is_redirected_over_https_too(base_url, variables, trust):
    for name in variables["stack_domain_redirects"]:
        reader = Reader("127.0.0.1", base_url.port, name, trust)
        answer = reader.request("/tags/?page=2")
        reader.close()
        assert answer.status == 308
        assert answer.headers["location"] == f"{variables['stack_base_url']}/tags/?page=2"
        assert answer.headers["strict-transport-security"].startswith("max-age=")


# --- On the host --------------------------------------------------------------------------------------------


def test_only_nginx_can_read_the_key(host, containers):
    file = host.file("/etc/slipway/tls/blog.pem")
    assert (file.uid, file.gid, file.mode) == (101, 101, 0o400)
    assert host.file("/etc/slipway/ca/ca.key").mode == 0o600
    assert host.file("/etc/slipway/ca").mode == 0o700
    assert host.run("docker exec %s touch /etc/slipway/tls/mark", containers["nginx"]["Id"]).rc == 1


def test_certificate_is_checked_by_a_timer(host):
    assert host.service("slipway-tls.timer").is_enabled
    assert host.service("slipway-tls.timer").is_running
    host.check_output("systemctl start slipway-tls.service")


def test_status_shows_the_certificate(host, base_url, all_names):
    told = host.check_output("slipway status")
    assert re.search(rf"^tls +{re.escape(', '.join(all_names))}$", told, re.MULTILINE)
    certificate = json.loads(host.check_output("slipway status --json"))["certificate"]
    assert certificate["names"] == all_names
    assert 30 < certificate["days_left"] <= 90


def test_reload_with_a_broken_configuration_changes_nothing(host, reader):
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


def test_no_request_fails_during_reloads_of_nginx(host, reader, containers):
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
