"""Repositories on another host: a compromised host cannot destroy snapshots, and S3 works as SFTP does."""

import json
import subprocess

import pytest
from outside import wait_until
from runbook import printed

S3 = json.dumps(
    {"backup_repository": "s3://slipway-molecule-recovery-repository.slipway-sandbox/backups/blog"}
)


@pytest.fixture(scope="module", autouse=True)
def idle_backups(host, full_backup_ended):
    """Wait for the backup that a recovery began. Afterwards, forget the former databases."""
    full_backup_ended()
    yield
    full_backup_ended()
    host.check_output("slipway restore --forget")


@pytest.fixture
def restore_before(host, sql, messages):
    """Add a message, read the time, and add another message. The function restores that time."""
    messages.add("before")
    [(moment,)] = sql("SELECT now()")
    messages.add("after")

    def restore():
        done = host.run("slipway restore --yes --to %s", moment)
        assert done.rc == 0, done.stdout + done.stderr
        assert messages.there == ["before"]

    return restore


@pytest.fixture
def snapshot(repositories):
    """Make a snapshot as root of the repositories' server, outside the directory that SFTP can reach."""
    yield lambda: repositories.execute(printed("/srv/snapshots"))
    repositories.execute("rm -rf /srv/snapshots")


def test_restore_opens_few_files_on_the_server(docker):
    """sshd allows 1,024 open files. Two processes restore, but one of them may be busy with a large file."""
    docker("exec slipway-db-1 mkdir --mode=0700 /tmp/restored")
    restore = "pgbackrest --stanza=blog restore --type=none --process-max=1 --pg1-path=/tmp/restored"
    try:
        docker(f"exec slipway-db-1 {restore}")
    finally:
        docker("exec slipway-db-1 rm -rf /tmp/restored")


def test_snapshot_survives_a_host_that_destroys_its_backups(
    snapshot, repositories, docker, host, check, restore_before
):
    host.check_output("slipway backup run incr")
    snapshot()
    docker("exec slipway-db-1 pgbackrest --stanza=blog stop")
    docker("exec slipway-db-1 pgbackrest --stanza=blog --force stanza-delete")
    docker("exec slipway-db-1 pgbackrest --stanza=blog start")
    assert check()[0] == 1
    repositories.execute("cp --archive --no-target-directory /srv/snapshots/* /srv/sftp/backups")
    restore_before()


def test_damaged_backup_of_files_is_reported(repositories, host, check):
    pack = repositories.execute("find /srv/sftp/backups/blog/files/data -type f | head -1").strip()
    repositories.execute(f"cp -a {pack} /srv/pack && truncate --size=10 {pack}")
    try:
        assert host.run("slipway backup verify").rc == 1
        assert "The backups of secrets, certificates and the ledger are damaged" in check()[1]
    finally:
        repositories.execute(f"mv /srv/pack {pack}")
    host.check_output("slipway backup files")
    host.check_output("slipway backup verify")
    assert check() == (0, "")


def test_host_keys_are_those_that_the_runbook_reads(repositories, variables):
    command = printed("ssh-keyscan", host=repositories.ipv4)
    found = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout
    assert set(variables["backup_sftp_host_keys"]) <= set(found.splitlines())


@pytest.mark.drill
def test_damaged_backups_of_files_are_begun_anew(repositories, host, check):
    place = "/srv/sftp/backups/blog/files"
    repositories.execute(f"find {place}/data -type f -exec truncate --size=10 {{}} +")
    assert host.run("slipway backup verify").rc == 1
    assert "The backups of secrets, certificates and the ledger are damaged" in check()[1]
    repositories.execute(f"mv {place} /srv/damaged-files")
    try:
        for command in ("slipway backup files", "slipway backup verify"):
            done = host.run(command)
            assert done.rc == 0, done.stdout + done.stderr
        assert check() == (0, "")
    finally:
        repositories.execute("rm -rf /srv/damaged-files")


@pytest.mark.drill
def test_missing_backups_of_files_are_reported(repositories, host, check):
    place = "/srv/sftp/backups/blog/files"
    host.check_output("slipway backup files")
    repositories.execute(f"mv {place} /srv/missing-files")
    try:
        host.check_output("slipway backup files")
        assert "the repository was missing" in check()[1]
        host.check_output("slipway backup verify")
        assert check() == (0, "")
    finally:
        repositories.execute("rm -rf /srv/missing-files")


@pytest.fixture(scope="module")
def s3(deploy, full_backup_ended, backups):
    """Put the repository on the S3 server, and back on the SFTP server after the tests."""
    full_backup_ended()
    done = deploy("site.yml", "--extra-vars", S3)
    assert done.status == 0, done.output
    wait_until(backups, 120, "the first backup")
    yield done
    full_backup_ended()
    done = deploy("site.yml")
    assert done.status == 0, done.output


def test_backups_are_made_on_s3(s3, backups, check):
    assert backups()[0]["kind"] == "full"
    assert check() == (0, "")


def test_database_is_restored_from_s3(s3, restore_before):
    restore_before()


def test_files_come_back_from_s3(s3, host):
    """A host without a ledger counts as a new one."""
    ledger, mark = "/var/lib/slipway/releases.json", "/etc/slipway/of-a-test"
    host.check_output("echo a key > %s", mark)
    host.check_output("slipway backup files")
    host.check_output("rm %s && mv %s /root/ledger", mark, ledger)
    host.check_output("slipway backup restore-files")
    assert host.check_output("cat %s && rm %s", mark, mark) == "a key"
    host.check_output("cmp /root/ledger %s && rm /root/ledger", ledger)


def test_drill_passes_on_s3(s3, host):
    done = host.run("slipway drill")
    assert done.rc == 0, done.stdout + done.stderr
