"""A rollback past a destructive migration needs the dump from before it, and loses later changes."""

import pytest
from outside import Prober
from variants import HEAD, MIGRATION

pytestmark = pytest.mark.drill


@pytest.fixture
def contract(variant):
    """Build an image whose migration is destructive, and return the image's id."""
    return variant(MIGRATION.format(statement="CREATE TABLE slipway_test (n int)", destructive=True))


def test_rollback_past_a_destructive_migration_needs_the_dump_from_before_it(
    host, contract, inspect, sql, ledger, healthy, reader, get
):
    [old] = [c["Image"] for service, c in inspect().items() if "flask_blog" in service]
    posts = sql("SELECT slug, body FROM post ORDER BY 1")
    with Prober(reader) as prober:
        host.check_output("slipway release --allow-destructive 9001 %s", contract)
        entry = ledger()[-1]
        assert entry["schema"] == "9001"
        assert entry["applied"] == ["9001"]
        dump = f"/var/lib/slipway/dumps/{entry['id']}.dump"
        assert host.check_output("stat --format '%%U %%a' %s", dump) == "root 600"

        refused = host.run("slipway rollback")
        told = refused.stdout + refused.stderr
        assert refused.rc == 1, told
        assert "revision 9001" in told, told
        steps = [line.strip() for line in told.splitlines() if line.startswith("    slipway ")]
        assert [step.split()[1] for step in steps] == [
            "maintenance",
            "restore-dump",
            "rollback",
            "maintenance",
        ]
        assert entry["image"] in [c["Image"] for c in healthy().values()]
    assert prober.failures == []
    assert prober.answered > 50

    for step in steps[:-1]:
        host.check_output(step)
    away = get("/")
    assert away.status == 503
    assert away.headers["retry-after"] == "10"
    assert "be right back" in away.text
    assert get("/author/").status == 503
    assert get("/healthz").status == 200
    assert get("/errors/errors.css").status == 200
    host.check_output(steps[-1])
    assert get("/").status == 200
    assert old in [c["Image"] for c in healthy().values()]
    assert sql("SELECT version_num, to_regclass('slipway_test') IS NULL FROM alembic_version") == [
        (HEAD, "t")
    ]
    assert sql("SELECT slug, body FROM post ORDER BY 1") == posts
