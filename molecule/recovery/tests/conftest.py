"""Use the fixtures of the scenario `default`, and add the server of the repositories."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "default/tests"))

from outside import Machine

pytest_plugins = ["shared"]

# A script that removes the containers, volumes, secrets, state and rendered files of the stack. It keeps the
# images: their build takes minutes, and uses no data of the host.
WIPE = """
systemctl stop 'slipway*' 2>/dev/null || true
docker ps --all --quiet | xargs --no-run-if-empty docker rm --force >/dev/null
docker volume ls --quiet | xargs --no-run-if-empty docker volume rm >/dev/null
docker network prune --force >/dev/null
rm -rf /etc/slipway /var/lib/slipway /etc/systemd/system/slipway*
rm -rf /opt/slipway/*.* /opt/slipway/nginx /opt/slipway/backup
systemctl daemon-reload
"""


@pytest.fixture(scope="session")
def files_are_backed_up(status):
    """Tell whether the secrets, the certificates and the ledger were backed up."""
    return lambda: any("the ledger backed up at" in sentence for sentence in status()["backup"])


@pytest.fixture(scope="session")
def repositories():
    """The container in which the server of the repositories runs."""
    return Machine("slipway-molecule-recovery-repository")


@pytest.fixture(scope="session")
def wipe(machine):
    """Remove the blog with its data, as if the host were new. It keeps the engine and the images."""
    return lambda: machine.execute(WIPE)
