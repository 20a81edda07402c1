"""nginx's configuration, rendered by Ansible and checked by nginx."""

import re

from project import ROOT

# nginx must find a certificate, so create one first.
TEST_NGINX = """
mkdir -p /etc/slipway/tls
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj /CN=blog -days 1 \\
  -keyout /tmp/key -out /tmp/certificate 2>/dev/null
cat /tmp/key /tmp/certificate >/etc/slipway/tls/blog.pem
nginx -t -q
"""


def test_nginx_accepts_its_configuration(rendered_files, services, check):
    done = check(
        *(f"--tmpfs={mount.partition(':')[0]}" for mount in services["nginx"]["tmpfs"]),
        f"--volume={ROOT}/roles/images/files/nginx/nginx.conf:/etc/nginx/nginx.conf:ro",
        f"--volume={rendered_files}/blog.conf:/etc/nginx/conf.d/blog.conf:ro",
        command=["sh", "-euc", TEST_NGINX],
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_no_location_of_nginx_drops_the_common_headers(blog_conf, has_tls, has_http3):
    """A server or location that has an add_header inherits none from the level above."""
    added = re.findall(r"^add_header (\S+) \$add_\w+ always;$", blog_conf, re.MULTILINE)
    assert len(set(added)) == len(added) == 9 + has_tls + has_http3
    assert len(re.findall(r"^\s*add_header", blog_conf, re.MULTILINE)) == len(added)


def test_nginx_trusts_and_exempts_only_the_given_networks(variables, blog_conf):
    proxies, exempt = variables["stack_trusted_proxies"], variables["stack_rate_exempt"]
    assert re.findall(r"^set_real_ip_from (\S+);$", blog_conf, re.MULTILINE) == proxies
    blocks = dict(re.findall(r"^geo ([^{]+) \{\n(.*?)^\}", blog_conf, re.MULTILINE | re.DOTALL))
    assert {key: block.split() for key, block in blocks.items()} == {
        "$counted": ["default", "1;", *(word for network in exempt for word in (network, "0;"))],
    }


def test_nginx_limits_requests_to_the_blog(variables, blog_conf, has_tls):
    assert f"zone=pages:1m rate={variables['stack_rate_pages']}r/s;" in blog_conf
    assert f"zone=writes:1m rate={variables['stack_rate_writes']}r/m;" in blog_conf
    places = re.findall(r"(?:limit_req .*;\s*)*proxy_pass http://\$slot;", blog_conf)
    limits = [
        f"limit_req zone=pages burst={variables['stack_rate_pages'] * 4} nodelay;",
        f"limit_req zone=writes burst={variables['stack_rate_writes'] - 1} nodelay;",
        "proxy_pass http://$slot;",
    ]
    ways = [tuple(re.split(r"\s*\n\s*", place)) for place in places]
    assert ways.count(tuple(limits)) == 2 * 7
    # Two more locations pass requests on: those of the listeners that are the backup of a slot.
    others = {f"proxy_pass http://{slot}_alone;" for slot in ("blue", "green")}
    assert set(re.findall("proxy_pass .*;", blog_conf)) == {limits[2], *others}
    # A large body counts towards the rates before nginx asks the blog whether the sender is an author.
    assert ways.count(tuple(limits[2:])) == len(ways) - 2 * 7 == 2 * 2
    assert blog_conf.count("\n        ".join([*limits[:2], "auth_request /author/may-upload;"])) == 2
    redirects = bool(variables["stack_domain_redirects"])
    redirecting_servers = (redirects or has_tls) + (redirects and has_tls)
    connections = f"limit_conn connections {variables['stack_rate_connections']};"
    assert blog_conf.count(connections) == 2 * 2 + redirecting_servers
    redirect = f"{limits[0]}\n        {limits[1]}\n        root /usr/share/nginx;"
    assert blog_conf.count(redirect) == blog_conf.count("return 308 ") == redirecting_servers
    assert blog_conf.count(f"client_max_body_size {variables['stack_max_body_kb']}k;") == 2
    assert blog_conf.count(f'!~ "^({"|".join(variables["stack_methods"])})$"') == 2


def test_no_location_of_nginx_follows_a_link_to_a_file(blog_conf):
    """nginx also serves no file from the server's root, which is a link that the blog controls."""
    locations = re.findall(r"^ +location [^{]+ \{\n(.*?)^ +\}$", blog_conf, re.MULTILINE | re.DOTALL)
    with_files = [body for body in locations if re.search(r"^\s+(root|try_files) ", body, re.MULTILINE)]
    assert len(with_files) > 5
    for body in with_files:
        assert re.search(r"^\s+root /(srv|srv/www|srv/acme|usr/share/nginx);$", body, re.MULTILINE), body
        assert "disable_symlinks on;" in body, body
    answered = [body for body in locations if re.search(r"proxy_pass|return|rewrite", body)]
    assert {*with_files, *answered} == set(locations)


def test_cache_of_pages_keeps_no_picture(blog_conf):
    found = re.findall(r"^    location @picture \{\n(.*?)^    \}$", blog_conf, re.MULTILINE | re.DOTALL)
    assert ["proxy_cache off;" in location for location in found] == [True, True]


def test_nginx_asks_the_blog_only_for_a_picture_that_is_not_in_the_volume(blog_conf):
    found = re.findall(r'^    location ~ "\^/media/.*?^    \}$', blog_conf, re.MULTILINE | re.DOTALL)
    assert ["try_files $uri @picture;" in location for location in found] == [True, True]
    assert "proxy_pass" not in "".join(found)


def test_maintenance_closes_every_location_that_leads_readers_to_the_blog(blog_conf):
    """Readers reach the other locations that ask the blog only through these.

    The exception is /healthz. In the server for the pre-switch check, $maintenance stays empty.
    """
    locations = dict(re.findall(r"^ +location ([^{]+) \{\n(.*?)^ +\}$", blog_conf, re.MULTILINE | re.DOTALL))
    closed = {where for where, body in locations.items() if "if ($maintenance) { return 503; }" in body}
    asked = {where for where, body in locations.items() if "proxy_pass" in body}
    assert closed == {"/", "@page", "@picture", "/author/", "= /author/media"}
    behind_a_closed_one = {
        "@author_page",
        "@large_body_of_author",
        "@large_body_of_stranger",
        "= /author/may-upload",
    }
    assert asked - closed == {"= /healthz"} | behind_a_closed_one
    assert blog_conf.count('set $maintenance "";') == 2
    assert blog_conf.count("if (-f /run/slot/maintenance) { set $maintenance on; }") == 1


def test_each_server_that_answers_can_be_drained(blog_conf):
    """Docker's health check is exempt, because it keeps no connection."""
    servers = re.findall(r"^server \{\n(.*?)^\}$", blog_conf, re.MULTILINE | re.DOTALL)
    answering = [s for s in servers if "return 444;" not in s and "listen 127.0.0.1:8082;" not in s]
    assert len(servers) > len(answering) > 1
    for server in answering:
        before, _, drain = server.partition("error_page 418 = @drain;")
        assert drain.startswith("\n    if (-f $drain) { return 418; }\n    location @drain {\n")
        # All refusals come before the drain: a drained request does not pass them again.
        assert "return" not in drain.partition("location @drain {")[2].partition("location ")[0]
        assert before.count("recursive_error_pages on;") == 1


def test_nginx_refuses_hidden_files_but_asks_the_blog_for_security_txt(blog_conf):
    [refused] = set(re.findall(r'location ~\* "(.+)" \{\n +return 404;', blog_conf))
    paths = ("/.env", "/.well-knownot", "/backup/blog.sql.gz", "/.well-known/security.txt")
    assert [path for path in paths if not re.search(refused, path, re.IGNORECASE)] == [paths[-1]]


def test_nginx_listens_with_tls_only_if_the_host_has_it(variables, blog_conf, has_tls, has_http3):
    listening = re.findall(
        r"listen (\d+|\[::\]:\d+)( ssl| quic| quic reuseport)?(?: default_server)?;", blog_conf
    )
    assert (("443", " ssl") in listening) is has_tls
    assert (("443", " quic") in listening) is has_http3
    assert ("ssl_reject_handshake on;" in blog_conf) is has_tls
    assert ("Strict-Transport-Security" in blog_conf) is has_tls
    if has_tls:
        assert f'on "max-age={variables["tls_hsts_seconds"]}";' in blog_conf
    for redirect in variables["stack_domain_redirects"]:
        assert re.search(rf"server_name .*\b{re.escape(redirect)}\b", blog_conf)
