"""Test nginx: the headers of every answer, refused requests, trusted proxies, and limits for each client."""

import http.client
import io
import json
import re
import time
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from outside import Answer, wait_until

REFUSED = "That request did not go through"
PICTURE = "/media/0123456789abcdef01234567-1x1.png"
FEATURES = ["camera", "display-capture", "geolocation", "microphone", "payment", "usb"]
KEPT = "public, max-age=0, s-maxage=1, stale-while-revalidate=1"
FOREVER = "public, max-age=31536000, immutable"

# Low limits, which the tests can reach. Most tests use client addresses of their own. All of these are
# reserved for documentation (RFC 5737, RFC 3849), so nobody uses them.
PROXIED = {
    "stack_rate_pages": 5,
    "stack_rate_writes": 6,
    "stack_rate_connections": 4,
    "stack_rate_exempt": [],
}


# --- The headers of every answer ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture(host):
    """Create a file among the pictures that authors uploaded."""
    volume = host.check_output("docker volume inspect media_volume --format '{{ .Mountpoint }}'")
    path = volume + PICTURE.removeprefix("/media")
    yield host.check_output("echo picture > %s && chmod 644 %s", path, path)
    host.check_output("rm %s", path)


def assert_security_headers(answer, embedding="same-origin"):
    """Check that an answer has each security header, with one value."""
    policy = answer.headers["content-security-policy"]
    directives = dict(directive.strip().partition(" ")[::2] for directive in policy.split(";"))
    assert directives["frame-ancestors"] == "'none'"
    assert directives["default-src"] in ("'self'", "'none'")
    assert not {"script-src", "style-src"} & set(directives), "the default must apply to scripts and styles"
    assert not re.search("unsafe|data:|,", policy)
    expected = {
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": embedding,
        "permissions-policy": ", ".join(f"{feature}=()" for feature in FEATURES),
        "referrer-policy": "strict-origin-when-cross-origin",
        "server": "nginx",
        "x-content-type-options": "nosniff",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("path", "options", "status", "kept", "embedding"),
    [
        ("/", {}, 200, KEPT, "same-origin"),
        ("/feed.xml", {}, 200, KEPT, "same-origin"),
        ("/login", {}, 200, "private, no-store", "same-origin"),
        ("/archive", {}, 308, KEPT, "same-origin"),
        ("/nosuch", {}, 404, KEPT, "same-origin"),
        ("/static/nosuch", {}, 404, KEPT, "cross-origin"),
        ("/contact", {"method": "POST"}, 422, "private, no-store", "same-origin"),
        ("STATIC", {}, 200, FOREVER, "cross-origin"),
        ("STATIC", {"Range": "bytes=999999-"}, 200, FOREVER, "cross-origin"),
        ("STATIC", {"If_None_Match": "*"}, 304, FOREVER, "cross-origin"),
        ("STATIC", {"If_Match": '"other"'}, 412, "no-store", "same-origin"),
        ("STATIC", {"method": "POST"}, 405, "no-store", "same-origin"),
        (PICTURE, {}, 200, FOREVER, "cross-origin"),
        (PICTURE.replace("1x1", "2x2"), {}, 404, KEPT, "cross-origin"),
        ("/.git/config", {}, 404, "no-store", "same-origin"),
        ("/errors/404.html", {}, 404, "no-store", "same-origin"),
        ("/errors/errors.css", {}, 200, "public, max-age=3600", "same-origin"),
        ("/", {"method": "PUT"}, 405, "no-store", "same-origin"),
        ("/", {"body": b"question"}, 400, "no-store", "same-origin"),
        ("/", {"method": "POST", "body": bytes(300_000)}, 413, "no-store", "same-origin"),
        ("/", {"Cookie": "a=" + 9000 * "x"}, 400, "no-store", "same-origin"),
    ],
)
def test_answer_has_security_headers(picture, ask, path, options, status, kept, embedding):
    answer = ask(path, **options)
    assert answer.status == status
    assert answer.headers.get("cache-control") == kept
    assert_security_headers(answer, embedding)


def test_cached_page_has_security_headers(ask, docker, containers):
    pages = [ask("/?cached") for _ in range(5)]
    for page in pages:
        assert_security_headers(page)
    log = docker("logs --tail 5 %s", containers["nginx"]["Id"]).splitlines()
    assert any('"upstream_addr":""' in line for line in log if '"path":"/"' in line), "no page was cached"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: {}\r\nno colon here\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: {}\r\nHost: {}\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /../.. HTTP/1.1\r\nHost: {}\r\n\r\n", 400),
        (b"GET /" + 9000 * b"x" + b" HTTP/1.1\r\nHost: {}\r\n\r\n", 414),
        (b"TRACE / HTTP/1.1\r\nHost: {}\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/9.9\r\nHost: {}\r\n\r\n", 505),
    ],
)
def test_refusal_of_a_malformed_request_has_security_headers(send_raw, site, raw, status):
    answer = send_raw(raw.replace(b"{}", site.encode()))
    assert answer.status == status
    assert_security_headers(answer)


def test_error_page_of_a_stopped_slot_has_security_headers(host, site):
    # nginx's address for the check before a switch leads to the idle slot, which does not run now.
    preview = json.loads(host.check_output("cat /opt/slipway/stack.json"))["preview"].replace(":", "/")
    talk = "exec 3<>/dev/tcp/%s; printf 'GET / HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n' >&3; cat <&3"
    raw = host.check_output("bash -c %s", talk % (preview, site)).encode() + b"\n"
    response = http.client.HTTPResponse(SimpleNamespace(makefile=lambda mode: io.BytesIO(raw)))
    response.begin()
    answer = Answer.of(response)
    assert answer.status == 503
    assert answer.headers["retry-after"] == "10"
    assert answer.headers["cache-control"] == "no-store"
    assert "We will be right back" in answer.text
    assert_security_headers(answer)


def test_blog_gets_the_host_name_that_nginx_has_checked(send_raw, base_url):
    first = f"GET {base_url.scheme}://{base_url.hostname}/archive HTTP/1.1"
    answer = send_raw(f"{first}\r\nHost: evil.example:81\r\n\r\n".encode())
    assert answer.headers["location"] == f"{base_url.scheme}://{base_url.hostname}:81/archive/"


# --- Refused requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/.git/HEAD",
        "/.env",
        "/%2eenv",
        "/a/.htpasswd",
        "/static/.git/HEAD",
        "/backup/dump.sql",
        "/backup/BLOG.SQL.GZ",
        "/old/index.html~",
        "/wp-content/wp-config.bak",
        "/.well-knownot",
    ],
)
def test_nginx_itself_refuses_paths_of_hidden_and_backup_files(ask, path):
    answer = ask(path)
    assert answer.status == 404
    assert "/errors/errors.css" in answer.text, "nginx itself must answer"


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/nosuch",
        "/tags/sql",
        "/old",
        "/nosuch.sql.txt",
        "/no.conf",
        "/posts/no~",
        "/posts/no.log",
    ],
)
def test_nginx_passes_other_unknown_paths_to_the_blog(ask, path):
    answer = ask(path)
    assert answer.status == 404
    assert "/static/style" in answer.text


@pytest.mark.parametrize(
    ("path", "method", "allowed"), [("/", "DELETE", "GET, HEAD, POST"), ("STATIC", "POST", "GET, HEAD")]
)
def test_refusal_of_a_method_names_the_allowed_ones(ask, path, method, allowed):
    answer = ask(path, method)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    assert REFUSED in answer.text


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/contact", 200_000, None),
        ("/contact", 300_000, 413),
        ("/author/posts/new", 3_000_000, None),
        ("/author/posts/new", 5_000_000, 413),
        # nginx does not read the body if the client is not signed in.
        ("/author/media", 10_000_000, 401),
        ("/author/media", 12_000_000, 413),
    ],
)
def test_size_of_a_request_body_is_limited_by_path(ask, path, size, status):
    answer = ask(path, "POST", body=bytes(size), Content_Type="application/x-www-form-urlencoded")
    if status is None:
        assert REFUSED not in answer.text, "nginx must pass the request to the blog"
    else:
        assert answer.status == status
        assert REFUSED in answer.text


def test_slow_senders_are_cut_off_and_readers_are_served(slow_sender, ask):
    head = [slow_sender("GET / HTTP/1.1\r\nHost: {site}\r\nX-Slow: ") for _ in range(20)]
    body = slow_sender("POST /contact HTTP/1.1\r\nHost: {site}\r\nContent-Length: 9\r\n\r\nbody")
    begun, second = time.monotonic(), 0
    while head or not body.is_cut_off():
        assert ask("/").status == 200
        assert time.monotonic() < begun + 15, f"{len(head)} of 20 still send a header"
        more = b""
        if time.monotonic() > begun + second:
            second, more = second + 1, b"x"
        head = [sender for sender in head if not sender.is_cut_off(more)]
        assert second > 5 or len(head) == 20, "senders were cut off too early"


# --- Trusted proxies ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sign_in_with_wrong_password(reader, variables):
    """Try to sign in with a wrong password, and return the answer."""

    def sign_in_with_wrong_password(**headers):
        one = reader()
        page = one.request("/login", **headers)
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text)[1]
        answer = one.request(
            "/login",
            "POST",
            body=urlencode({"csrf_token": token, "email": "nobody@example.org", "password": "wrong"}),
            Content_Type="application/x-www-form-urlencoded",
            Cookie=page.headers["set-cookie"].partition(";")[0],
            Referer=f"{variables['stack_base_url']}/",
            **headers,
        )
        one.close()
        return answer

    return sign_in_with_wrong_password


@pytest.fixture
def logged_addresses(host, docker, containers):
    """Return the client addresses of logins since the test began: in nginx's log, and in the blog's log."""
    since = host.check_output("date +%s.%N")

    def lines(service):
        logs = docker("logs --since %s %s", since, containers[service]["Id"]).splitlines()
        return [json.loads(line) for line in logs if line.startswith("{")]

    def logged_addresses():
        by_nginx = [line["remote_addr"] for line in lines("nginx") if line.get("path") == "/login"]
        said = [line["message"] for line in lines("flask_blog") if "login refused" in line["message"]]
        return by_nginx and said and (set(by_nginx), {message.split()[-1] for message in said})

    return lambda: wait_until(logged_addresses, 10, "nginx and the blog log a login")


def test_forged_forwarding_headers_are_ignored(
    sign_in_with_wrong_password, logged_addresses, machine, reader, variables
):
    assert variables.get("stack_trusted_proxies", []) == []
    one = reader(machine.ipv4)
    one.request("/")
    own_address = one.connection.sock.getsockname()[0]
    one.close()
    forged = {"X_Forwarded_For": "203.0.113.1", "X_Real_IP": "203.0.113.1", "Forwarded": "for=203.0.113.1"}
    assert sign_in_with_wrong_password(**forged).status == 422
    assert logged_addresses() == ({own_address}, {own_address})


@pytest.fixture(scope="module")
def via_proxy(deploy, variables, host, reader):
    """Send a request as a trusted proxy, on behalf of a client. The limits for each client are low."""
    conf = "/opt/slipway/nginx/blog.conf"

    host.check_output("cp --archive %s /run/slipway-test.conf", conf)
    values = json.dumps(PROXIED | {"stack_trusted_proxies": variables["stack_rate_exempt"]})
    outcome = deploy("site.yml", "--tags", "stack", "--extra-vars", values)
    assert outcome.status == 0, outcome.output

    def ask_for(client, path, method="GET", **options):
        one = reader()
        try:
            return one.request(path, method, X_Forwarded_For=client, **options)
        finally:
            one.close()

    yield ask_for
    host.check_output("mv /run/slipway-test.conf %s", conf)
    host.check_output("slipway nginx reload")


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("203.0.113.2", "203.0.113.2"),
        ("198.51.100.9, 203.0.113.3", "203.0.113.3"),
        ("2001:db8:1::2", "2001:db8:1::2"),
    ],
)
def test_client_address_is_the_one_that_the_trusted_proxy_reports(
    via_proxy, sign_in_with_wrong_password, logged_addresses, said, client
):
    assert sign_in_with_wrong_password(X_Forwarded_For=said).status == 422
    network = "2001:db8:1::/64" if ":" in client else client
    assert logged_addresses() == ({client}, {network})


# --- Limits for each client ---------------------------------------------------------------------------------


def statuses(ask_for, client, path, count, method="GET"):
    """Send several requests for a client, and return the statuses. Check the error page of each 429."""
    answers = [ask_for(client, path, method) for _ in range(count)]
    for answer in answers:
        assert_security_headers(answer)
        if answer.status == 429:
            assert REFUSED in answer.text
            assert answer.headers["retry-after"] == "10"
            assert answer.headers["cache-control"] == "no-store"
    return [answer.status for answer in answers]


def test_page_rate_is_limited_for_each_client(via_proxy):
    allowed = 4 * PROXIED["stack_rate_pages"] + 1
    assert statuses(via_proxy, "203.0.113.20", "/nosuch", allowed) == [404] * allowed
    assert 429 in statuses(via_proxy, "203.0.113.20", "/nosuch", 30)
    assert statuses(via_proxy, "203.0.113.21", "/nosuch", 1) == [404]
    wait_until(lambda: via_proxy("203.0.113.20", "/nosuch").status == 404, 5, "the limit has ended")


def test_static_files_do_not_count_towards_the_page_rate(via_proxy, ask):
    [static] = set(re.findall(r'"(/static/style\.[^"]+\.css)"', ask("/").text))
    for _ in range(60):
        assert via_proxy("203.0.113.22", static).status == 200


@pytest.mark.parametrize(
    ("path", "answered"), [("/login", 400), ("/register", 400), ("/contact", 422), ("/author/media", 401)]
)
def test_write_rate_is_limited_for_each_client_and_pages_stay_available(via_proxy, path, answered):
    client = f"203.0.113.{30 + len(path)}"
    allowed = PROXIED["stack_rate_writes"]
    *first, last = statuses(via_proxy, client, path, allowed + 1, "POST")
    assert first == [answered] * allowed
    assert last == 429
    assert statuses(via_proxy, client, "/", 1) == [200]
    assert statuses(via_proxy, "203.0.113.29", path, 1, "POST") == [answered]


def test_previews_do_not_count_towards_the_write_rate(via_proxy):
    count = PROXIED["stack_rate_writes"] + 1
    assert statuses(via_proxy, "203.0.113.50", "/author/preview", count, "POST") == [400] * count


@pytest.mark.parametrize(
    ("used", "same", "other"),
    [
        ("2001:db8:2::1", "2001:db8:2:0:ffff:ffff:ffff:ffff", "2001:db8:2:1::1"),
        ("2001:db8:a0a:a0a::1", "2001:db8:a0a:a0a::a0a", "2001:db8:a0a:a0b::1"),
        ("203.0.113.60", "::ffff:203.0.113.60", "::ffff:203.0.113.61"),
    ],
)
def test_ipv6_clients_are_limited_by_network(via_proxy, used, same, other):
    count = PROXIED["stack_rate_writes"]
    assert statuses(via_proxy, used, "/contact", count, "POST") == [422] * count
    assert statuses(via_proxy, same, "/contact", 1, "POST") == [429]
    assert statuses(via_proxy, other, "/contact", 1, "POST") == [422]


def test_concurrent_requests_of_one_client_are_limited(via_proxy, slow_sender):
    client, at_once = "203.0.113.70", PROXIED["stack_rate_connections"]
    begin = (
        f"POST /nosuch HTTP/1.1\r\nHost: {{site}}\r\nX-Forwarded-For: {client}\r\nContent-Length: 9\r\n\r\n"
    )
    unfinished = [slow_sender(begin) for _ in range(at_once - 1)]
    assert statuses(via_proxy, client, "/errors/errors.css", 1) != [429]

    def limit_is_reached():
        # The request above may still count for a moment. Then nginx refuses this sender, and the next one is
        # added.
        unfinished.append(slow_sender(begin))
        return all(via_proxy(client, "/errors/errors.css", "HEAD").status == 429 for _ in range(3))

    wait_until(limit_is_reached, 5, "the limit is reached")
    assert statuses(via_proxy, client, "/errors/errors.css", 1) == [429]
    assert via_proxy("203.0.113.72", "/errors/errors.css").status != 429
    for sender in unfinished:
        sender.close()
    wait_until(lambda: via_proxy(client, "/errors/errors.css").status != 429, 5, "the limit has ended")
