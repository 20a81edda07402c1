"""The database moves from PostgreSQL 15 to 17, as of Debian 12 and 13; back; and forward again."""

import json
import threading

import pytest
from articles import Article
from outside import ROOT, wait_until

pytestmark = pytest.mark.drill

FORMER = "slipway.test/db:15"
# A base with PostgreSQL 15, in which all else is of Debian 13. This version has no builtin collations.
DOCKERFILES = {
    "slipway.test/sources": """
        FROM slipway/base-debian:trixie-stock
        RUN for file in $(find /etc/apt/sources.list* -type f); do \\
              sed 's/trixie/bookworm/g' "$file" > "/etc/apt/sources.list.d/bookworm-$(basename "$file")"; \\
            done
    """,
    FORMER: """
        FROM slipway.test/db-built
        LABEL slipway.image=test
        ENV POSTGRES_INITDB_ARGS="--auth-local=peer --auth-host=scram-sha-256 --locale=C.UTF-8"
    """,
}
CONTEXTS = "/opt/slipway/images/images"
LINES = 20_000  # with 1 kB each
FAST_SECONDS = 60  # how long readers may get the maintenance page


@pytest.fixture(scope="module")
def former_image(host):
    """Build an image of the database with PostgreSQL 15."""

    def build(name, lines):
        host.check_output("echo %s | docker build --quiet --tag %s -", lines, name)

    def build_context(name, base, directory, *arguments):
        words = " ".join(f"--build-arg {argument}" for argument in (f"BASE_IMAGE={base}", *arguments))
        host.check_output(f"docker build --quiet --tag {name} {words} {CONTEXTS}/{directory}")

    build("slipway.test/sources", DOCKERFILES["slipway.test/sources"])
    build_context("slipway.test/postgres", "slipway.test/sources", "debian/postgres", "PG_MAJOR=15")
    build_context("slipway.test/db-built", "slipway.test/postgres", "db")
    build(FORMER, DOCKERFILES[FORMER])


@pytest.fixture(scope="module")
def run(deploy, variables):
    """Run a playbook with a repository of its own; with `former=True`, with the images of PostgreSQL 15."""
    repository = {"backup_repository": variables["backup_repository"].replace("/blog", "/upgrade")}

    def run(playbook, *arguments, former=False):
        chosen = {"__images_db": FORMER} if former else {}
        return deploy(playbook, "--extra-vars", json.dumps(repository | chosen), *arguments)

    return run


@pytest.fixture(scope="module")
def upgrade(run, hostname):
    """Run upgrade_database.yml, and return its Outcome."""
    confirmed = f"--extra-vars=upgrade_confirm={hostname}"
    return lambda *arguments, **options: run(
        "playbooks/upgrade_database.yml", confirmed, *arguments, **options
    )


@pytest.fixture(scope="module")
def major(sql):
    """Return the major version of the database that runs."""
    return lambda: int(sql("SHOW server_version_num")[0][0]) // 10000


@pytest.fixture(scope="module")
def database_of_15(former_image, wipe, repositories, run, sql, backups, full_backup_ended, major):
    """A host that runs PostgreSQL 15, with a blog, some more rows, and a first backup."""
    wipe()
    repositories.execute("rm -rf /srv/sftp/backups/upgrade")
    done = run("site.yml", former=True)
    assert done.status == 0, done.output
    assert major() == 15
    done = run("playbooks/import.yml", f"--extra-vars=import_directory={ROOT / 'docs/site'}", former=True)
    assert done.status == 0, done.output
    sql(
        "INSERT INTO contact_message (name, email, body) "
        f"SELECT 'of-15', 'of-15@example.org', repeat(md5(n::text), 32) FROM generate_series(1, {LINES}) n"
    )
    wait_until(backups, 120, "the first backup")
    full_backup_ended()


@pytest.fixture
def content(sql):
    """Return a digest of the posts and messages."""
    query = "SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY id)) FROM {} t"
    return lambda: [sql(query.format(table)) for table in ("post", "contact_message", "media")]


@pytest.fixture
def saving(author, sql):
    """Save a post again and again during a `with` block; `last` is the last number that was saved."""

    class Saving(threading.Thread):
        def __enter__(self):
            self.article, self.last, self.ends = Article(author(), sql), 0, threading.Event()
            self.start()
            return self

        def run(self):
            number = 0
            while not self.ends.is_set():
                number += 1
                answer = self.article.save(body=f"number {number} ")
                if answer.status == 303:
                    self.last = number
                self.article.author.reader.close()

        def __exit__(self, *exception):
            self.ends.set()
            self.join()

        def stored(self):
            [(body,)] = sql(f"SELECT body FROM post WHERE slug = '{self.article.slug}'")
            return int(body.split()[1])

    return Saving(daemon=True)


def test_site_yml_refuses_the_new_version_and_names_the_playbook(database_of_15, run, major):
    done = run("site.yml")
    assert done.status != 0
    message = " ".join(done.errors)
    assert "db_volume has a cluster of PostgreSQL 15 (in 15/a)" in message
    assert "run upgrade_database.yml" in message
    assert major() == 15


def test_upgrade_without_a_drill_is_refused(database_of_15, upgrade, major):
    done = upgrade()
    assert done.status != 0
    assert "There was no restore drill yet." in " ".join(done.errors)
    assert major() == 15


@pytest.fixture(scope="module")
def drilled(database_of_15, run):
    done = run("playbooks/drill.yml")
    assert done.status == 0, done.output


@pytest.fixture(scope="module")
def rehearse(run):
    """Run upgrade_database.yml without the host's name, and return its Outcome."""
    return lambda: run("playbooks/upgrade_database.yml", "--extra-vars=upgrade_confirm=")


def test_rehearsal_changes_nothing(drilled, rehearse, containers, inspect, content, major):
    before = content()
    done = rehearse()
    assert done.status == 0, done.output
    assert "rows are the same" in done.output
    assert inspect()["db"]["Id"] == containers["db"]["Id"]
    assert (major(), content()) == (15, before)


def test_killed_upgrade_leaves_the_former_version_and_the_next_run_ends_the_maintenance_page(
    drilled, upgrade, rehearse, host, major, status, fetch
):
    outcome = {}
    thread = threading.Thread(target=lambda: outcome.update(done=upgrade()))
    thread.start()
    wait_until(
        lambda: host.run("test -e /var/lib/slipway/restore_maintenance").rc == 0, 300, "the copy has begun"
    )
    host.check_output("systemctl kill --signal=KILL 'slipway-upgrade-*'")
    thread.join()
    assert outcome["done"].status != 0
    assert major() == 15
    assert any("An upgrade of the database was interrupted" in one for one in status()["restore"])
    assert fetch("/login").status == 503
    done = rehearse()
    assert done.status == 0, done.output
    assert major() == 15
    assert fetch("/").status == 200
    assert status()["restore"] == []


def test_upgraded_database_has_all_that_was_saved(drilled, upgrade, saving, content, sql, major, fetch):
    messages = content()[1]
    with saving:
        wait_until(lambda: saving.last, 60, "a text is saved")
        done = upgrade()
    assert done.status == 0, done.output
    assert major() == 17
    assert saving.last > 0
    assert saving.stored() >= saving.last
    assert content()[1] == messages
    assert fetch("/").status == 200
    [told] = [line for line in done.output.splitlines() if "PostgreSQL 17 serves" in line]
    seconds = float(told.split("for ")[1].split(" s.")[0])
    print(told.strip())
    assert seconds < FAST_SECONDS


def test_second_run_changes_nothing(drilled, upgrade, hostname):
    done = upgrade()
    assert done.status == 0, done.output
    assert done.changed == {hostname: 0}


def test_backups_and_drills_go_on(drilled, run, backups, full_backup_ended, check):
    full_backup_ended()
    assert [one["kind"] for one in backups()] == ["full"]
    assert check() == (0, "")
    done = run("playbooks/drill.yml")
    assert done.status == 0, done.output
    assert check() == (0, "")


def test_database_can_be_restored_after_an_upgrade(drilled, host, content, full_backup_ended):
    before = content()
    done = host.run("slipway restore --yes")
    assert done.rc == 0, done.stdout + done.stderr
    assert content() == before
    full_backup_ended()


def test_former_version_comes_back(drilled, upgrade, status, sql, major, fetch):
    assert any("is the database from before an upgrade" in one for one in status()["restore"])
    sql("INSERT INTO contact_message (name, email, body) VALUES ('of-17', 'of-17@example.org', 'later')")
    done = upgrade("--extra-vars=upgrade_undo=true", former=True)
    assert done.status == 0, done.output
    assert major() == 15
    assert sql("SELECT count(*) FROM contact_message WHERE name = 'of-17'") == [("0",)]
    assert fetch("/").status == 200


def test_database_is_upgraded_once_more(drilled, upgrade, run, full_backup_ended, check, major, host):
    full_backup_ended()
    done = run("playbooks/drill.yml", former=True)
    assert done.status == 0, done.output
    done = upgrade()
    assert done.status == 0, done.output
    assert major() == 17
    full_backup_ended()
    assert check() == (0, "")
    host.check_output("slipway restore --forget")
    assert host.check_output("ls /var/lib/docker/volumes/db_volume/_data/15") == ""
