"""Define names that the tests of the CIS Docker Benchmark share, such as the exceptions of cis.yml."""

import re
from pathlib import Path

import pytest
import yaml

LISTED = yaml.safe_load(Path(__file__).with_name("cis.yml").read_text())
SERVICES = ["nginx", "flask_blog", "db"]
each_service = pytest.mark.parametrize("service", SERVICES)

# The values of `unless` in cis.yml: conditions under which an exception does not apply.
CONDITIONS = {
    "apparmor": lambda engine: engine.apparmor,
    "engine 27": lambda engine: int(engine.info["ServerVersion"].split(".")[0]) >= 27,
}


def check_number(name):
    """Return the number of a check from the name of its test: 5.2 for test_5_2_…, None for other names."""
    found = re.match(r"test_(\d+)_(\d+)_", name)
    return found and ".".join(found.groups())
