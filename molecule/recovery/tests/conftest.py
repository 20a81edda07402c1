"""Use the fixtures of the scenario `default`, and add the server of the repositories."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "default/tests"))

from outside import Machine

pytest_plugins = ["shared"]


@pytest.fixture(scope="session")
def files_are_backed_up(status):
    """Tell whether the secrets, the certificates and the ledger were backed up."""
    return lambda: any("the ledger backed up at" in sentence for sentence in status()["backup"])


@pytest.fixture(scope="session")
def repositories():
    """The container in which the server of the repositories runs."""
    return Machine("slipway-molecule-recovery-repository")
