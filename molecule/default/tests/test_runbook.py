"""The tests type what docs/recovery.md prints, and the state afterwards is that of the document."""

import json

import pytest
from articles import Article, delete
from outside import wait_until
from runbook import printed
from test_backups import bundles, flip_byte

pytestmark = pytest.mark.drill

OLD = "/root/old"


@pytest.fixture(scope="module", autouse=True)
def first_backup(host, backups, full_backup_ended):
    """Wait until no backup is under way; afterwards forget the former databases."""
    wait_until(backups, 120, "the first backup")
    full_backup_ended()
    yield
    full_backup_ended()
    host.check_output("slipway restore --forget")


@pytest.fixture
def old_export(host, sql, author, messages):
    """Delete a post and change another one; then write the blog of before to a directory."""
    lost, changed = Article(author(), sql), Article(author(), sql)
    for article in (lost, changed):
        article.author.reader.close()  # nginx would close the idle connection before the next request
    messages.add("of then")
    [(moment,)] = sql("SELECT now()")
    act, _is_current = delete(lost)
    assert act().status == 303
    assert changed.save(body="As it became later.").status == 303
    for article in (lost, changed):
        article.author.reader.close()
    messages.clear()
    host.check_output("rm -rf %s", OLD)
    done = host.run(printed("--into", time=moment))
    assert done.rc == 0, done.stdout + done.stderr
    yield lost, changed
    host.check_output("rm -rf %s", OLD)


def test_posts_and_rows_come_back_beside_later_changes(old_export, host, sql, fetch):
    lost, changed = old_export

    def body(article):
        return [text for (text,) in sql(f"SELECT body FROM post WHERE slug = '{article.slug}'")]

    assert body(lost) == []
    told = json.loads(host.check_output(printed("import --existing skip")).splitlines()[-1])
    assert told["created"] == 1
    assert body(lost)[0].startswith("As it was first.")
    assert body(changed) == ["As it became later."]
    assert fetch(lost.path).status == 200
    update = printed("import --existing skip").replace("skip", "update")
    assert json.loads(host.check_output(update).splitlines()[-1])["updated"] == 1
    assert body(changed)[0].startswith("As it was first.")
    rows = host.check_output(printed("pg_restore", table="contact_message"))
    assert "of then" in rows
    assert sql("SELECT count(*) FROM contact_message WHERE body = 'of then'") == [("0",)]


def test_damaged_backup_is_replaced_and_removed(host, backups, status):
    host.check_output("slipway backup run full")
    damaged = backups()[-1]["label"]
    flip_byte(host, bundles(host)[-1])
    assert host.run("slipway backup verify").rc == 1
    [sentence] = [one for one in status()["backup"] if "Files of the repository are damaged" in one]
    assert damaged in sentence
    host.check_output("slipway backup run full")
    done = host.run(printed("expire", label=damaged))
    assert done.rc == 0, done.stdout + done.stderr
    done = host.run("slipway backup verify")
    assert done.rc == 0, done.stdout + done.stderr
    assert damaged not in [one["label"] for one in backups()]
    assert not any("damaged" in one for one in status()["backup"])


@pytest.fixture
def interrupted(host, status):
    """Kill a restore while readers get the maintenance page."""

    def interrupted():
        host.check_output(
            "systemd-run --quiet --collect --unit=slipway-test-restore slipway restore --yes --in-unit"
        )
        flag = "test -e /var/lib/slipway/restore_maintenance"
        wait_until(lambda: host.run(flag).rc == 0, 120, "the restore has switched the maintenance page on")
        host.check_output("systemctl kill --signal=KILL slipway-test-restore")
        assert any("A restore was interrupted" in sentence for sentence in status()["restore"])

    return interrupted


@pytest.mark.parametrize("command", ["slipway restore", "slipway restore --undo"])
def test_interrupted_restore_is_ended(
    command, interrupted, host, sql, status, fetch, full_backup_ended, author
):
    # The former database of this restore lacks the post, and must not come back.
    host.check_output("slipway restore --yes")
    Article(author(), sql).author.reader.close()
    posts = sql("SELECT slug, body FROM post ORDER BY 1")
    interrupted()
    done = host.run(f"{command} --yes")
    assert done.rc == 0, done.stdout + done.stderr
    assert fetch("/").status == 200
    assert sql("SELECT slug, body FROM post ORDER BY 1") == posts
    assert status()["maintenance"] is False
    full_backup_ended()


@pytest.mark.parametrize(
    "words",
    [
        "slipway status",
        "slipway logs db",
        "slipway backup list",
        "slipway-backup-verify",
        "'slipway-backup@*'",
        "'slipway-drill*'",
        "timedatectl",
    ],
)
def test_commands_that_show_something_work(words, host):
    done = host.run(printed(words))
    assert done.rc == 0, done.stderr
    assert done.stdout.strip()
