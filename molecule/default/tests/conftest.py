"""Define the option --soak, and load the fixtures from fixtures_*.py.

The tests marked `soak` take too long for `make test`: they run only with --soak, as in `make soak`.
If a fixture returns a function, the docstring of the fixture describes that function.
"""

pytest_plugins = [
    "fixtures_host",
    "fixtures_blog",
    "fixtures_containers",
    "fixtures_database",
    "fixtures_releases",
    "fixtures_load",
    "fixtures_canary",
    "fixtures_cis",
    "fixtures_tls",
    "fixtures_refusals",
]


def pytest_addoption(parser):
    """Add --soak, which also selects the tests that take too long for `make test`."""
    parser.addoption("--soak", action="store_true", help="run the tests marked `soak` too (`make soak`)")


def pytest_collection_modifyitems(config, items):
    """Deselect the tests marked `soak`, unless --soak is given."""
    if not config.getoption("soak"):
        left_out = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
