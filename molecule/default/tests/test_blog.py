"""The blog as readers on another machine see it."""

import gzip
import http.client
import json
import re
import xml.etree.ElementTree as ET

import pytest
from outside import ROOT, wait_until

ATOM = {"atom": "http://www.w3.org/2005/Atom"}
POSTS = {"moving-a-boat": "Moving a boat with Pandoc", "ropes-a-table": "Ropes: a table"}


def test_imported_files_contain_the_expected_posts():
    files = "".join(file.read_text() for file in (ROOT / "app/tests/posts").glob("*.md"))
    assert all(title in files for title in POSTS.values())


def test_home_page_lists_the_posts(get):
    answer = get("/")
    assert answer.status == 200
    for slug, title in POSTS.items():
        assert re.search(rf'<a href="/posts/{slug}"[^>]*>\s*{title}\s*</a>', answer.text)


def test_post_is_rendered_with_headings_tables_and_code(get):
    page = get("/posts/ropes-a-table").text
    assert re.search(r"<h2[^>]*>(<a[^>]*>)?Which rope", page)
    assert re.search(r"<table>.*<td[^>]*>5</td>", page, re.DOTALL)
    assert '<span class="k">def</span>' in page


def test_feed_has_absolute_urls(get, variables):
    base = variables["stack_base_url"]
    answer = get("/feed.xml")
    assert answer.headers["content-type"].startswith("application/atom+xml")
    feed = ET.fromstring(answer.body)
    links = [link.get("href") for link in feed.iterfind(".//atom:link", ATOM)]
    assert {f"{base}/posts/{slug}" for slug in POSTS} <= set(links)
    assert [link for link in links if not link.startswith(f"{base}/")] == []


def test_security_txt_names_the_contact_form(get, variables):
    answer = get("/.well-known/security.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    fields = dict(line.split(": ", 1) for line in answer.text.splitlines())
    assert fields["Contact"] == f"{variables['stack_base_url']}/contact"
    assert fields["Canonical"] == f"{variables['stack_base_url']}/.well-known/security.txt"
    assert "Expires" in fields


def test_stylesheet_is_compressed_and_cached_forever(get):
    [path] = re.findall(r'<link[^>]*href="(/static/style\.[^"]+\.css)"', get("/").text)
    assert re.fullmatch(r"/static/style\.[0-9a-f]{8,}\.css", path)
    answer = get(path, Accept_Encoding="gzip")
    assert answer.headers["content-type"].startswith("text/css")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert gzip.decompress(answer.body) == get(path).body
    assert len(answer.body) < len(gzip.decompress(answer.body)) / 2


@pytest.fixture
def wait_for_log_lines(host, docker, containers):
    """Wait until a service has logged a request for a path since the test began, and return the log lines."""
    since = host.check_output("date +%s.%N")

    def lines(service, path):
        logs = docker("logs --since %s %s", since, containers[service]["Id"]).splitlines()
        parsed = [json.loads(line) for line in logs if line.startswith("{")]
        return [line for line in parsed if line.get("path") == path]

    return lambda service, path: wait_until(lambda: lines(service, path), 10, f"a line of {service}")


def test_nginx_serves_the_stylesheet_without_asking_the_slot(get, wait_for_log_lines):
    [path] = re.findall(r'"(/static/style\.[^"]+\.css)"', get("/").text)
    assert get(f"{path}?style").status == 200
    assert wait_for_log_lines("nginx", path)[-1]["upstream_addr"] == ""


@pytest.mark.parametrize("path", ["/", "/posts/moving-a-boat", "/feed.xml", "/nosuch"])
def test_pages_have_security_headers(get, path):
    headers = get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
    policy = headers["content-security-policy"]
    assert {"default-src 'self'", "frame-ancestors 'none'", "object-src 'none'"} <= set(policy.split("; "))
    assert "unsafe" not in policy
    assert headers["server"] == "nginx"
    assert "set-cookie" not in headers


def test_unchanged_page_is_answered_with_304(get):
    answer = get("/", If_None_Match=get("/").headers["etag"])
    assert answer.status == 304
    assert answer.body == b""


def test_head_request_gets_the_headers_without_a_body(get):
    answer, head = get("/"), get("/", method="HEAD")
    assert head.status == 200
    assert head.body == b""
    assert head.headers["content-type"] == answer.headers["content-type"]


@pytest.mark.parametrize("stranger", ["evil.example", "127.0.0.1.evil.example", "[::1]"])
def test_unknown_host_name_gets_no_answer(reader, stranger):
    one = reader()
    one.host = stranger
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        one.request("/")
    one.close()


def test_domain_alias_serves_the_blog(reader, variables):
    one = reader()
    [one.host] = variables["stack_domain_aliases"]
    assert one.request("/").status == 200
    one.close()


def test_unknown_path_gets_the_blogs_404_page(get):
    answer = get("/nosuch")
    assert answer.status == 404
    assert '<link rel="stylesheet" href="/static/style.' in answer.text
    assert 'href="/"' in answer.text


def test_healthz_is_public_and_readyz_is_not(get):
    health = get("/healthz")
    assert health.status == 200
    assert health.text == "ok\n"
    readiness = get("/readyz")
    assert readiness.status == 404
    assert "ready" not in readiness.text


def test_request_body_that_is_too_large_gets_an_error_page(get):
    answer = get("/", method="POST", body=bytes(11 * 2**20))
    assert answer.status == 413
    assert "That request did not go through" in answer.text


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_request_is_logged_once_by_nginx_and_once_by_the_blog_with_one_id(
    machine, reader, wait_for_log_lines, family
):
    path = f"/nosuch-over-{family}"
    one = reader(getattr(machine, family))
    one.request(f"{path}?token=hush", X_Request_ID="forged", X_Forwarded_For="203.0.113.9")
    own_address = one.connection.sock.getsockname()[0]
    one.close()
    [outer] = wait_for_log_lines("nginx", path)
    [inner] = wait_for_log_lines("flask_blog", path)
    assert re.fullmatch("[0-9a-f]{32}", outer["request_id"])
    assert inner["request_id"] == outer["request_id"]
    assert outer["status"] == 404
    assert inner["status"] == 404
    assert outer["remote_addr"] == own_address
    assert "hush" not in json.dumps([outer, inner])


# --- While the blog's container is stopped ------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_blog(inspect, docker, healthy):
    """Stop the blog's container, and start it again after these tests."""
    [container] = [c["Id"] for service, c in inspect().items() if service.startswith("flask_blog_")]
    docker("stop %s", container)
    yield
    docker("start %s", container)
    healthy()


@pytest.mark.parametrize("path", ["/", "/posts/moving-a-boat", "/feed.xml", "/nosuch"])
def test_reader_is_asked_to_retry_later_while_the_blog_is_stopped(stopped_blog, get, path):
    answer = get(path, Cookie="session=unknown")
    assert answer.status in (502, 503, 504)
    assert "We will be right back" in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_error_page_has_its_stylesheet_while_the_blog_is_stopped(stopped_blog, get):
    [path] = re.findall('<link rel="stylesheet" href="([^"]+)">', get("/", Cookie="session=unknown").text)
    assert get(path).headers["content-type"].startswith("text/css")


def test_nginx_stays_healthy_while_the_blog_is_stopped(stopped_blog, containers):
    assert containers["nginx"]["State"]["Health"]["Status"] == "healthy"
    assert containers["nginx"]["State"]["Health"]["Log"][-1]["ExitCode"] == 0
    assert containers["flask_blog"]["State"]["Status"] == "exited"


def test_stylesheet_is_served_while_the_blog_is_stopped(stopped_blog, get, host):
    name = host.check_output("ls /var/lib/slipway/www/static | grep '^style'").split()[0]
    assert get(f"/static/{name}").status == 200
