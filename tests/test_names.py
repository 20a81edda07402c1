"""nginx refuses no address with a name that app/blog/names.py allows."""

import re

import pytest
from blog import create_app
from blog.names import SLUG, is_free_page_name
from hypothesis import given, settings
from hypothesis import strategies as st

LOCATION = re.compile(r'^    location (?:(=|~\*?|\^~) )?("[^"\n]*"|[^\s@]+) \{$', re.MULTILINE)
UNUSUAL = ["my-nginx.conf", "systemd.log", "draft~", "dump.SQL.gz", "a.env", "posts", "static", "media"]


@pytest.fixture(scope="session")
def location_of(blog_conf):
    """A function that returns nginx's location for a path, chosen by the rules of nginx's documentation."""
    servers = re.findall(r"^server \{\n(.*?)^\}$", blog_conf, re.MULTILINE | re.DOTALL)
    [server] = [server for server in servers if "set $slot blue;" in server]
    locations = [(kind, text.strip('"')) for kind, text in LOCATION.findall(server)]

    def location_of(path):
        if ("=", path) in locations:
            return f"= {path}"
        prefixes = [(text, kind) for kind, text in locations if kind in ("", "^~") and path.startswith(text)]
        longest, kind = max(prefixes, key=lambda found: len(found[0]))
        if kind == "":
            for kind, text in locations:
                if kind.startswith("~") and re.search(text, path, re.IGNORECASE if kind == "~*" else 0):
                    return f"{kind} {text}"
        return longest

    return location_of


@pytest.fixture(scope="session")
def blog():
    """The blog. The test opens no connection to its database."""
    database = "postgresql://none@none/none"
    return create_app({"DATABASE_URL": database, "BASE_URL": "http://blog.test", "SECRET_KEY": "-" * 32})


@pytest.fixture(scope="session")
def patterns(blog):
    """The blog's URL paths that contain a name, such as /posts/NAME/comment."""
    rules = {rule.rule for rule in blog.url_map.iter_rules() if "<slug:slug>" in rule.rule}
    return sorted(re.sub("<int[^>]*>", "2", rule).replace("<slug:slug>", "NAME") for rule in rules)


@given(name=st.sampled_from(UNUSUAL) | st.from_regex(SLUG, fullmatch=True))
@settings(deadline=None, database=None)
def test_nginx_passes_every_address_of_a_name_to_the_blog(location_of, blog, patterns, name):
    assert {"/NAME", "/posts/NAME", "/tags/NAME"} < set(patterns)
    with blog.app_context():
        paths = [path for path in patterns if path != "/NAME" or is_free_page_name(name)]
    assert {location_of(path.replace("NAME", name)) for path in paths} == {"/"}


def test_pages_cannot_have_the_names_that_nginx_answers_itself(blog, blog_conf):
    exact = [text[1:] for kind, text in LOCATION.findall(blog_conf) if kind == "="]
    answered = {name for name in exact if re.fullmatch(SLUG, name)}
    assert {"healthz", "readyz"} <= answered
    with blog.app_context():
        assert [name for name in answered if is_free_page_name(name)] == []


@pytest.mark.parametrize(
    "path",
    ["/.env", "/.git/HEAD", "/posts/.htpasswd", "/backup/dump.sql", "/old/a.SQL.GZ", "/a/debug.log", "/a/b~"],
)
def test_nginx_itself_refuses_hidden_and_leftover_files(location_of, path):
    assert "well-known" in location_of(path)


def test_search_and_sign_in_keep_their_query_before_the_redirect_to_the_address_without_a_slash(blog_conf):
    maps = dict(re.findall(r'^map "\$uri\?&\$args" \$query_(\w+) \{\n    "~(.*?)" ', blog_conf, re.MULTILINE))
    maps = {name: pattern.replace("(?<", "(?P<") for name, pattern in maps.items()}  # as Python writes it
    assert re.search(maps["q"], "/search/?&page=2&q=a")["given_q"] == "q=a"
    assert re.search(maps["next"], "/login/?&next=/account")["given_next"] == "next=/account"
