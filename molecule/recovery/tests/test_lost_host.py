"""A host is lost with all of its data. The blog comes back on a bare one, from backups on another host."""

import threading
import time
from types import SimpleNamespace

import pytest
from outside import wait_until

# What a lost host may cost, in seconds: changes of the database, and the run that recovers it.
LOST_SECONDS, AWAY_SECONDS = 60, 300
# The database of the last test: rows with 10 kB of random text each, which Postgres cannot compress.
LARGE_ROWS = 100_000
LARGE = f"""
    INSERT INTO contact_message (name, email, body)
    SELECT 'large', 'large@example.org',
        (SELECT string_agg(md5(random()::text || part || n), '') FROM generate_series(1, 320) part)
    FROM generate_series(1, {LARGE_ROWS}) n
"""
# How long changes are written before the host is lost: longer than the time until a change is archived.
WRITING_SECONDS = 45
# For an app that has files only in the volume of the pictures.
MEDIA, FILE = '{"backup_media": true}', "/var/lib/docker/volumes/media_volume/_data/of-an-app"
# The digest of each secret.
SECRETS = "cd /etc/slipway/secrets && sha256sum *"


class Numbers(threading.Thread):
    """Write numbered messages to the database, one after another, until the host is lost.

    acknowledged: when the database confirmed each message, by its number.
    """

    def __init__(self, sql):
        super().__init__(daemon=True)
        self.sql, self.acknowledged, self.ends = sql, {}, threading.Event()

    def run(self):
        number = 0
        while not self.ends.is_set():
            row = f"('number', 'numbers@example.org', '{number}')"
            try:
                self.sql(f"INSERT INTO contact_message (name, email, body) VALUES {row}")
            except (AssertionError, RuntimeError):
                return
            self.acknowledged[number] = time.monotonic()
            number += 1


@pytest.fixture(scope="module")
def bare(machine, deploy, wipe, pytestconfig):
    """Lose the host. With --drill, its replacement is a new machine; else it keeps engine and images."""

    def bare():
        machine.docker("kill", machine.container)
        if pytestconfig.getoption("drill"):
            for state in ("absent", "present"):
                done = deploy("playbooks/sandbox.yml", f"--extra-vars=sandbox_state={state}")
                assert done.status == 0, done.output
            return
        machine.docker("start", machine.container)
        machine.execute("timeout 60 sh -c 'until docker info >/dev/null 2>&1; do sleep 0.5; done'")
        wipe()

    return bare


@pytest.fixture(scope="module")
def recovered(sql, deploy, bare, fetch, backups, host, ledger, files_are_backed_up):
    """Lose the host while messages are written, and recover it by one command."""
    labels = [one["label"] for one in wait_until(backups, 120, "the first backup")]
    wait_until(files_are_backed_up, 120, "the first backup of the files")
    secrets, releases = host.check_output(SECRETS), ledger()
    [(picture, *_)] = sql("SELECT '/media/' || name FROM media ORDER BY id LIMIT 1")
    page = fetch("/").text
    posts = sql("SELECT count(*) FROM post")
    numbers = Numbers(sql)
    numbers.start()
    time.sleep(WRITING_SECONDS)
    assert numbers.is_alive(), "messages must be written until the host is lost"
    lost_at = time.monotonic()
    bare()
    numbers.ends.set()
    numbers.join()
    began = time.monotonic()
    done = deploy("playbooks/recover.yml")
    away = time.monotonic() - began
    assert done.status == 0, done.output
    there = {int(body) for (body,) in sql("SELECT body FROM contact_message WHERE name = 'number'")}
    return SimpleNamespace(
        output=done.output,
        away=away,
        there=there,
        acknowledged=numbers.acknowledged,
        lost_at=lost_at,
        secrets=secrets,
        releases=releases,
        picture=picture,
        page=page,
        posts=posts,
        labels=labels,
    )


def test_status_does_not_say_that_the_backups_are_on_this_host_only(status):
    assert not any("on this host only" in sentence for sentence in status()["backup"])


def test_database_cannot_reach_anything_but_its_repository(docker, repositories):
    def connect(port):
        tried = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{repositories.ipv4}/{port}'"
        return docker("exec slipway-db-1 sh -c %s", f"{tried} && echo open || echo closed").strip()

    assert [connect(port) for port in (22, 443)] == ["open", "closed"]


def test_database_does_not_have_the_passphrase_of_the_secrets(docker):
    names = docker("exec slipway-db-1 ls /run/secrets").split()
    assert "backup_passphrase" in names
    assert "backup_files_passphrase" not in names


def test_lost_host_is_recovered_in_time(recovered):
    print(f"recovered in {recovered.away:.0f} s")
    assert recovered.away < AWAY_SECONDS


def test_lost_host_costs_less_than_a_minute_of_changes(recovered):
    """All messages up to the last that was archived are there, and no number is missing between them."""
    assert recovered.there == set(range(len(recovered.there)))
    last = recovered.acknowledged[max(recovered.there)]
    lost = len(recovered.acknowledged) - len(recovered.there)
    print(f"lost {lost} messages of {recovered.lost_at - last:.0f} s")
    assert recovered.lost_at - last < LOST_SECONDS


def test_readers_get_the_posts_and_pictures_again(recovered, fetch, sql):
    assert sql("SELECT count(*) FROM post") == recovered.posts
    answer = fetch("/")
    assert answer.status == 200
    assert answer.text.count("<article") == recovered.page.count("<article") > 0
    assert fetch(recovered.picture).status == 200


def test_secrets_of_the_lost_host_come_back(recovered, host):
    """So sessions and forms stay valid."""
    assert host.check_output(SECRETS) == recovered.secrets


def test_ledger_of_the_lost_host_comes_back(recovered, ledger):
    releases = ledger()
    assert [one["id"] for one in releases[: len(recovered.releases)]] == [
        one["id"] for one in recovered.releases
    ]
    assert releases[-1]["outcome"] == "in service"
    assert len(releases) == len(recovered.releases) + 1


def test_first_author_signs_in_with_the_same_password(recovered, host, variables, try_to_sign_in):
    password = host.check_output("cat /etc/slipway/secrets/admin_password")
    assert try_to_sign_in(variables["release_admin_email"], password).signed_in


def test_backups_go_on_after_a_recovery(recovered, backups, full_backup_ended, check):
    full_backup_ended()
    newest = backups()[-1]
    assert newest["kind"] == "full"
    assert newest["label"] not in recovered.labels
    assert check() == (0, "")


def test_recovered_host_has_no_former_database(recovered, status):
    assert not any("former-" in sentence for sentence in status()["restore"])


def test_second_run_of_site_yml_changes_nothing(recovered, deploy, hostname):
    done = deploy("site.yml")
    assert done.status == 0, done.output
    assert done.changed == {hostname: 0}


def test_recovery_is_refused_on_a_host_that_has_a_blog(recovered, deploy, containers, inspect):
    done = deploy("playbooks/recover.yml")
    assert "has a blog already, in the volume db_volume. Nothing was changed." in " ".join(done.errors)
    assert inspect()["db"]["Id"] == containers["db"]["Id"]


def test_recovery_that_failed_after_the_restore_goes_on_when_it_is_repeated(
    recovered, deploy, bare, fetch, sql
):
    bare()
    done = deploy("playbooks/recover.yml", "--extra-vars", '{"release_smoke_paths": ["/none"]}')
    assert done.status != 0
    assert "restoring the files of the backup" in done.output
    done = deploy("playbooks/recover.yml")
    assert done.status == 0, done.output
    assert "restoring the files of the backup" not in done.output
    assert fetch("/").status == 200
    assert sql("SELECT count(*) FROM post") == recovered.posts


@pytest.mark.drill
def test_sessions_of_the_former_key_and_files_of_an_app_come_back(
    recovered, author, deploy, host, wipe, full_backup_ended
):
    signed_in = author()
    host.check_output("slipway rotate key")
    assert signed_in.is_in()
    signed_in.reader.close()
    done = deploy("site.yml", "--extra-vars", MEDIA)
    assert done.status == 0, done.output
    host.check_output("echo of an app > %s && chown 10001:10001 %s", FILE, FILE)
    full_backup_ended()
    host.check_output("slipway backup run incr && slipway backup files")
    wipe()
    done = deploy("playbooks/recover.yml", "--extra-vars", MEDIA)
    assert done.status == 0, done.output
    file = host.file(FILE)
    assert (file.content_string.strip(), file.uid) == ("of an app", 10001)
    assert signed_in.is_in()
    signed_in.reader.close()
    host.check_output("rm %s", FILE)


@pytest.mark.drill
def test_recovery_that_was_given_up_can_be_begun_again(recovered, deploy, wipe, hostname, host, fetch, sql):
    wipe()
    done = deploy("playbooks/recover.yml", "--extra-vars", '{"release_smoke_paths": ["/none"]}')
    assert done.status != 0
    done = deploy("playbooks/teardown.yml", f"--extra-vars=teardown_data_of={hostname}")
    assert done.status == 0, done.output
    assert host.check_output("docker ps --all --quiet; docker volume ls --quiet") == ""
    assert not host.file("/var/lib/slipway-recovery").exists
    done = deploy("playbooks/recover.yml")
    assert done.status == 0, done.output
    assert fetch("/").status == 200
    assert sql("SELECT count(*) FROM post") == recovered.posts


@pytest.mark.drill
def test_database_of_a_gigabyte_is_recovered_in_time(recovered, deploy, wipe, sql, host, full_backup_ended):
    full_backup_ended()
    sql(LARGE)
    [(size,)] = sql("SELECT pg_database_size('blog')")
    assert int(size) > 10**9
    host.check_output("slipway backup run full")
    wipe()
    began = time.monotonic()
    done = deploy("playbooks/recover.yml", ANSIBLE_CALLBACKS_ENABLED="ansible.posix.profile_tasks")
    away = time.monotonic() - began
    assert done.status == 0, done.output
    print(f"{int(size) // 10**6} MB recovered in {away:.0f} s; the longest tasks:")
    print(done.output.rpartition("TASKS RECAP")[2])
    assert sql("SELECT count(*) FROM contact_message WHERE name = 'large'") == [(str(LARGE_ROWS),)]
    assert away < AWAY_SECONDS
    sql("DELETE FROM contact_message WHERE name = 'large'")
