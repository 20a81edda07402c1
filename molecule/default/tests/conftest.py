"""What the tests of this scenario share: the host's containers, and the blog as a reader on another machine sees it."""

import http.client
import json

import pytest


@pytest.fixture(scope="session")
def facts(host):
    """The host's variables, as Ansible sees them."""
    return host.ansible.get_variables()


@pytest.fixture
def containers(host):
    """What `docker inspect` says of each container of the host, by compose service."""
    with host.sudo():
        ids = host.check_output("docker ps --all --quiet").split()
        inspected = json.loads(host.check_output("docker inspect %s", ids[0]) if len(ids) == 1 else
                               host.check_output("docker inspect " + " ".join(ids)))
    return {c["Config"]["Labels"].get("com.docker.compose.service", c["Name"]): c for c in inspected}
