"""The option --soak. The fixtures are in fixtures_*.py, by subject."""

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
    """Add --soak, for the tests that take too long for `make test`."""
    parser.addoption("--soak", action="store_true", help="all that is promised under one load (`make soak`)")


def pytest_collection_modifyitems(config, items):
    """Deselect the tests for a soak unless there is --soak."""
    if not config.getoption("soak"):
        left_out = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
