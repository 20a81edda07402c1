"""Fixtures that put the blog under load. pytest prints the load's results in its summary."""

import contextlib
import re
from secrets import token_hex

import pytest
from load import Load
from outside import Author

LOADS = pytest.StashKey()


def pytest_configure(config):
    """Create the list of the loads that the summary reports."""
    config.stash[LOADS] = []


def pytest_terminal_summary(terminalreporter, config):
    """Print the results of each load."""
    for load in config.stash[LOADS]:
        terminalreporter.write_sep("-", "under load")
        for line in (*load.steps, load.report, *load.problems):
            terminalreporter.write_line(str(line))


@pytest.fixture(scope="session")
def under_load(create_admin, reader, site, host_authority, host, variables, base_url, sql, pytestconfig):
    """Put the blog under load for a `with` block. Afterwards remove the load's posts and its account."""

    # Requests per second. The machine may be busy during `make test`, so the rate is lower there.
    rate = 220 if pytestconfig.getoption("soak") else 120

    @contextlib.contextmanager
    def under_load():
        name, password = f"load-{token_hex(3)}", token_hex()
        email, posts = f"{name}@example.org", f"FROM post WHERE title LIKE '{name}-%'"
        create_admin(email, password)
        author = Author(reader(), variables["stack_base_url"], email, password)
        author.open("/author/posts/new")
        home = author.request("/").text
        author.reader.close()
        plan = {
            "name": name,
            "rate": rate,
            "address": "127.0.0.1",
            "port": base_url.port,
            "host": site,
            "base_url": variables["stack_base_url"],
            "ca": host_authority,
            "cookie": author.cookie,
            "token": author.token,
            "posts": re.findall(r'href="(/posts/[^"#]+)"', home),
            "style": re.search(r'href="(/static/[^"]+\.css)"', home)[1],
        }
        assert plan["posts"], "the blog has no post that the load could request: import some first"
        try:
            with Load(plan, least=rate - 20) as load:
                pytestconfig.stash[LOADS].append(load)
                yield load
            load.titles = [title for [title] in sql(f"SELECT title {posts}")]
        finally:
            sql(f"DELETE {posts}")
            sql(f"DELETE FROM user_account WHERE email = '{email}'")

    return under_load


@pytest.fixture(scope=lambda config, **_: "session" if config.getoption("soak") else "module")
def load(under_load):
    """A load that runs during all tests of a module or, with --soak, during all tests."""
    with under_load() as load:
        yield load
    assert load.problems == []
