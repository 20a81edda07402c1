"""Fixtures of backups: the list of them, their check, and marked messages in the database."""

import json

import pytest
from outside import wait_until


class Messages:
    """Messages in the database with one email address, which marks them.

    there: their texts, oldest first.
    """

    def __init__(self, sql, email="backup@example.org"):
        self.sql, self.email = sql, email

    @property
    def there(self):
        rows = self.sql(f"SELECT body FROM contact_message WHERE email = '{self.email}' ORDER BY id")
        return [body for (body,) in rows]

    def add(self, body):
        """Add a message. Each is a transaction of its own."""
        self.sql(f"INSERT INTO contact_message (name, email, body) VALUES ('a', '{self.email}', '{body}')")

    def clear(self):
        """Remove the messages."""
        self.sql(f"DELETE FROM contact_message WHERE email = '{self.email}'")


@pytest.fixture
def messages(sql):
    """Marked messages; none at the beginning of a test."""
    marked = Messages(sql)
    marked.clear()
    yield marked
    marked.clear()


@pytest.fixture(scope="session")
def backups(host):
    """Return the backups, oldest first."""
    return lambda: json.loads(host.check_output("slipway backup list --json"))


@pytest.fixture(scope="session")
def full_backup_ended(host):
    """Wait until no full backup is under way. A failed one is an error."""
    state = "systemctl is-active slipway-backup@full"
    return lambda: wait_until(
        lambda: host.run(state).stdout.strip() == "inactive", 120, "the full backup has ended"
    )


@pytest.fixture
def check(host):
    """Run the check of the backups, and return its exit status and what it printed."""

    def check():
        done = host.run("slipway backup check")
        return done.rc, done.stdout

    return check
