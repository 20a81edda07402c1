"""The option --soak. The tests marked `soak` take too long for `make test`: they run only with it."""


def pytest_addoption(parser):
    """Add --soak, which also selects the tests that take too long for `make test`."""
    parser.addoption("--soak", action="store_true", help="run the tests marked `soak` too")


def pytest_collection_modifyitems(config, items):
    """Deselect the tests marked `soak`, unless --soak is given."""
    if not config.getoption("soak"):
        left_out = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
