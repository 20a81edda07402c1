"""Repositories on another host: a taken-over host cannot destroy snapshots, and S3 works as SFTP does."""

import json

import pytest
from outside import wait_until

S3 = json.dumps(
    {"backup_repository": "s3://slipway-molecule-recovery-repository.slipway-sandbox/backups/blog"}
)


@pytest.fixture
def snapshot(repositories):
    """Let root of the repositories' server make a snapshot, where SFTP does not lead."""
    yield lambda: repositories.execute("cp --archive --reflink=auto /srv/sftp/backups /srv/snapshot")
    repositories.execute("rm -rf /srv/snapshot")


def test_snapshot_survives_a_host_that_destroys_its_backups(
    snapshot, repositories, docker, host, check, messages
):
    messages.add("before")
    host.check_output("slipway backup run incr")
    snapshot()
    docker("exec slipway-db-1 pgbackrest --stanza=blog stop")
    docker("exec slipway-db-1 pgbackrest --stanza=blog --force stanza-delete")
    docker("exec slipway-db-1 pgbackrest --stanza=blog start")
    assert check()[0] == 1
    repositories.execute("cp --archive --no-target-directory /srv/snapshot /srv/sftp/backups")
    done = host.run("slipway restore --yes")
    assert done.rc == 0, done.stdout + done.stderr
    assert "before" in messages.there


@pytest.fixture(scope="module")
def s3(deploy, host):
    """Put the repository on the S3 server, and back on the SFTP server after the tests."""
    done = deploy("site.yml", "--extra-vars", S3)
    assert done.status == 0, done.output
    yield done
    done = deploy("site.yml")
    assert done.status == 0, done.output


def first_backup(host):
    listed = "slipway backup list --json"
    return wait_until(lambda: json.loads(host.check_output(listed)), 120, "the first backup")


def test_backups_are_made_on_s3(s3, host, check):
    assert first_backup(host)[0]["kind"] == "full"
    assert check() == (0, "")


def test_database_is_restored_from_s3(s3, host, messages):
    first_backup(host)
    messages.add("on S3")
    done = host.run("slipway restore --yes")
    assert done.rc == 0, done.stdout + done.stderr
    assert messages.there == ["on S3"]


def test_drill_passes_on_s3(s3, host):
    done = host.run("slipway drill")
    assert done.rc == 0, done.stdout + done.stderr
