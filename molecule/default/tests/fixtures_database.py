"""Fixtures: the secrets on the host, and the database."""

import json

import pytest


class Secrets(dict):
    """The secrets' values by file name. repr() hides the values, so that a failing test prints none."""

    def __repr__(self):
        return f"Secrets({', '.join(self)})"

    def named_in(self, text):
        """Return the names of the secrets whose value is part of text."""
        return [name for name, value in self.items() if value in text]


@pytest.fixture(scope="session")
def read_secrets(host):
    """Read the secrets from their files on the host, and return them."""

    def read():
        lines = host.check_output('cd /etc/slipway/secrets && for f in *; do echo "$f $(cat $f)"; done')
        return Secrets(line.split(" ", 1) for line in lines.splitlines())

    return read


@pytest.fixture
def secrets(read_secrets):
    """The secrets at the start of the test."""
    return read_secrets()


@pytest.fixture(scope="session")
def sql(docker):
    """Run a query as the database's superuser, and return the rows."""

    def sql(query):
        rows = docker("exec $(docker ps --quiet --filter name=-db-) psql -U postgres -d blog -XAtc %s", query)
        return [tuple(row.split("|")) for row in rows.splitlines()]

    return sql


@pytest.fixture
def app_role(slot):
    """The database role of the slot in service."""
    return f"blog_app_{slot()}"


@pytest.fixture
def login(host, containers, secrets, app_role):
    """Log in to the database over TCP, as the containers do, and run one statement."""
    passwords = {
        "postgres": secrets["db_superuser_password"],
        "blog_migrator": secrets["db_migrator_password"],
        app_role: secrets["db_app_password"],
    }
    address = containers["db"]["NetworkSettings"]["Networks"]["slipway_data"]["IPAddress"]

    def run(role, statement, password=None, database="blog"):
        return host.run(
            "docker exec --env PGPASSWORD=%s %s psql --no-password -XAtqc %s %s",
            passwords[role] if password is None else password,
            containers["db"]["Id"],
            statement,
            f"host={address} user={role} dbname={database}",
        )

    return run


@pytest.fixture
def larger_database(deploy, inspect):
    """Run the role `stack` with more memory for the database, and return the Outcome. Undo it afterwards."""
    larger = json.dumps({"stack_db_memory_mb": inspect()["db"]["HostConfig"]["Memory"] // 2**20 + 16})
    yield lambda *arguments: deploy("site.yml", "--tags", "stack", "--extra-vars", larger, *arguments)
    assert deploy("site.yml", "--tags", "stack").status == 0
