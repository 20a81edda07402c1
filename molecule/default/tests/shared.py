"""Fixtures and options that both scenarios use.

The options --soak and --drill select the tests with these marks, which take too long for `make test`.
"""

pytest_plugins = [
    "fixtures_host",
    "fixtures_blog",
    "fixtures_containers",
    "fixtures_database",
    "fixtures_releases",
    "fixtures_backups",
]

MARKS = {
    "soak": "run the tests marked `soak` too (`make soak`)",
    "drill": "run the tests marked `drill` too (`make drill`)",
}


def pytest_addoption(parser):
    """Add an option for each mark, which also selects its tests."""
    for mark, words in MARKS.items():
        parser.addoption(f"--{mark}", action="store_true", help=words)


def pytest_collection_modifyitems(config, items):
    """Deselect the tests with these marks, unless their option is given."""
    marks = [mark for mark in MARKS if not config.getoption(mark)]
    left_out = [item for item in items if any(item.get_closest_marker(mark) for mark in marks)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
