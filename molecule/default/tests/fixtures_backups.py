"""Fixtures of backups: their check, and marked messages in the database."""

import pytest


@pytest.fixture
def messages(sql):
    """The marked messages in the database: `there` are their texts, `add` adds one."""

    class Messages:
        @property
        def there(self):
            rows = sql("SELECT body FROM contact_message WHERE email = 'backup@example.org' ORDER BY id")
            return [body for (body,) in rows]

        @staticmethod
        def add(body):
            row = f"('a', 'backup@example.org', '{body}')"
            sql(f"INSERT INTO contact_message (name, email, body) VALUES {row}")

        @staticmethod
        def clear():
            sql("DELETE FROM contact_message WHERE email = 'backup@example.org'")

    marked = Messages()
    marked.clear()
    yield marked
    marked.clear()


@pytest.fixture
def check(host):
    """Run the check of the backups, and return its exit status and what it printed."""

    def check():
        done = host.run("slipway backup check")
        return done.rc, done.stdout

    return check
