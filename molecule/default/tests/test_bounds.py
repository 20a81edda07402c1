"""Limits of nginx's memory, and of the files that it can read."""

import contextlib
import io
from secrets import token_hex

import pytest
from outside import wait_until

PICTURE = "/media/0123456789abcdef01234567-3x3.png"


# --- The memory of nginx ------------------------------------------------------------------------------------


@pytest.fixture
def used_mib(docker, containers):
    """Return how many MiB of one of nginx's directories are in use."""
    # nginx unlinks the temporary file of a body, so only the file system shows its size.
    command = f"exec {containers['nginx']['Id']} df --output=used --block-size=1K %s"
    return lambda directory: int(docker(command, f"/var/cache/nginx/{directory}").split()[-1]) / 1024


@pytest.fixture
def assert_pages_are_complete(ask):
    """Request pages that no cache has, and check that each is complete."""

    def assert_pages_are_complete():
        for path in ("/", "/tags/", f"/search?q={token_hex()}"):
            answer = ask(path, Cookie="session=unknown")
            assert answer.status == 200, path
            assert answer.text.rstrip()[-7:] == "</html>", path

    return assert_pages_are_complete


def test_get_request_with_a_body_is_refused_before_the_body_is_read(slow_sender, send_raw, site):
    head = f"GET / HTTP/1.1\r\nHost: {site}\r\n"
    for kind in ("Content-Length: 250000", "Transfer-Encoding: chunked"):
        assert send_raw(f"{head}{kind}\r\n\r\n".encode()).status == 400
    assert send_raw(f"{head}Content-Length: 0\r\n\r\n".encode()).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/search?q=rope", "/static/none", "/author/", "/author/media", "/healthz"]
)
def test_http2_get_request_with_an_unannounced_body_is_refused(http2_reader, used_mib, path):
    """Over HTTP/2, a client can send a body without a header that announces the body."""
    with contextlib.closing(http2_reader()) as one:
        assert one.request(path, body=io.BytesIO(bytes(200_000))).status == 413
        assert one.request("/").status == 200
    assert used_mib("bodies") == 0


def test_unfinished_bodies_of_strangers_do_not_block_pages(
    slow_sender, assert_pages_are_complete, used_mib, send_raw, site
):
    """The tests' address is exempt from the limits per client, so only the limits for all clients apply."""
    upload = "POST /author/media HTTP/1.1\r\nHost: {site}\r\nContent-Length: 10000000\r\n\r\n"
    message = "POST /contact HTTP/1.1\r\nHost: {site}\r\nContent-Length: 250001\r\n\r\n"
    for _ in range(4):
        slow_sender(upload)
    for _ in range(90):
        # nginx may refuse some of these at once, before the whole text is sent, because there are too many.
        with contextlib.suppress(OSError):
            slow_sender(message + 250_000 * "x")
    assert_pages_are_complete()
    assert used_mib("uploads") == 0, "only signed-in authors can upload"
    assert 1 < used_mib("bodies") < 40
    assert send_raw((message.replace("{site}", site)).encode()).status == 429
    assert_pages_are_complete()


def test_unfinished_uploads_of_authors_are_limited(
    slow_sender, try_to_sign_in, create_admin, assert_pages_are_complete, send_raw, site, used_mib
):
    email, password = f"uploads-{token_hex(3)}@example.org", token_hex()
    create_admin(email, password)
    author = try_to_sign_in(email, password)
    head = f"POST /author/media HTTP/1.1\r\nHost: {site}\r\nCookie: {author.cookie}\r\n"
    begin = f"{head}Content-Length: 10000000\r\n\r\n"
    unfinished = [slow_sender(begin + 1_000_000 * "x") for _ in range(4)]
    refused = f"{head}Content-Length: 9\r\n\r\n".encode()
    wait_until(lambda: used_mib("uploads") > 3, 10, "the pictures arrive")
    assert send_raw(refused).status == 429
    assert_pages_are_complete()
    for sender in unfinished:
        sender.close()
    wait_until(lambda: send_raw(refused + b"123456789").status != 429, 10, "uploads are accepted again")
    assert used_mib("uploads") < 1


def test_large_bodies_of_strangers_do_not_block_authors(
    slow_sender, try_to_sign_in, create_admin, send_raw, site
):
    email, password = f"long-{token_hex(3)}@example.org", token_hex()
    create_admin(email, password)
    author = try_to_sign_in(email, password)
    head = f"POST /author/posts/new HTTP/1.1\r\nHost: {site}\r\nContent-Length: 200000\r\n"
    # A client without a valid session is a stranger, whatever its cookie is.
    for cookie in 6 * ["", "Cookie: session=unknown\r\n"]:
        slow_sender(f"{head}{cookie}\r\nx")
    stranger, known = (f"{head}{cookie}\r\n" for cookie in ("", f"Cookie: {author.cookie}\r\n"))
    body = "a" * 200_000
    wait_until(
        lambda: send_raw((stranger + body).encode()).status == 429, 10, "the limit of strangers is reached"
    )
    # The form lacks its token, so the blog itself refuses it.
    assert send_raw((known + body).encode()).status == 400


def test_query_strings_do_not_fill_the_cache(ask, used_mib, reader, site):
    """nginx drops unknown query parameters, and does not cache a page with known ones."""
    ask("/feed.xml")
    before = used_mib("pages")
    with contextlib.closing(reader()) as one:
        for number in range(200):
            assert one.request(f"/feed.xml?number={number}&q={number}").status == 200
            assert one.request(f"/?page={number}").status == 200
            assert one.request(f"/search?q={number}").status == 200
            assert one.request("/feed.xml", Host=f"{site.partition(':')[0]}:{number + 1}").status == 200
    assert used_mib("pages") - before < 1
    assert "poisoned" not in ask("/tags?poisoned=1").headers["location"]
    assert ask("/search?a=b&q=ropes&page=1&c=d").text == ask("/search?page=1&q=ropes").text
    assert "<mark>" in ask("/search?a=b&q=ropes&c=d").text


def test_cache_size_is_limited(sql, used_mib, reader):
    """nginx trims its cache to 24 MiB only every ten seconds. Until then, there is room for 72 MiB more.

    The sizes are __stack_cache and __stack_memory in roles/stack/vars/main.yml.
    """
    posts = "slug LIKE 'slipway-test-large-%'"
    sql(
        "INSERT INTO post (slug, title, summary, body, body_html, word_count, author, published_at) "
        "SELECT 'slipway-test-large-' || number, '', '', '', repeat('x', 900000), 0, '', '1990-01-01' "
        "FROM generate_series(1, 70) AS number"
    )
    try:
        with contextlib.closing(reader()) as one:
            for number in range(1, 71):
                assert len(one.request(f"/posts/slipway-test-large-{number}").body) > 900_000
        wait_until(lambda: used_mib("pages") < 26, 15, "the cache is within its limit")
        assert used_mib("pages") > 10, "the cache was never full"
    finally:
        sql(f"DELETE FROM post WHERE {posts}")


# --- The volume of pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["nginx", "flask_blog"])
def test_pictures_are_mounted_without_programs_devices_and_setuid(host, containers, service):
    mounts = host.check_output("cat /proc/%s/mounts", str(containers[service]["State"]["Pid"]))
    [options] = [line.split()[3] for line in mounts.splitlines() if line.split()[1] == "/srv/media"]
    assert {"noexec", "nodev", "nosuid"} <= set(options.split(","))
    assert ("ro" in options.split(",")) == (service == "nginx")


def test_no_program_among_the_pictures_can_run(host, containers):
    script = "cp /bin/true /srv/media/.test && ! /srv/media/.test; ended=$?; rm /srv/media/.test; exit $ended"
    done = host.run("docker exec %s sh -c %s", containers["flask_blog"]["Id"], script)
    assert done.rc == 0, done.stderr
    assert "Permission denied" in done.stderr


# --- The files that nginx may read --------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/etc/slipway/tls/blog.pem", "/etc/passwd", "/etc/slipway/tls"])
def test_nginx_follows_no_link_of_a_compromised_blog_to_a_file(docker, containers, ask, variables, target):
    """For nginx, a link is no picture, so nginx asks the blog, which has no picture with this name."""
    name = PICTURE
    blog = f"exec {containers['flask_blog']['Id']}"
    docker(f"{blog} ln -s %s %s", target, f"/srv{name}")
    try:
        answer = ask(name)
    finally:
        docker(f"{blog} rm %s", f"/srv{name}")
    assert answer.status == 404
    assert "PRIVATE KEY" not in answer.text
    assert "root:" not in answer.text


def test_nginx_serves_no_file_from_the_directory_of_the_generation(docker, containers, ask):
    """The blog sets the link .generation, whose target is a part of the key of nginx's cache."""
    blog = f"exec {containers['flask_blog']['Id']} sh -ec %s"
    former = docker(blog, "readlink /srv/media/.generation || true").strip()
    link = "mkdir -p /srv/media/.generation-test && cd /srv/media && ln -sf %s .generation-test/none"
    docker(blog, f"{link % '/etc/slipway/tls/blog.pem'} && ln -sfn .generation-test .generation")
    try:
        answers = [ask(path) for path in ("/author/media", "/none", "/author/none", "/static/none")]
    finally:
        back = f"ln -sfn {former} .generation" if former else "rm .generation"
        docker(blog, f"cd /srv/media && {back} && rm -r .generation-test")
    for answer in answers:
        assert "PRIVATE KEY" not in answer.text


def test_nginx_follows_no_link_among_static_files(host, ask):
    host.check_output("ln -s /etc/slipway/tls/blog.pem /var/lib/slipway/www/static/slipway-test.css")
    try:
        answer = ask("/static/slipway-test.css")
    finally:
        host.check_output("rm /var/lib/slipway/www/static/slipway-test.css")
    assert answer.status in (403, 404)
    assert "PRIVATE KEY" not in answer.text
