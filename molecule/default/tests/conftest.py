"""Load the options --soak and --drill, and the fixtures from fixtures_*.py.

If a fixture returns a function, the docstring of the fixture describes that function.
"""

pytest_plugins = [
    "shared",
    "fixtures_load",
    "fixtures_canary",
    "fixtures_cis",
    "fixtures_tls",
    "fixtures_refusals",
]
