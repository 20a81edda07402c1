"""Backups: changes reach the repository, restores bring them back, drills pass, and failures are reported."""

import json
import time

import pytest
from fixtures_backups import Messages
from outside import Prober, wait_until

REPOSITORY = "/var/lib/docker/volumes/backup_volume/_data"
# The longest time until a change is archived: archive_timeout in compose.yml.j2, and some seconds to archive.
ARCHIVED_SECONDS = 30 + 10
# Limits for this host's database, which has only a few megabytes.
RESTORE_SECONDS, DRILL_SECONDS = 60, 120
# The longest time without a page during a restore. The maintenance page does not count as a page.
PAUSE_SECONDS = 20
TIMERS = ["full", "diff", "incr", "check", "verify"]


@pytest.fixture(scope="module", autouse=True)
def first_backup(host, backups, full_backup_ended):
    """Wait until the first backup, which begins with the first run of site.yml, has ended."""
    wait_until(backups, 120, "the first backup")
    yield
    full_backup_ended()
    host.check_output("slipway restore --forget")


def unit(host, name):
    return host.run(f"systemctl is-active '{name}'").stdout.strip()


def test_timers_of_backups_and_drills_are_active(host):
    for name in [*(f"slipway-backup-{kind}.timer" for kind in TIMERS), "slipway-drill.timer"]:
        assert unit(host, name) == "active", name


def test_repository_cannot_be_read_with_another_passphrase(docker):
    command = "exec --env PGBACKREST_REPO1_CIPHER_PASS=wrong slipway-db-1 pgbackrest --stanza=blog info"
    # grep needs --text, because the error message includes encrypted bytes.
    assert docker(f"{command} | grep --text --only-matching 'Error]'")


def test_no_file_of_the_repository_is_readable_without_the_passphrase(host):
    """Unencrypted, the small files would be text, and the others compressed by zstd or gzip."""
    files = f"[file for file in pathlib.Path('{REPOSITORY}').rglob('*') if file.is_file()]"
    starts = host.check_output(
        "python3 -c %s", f"import pathlib; print(*(file.read_bytes()[:4].hex() for file in {files}))"
    ).split()
    assert len(starts) > 5
    assert [one for one in starts if one == "28b52ffd" or one.startswith(("1f8b", b"[ba".hex()))] == []


def test_only_the_database_can_read_the_passphrase(host):
    file = host.file("/etc/slipway/secrets/backup_passphrase")
    assert (file.uid, file.mode) == (999, 0o400)


def test_change_is_archived_within_seconds(sql, messages):
    messages.add("archived")
    [(segment,)] = sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    archived = f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver"
    wait_until(lambda: sql(archived) == [("t",)], ARCHIVED_SECONDS, "the segment is archived")


def test_check_finds_no_problem(check):
    assert check() == (0, "")


def test_status_names_the_newest_backup(backups, status, check):
    newest = backups()[-1]
    check()
    assert any(sentence.startswith(f"newest {newest['label']} of ") for sentence in status()["backup"])


def test_status_says_that_the_backups_are_on_this_host_only(status):
    assert "The backups are on this host only, so they are lost together with it." in status()["backup"]


def test_incremental_backup_is_made(deploy, backups):
    done = deploy("playbooks/backup.yml")
    assert done.status == 0, done.output
    newest = backups()[-1]
    assert newest["kind"] == "incr"
    assert f"{newest['label']}: " in done.output


def test_metrics_have_the_backups(host):
    lines = host.check_output("slipway metrics").splitlines()
    assert "slipway_backup_problems 0" in lines


# --- Restores -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restored(host, sql, reader, backups, deploy, hostname):
    """Restore a moment, undo it, restore the moment again, and then the end of the archive.

    Returns the messages after each step, how long the restores took, and what readers got.
    """

    def run(options):
        began = time.monotonic()
        done = host.run(f"slipway restore --yes {options}")
        assert done.rc == 0, done.stdout + done.stderr
        return time.monotonic() - began

    marked = Messages(sql, "restore@example.org")
    marked.clear()
    marked.add("first")
    [(moment,)] = sql("SELECT now()")
    marked.add("second")
    labels = [one["label"] for one in backups()]
    steps, seconds = {"before": marked.there}, {}
    with Prober(reader) as readers:
        seconds["moment"] = run(f"--to '{moment}'")
    steps["moment"] = marked.there
    seconds["undo"] = run("--undo")
    steps["undo"] = marked.there
    began = time.monotonic()
    asked = f"restore_confirm={hostname} restore_to={moment.replace(' ', 'T')}"
    done = deploy("playbooks/restore.yml", "--extra-vars", asked)
    assert done.status == 0, done.output
    seconds["again"] = time.monotonic() - began
    steps["again"] = marked.there
    marked.add("third")
    seconds["latest"] = run("")
    steps["latest"] = marked.there
    marked.clear()
    return {"steps": steps, "seconds": seconds, "readers": readers, "labels": labels}


@pytest.mark.parametrize(
    ("step", "messages"),
    [
        ("before", ["first", "second"]),
        ("moment", ["first"]),
        ("undo", ["first", "second"]),
        ("again", ["first"]),
        ("latest", ["first", "third"]),
    ],
)
def test_restored_database_has_what_was_written_until_then(restored, step, messages):
    assert restored["steps"][step] == messages


def test_restore_of_a_small_database_takes_less_than_a_minute(restored):
    assert max(restored["seconds"].values()) < RESTORE_SECONDS, restored["seconds"]


def test_readers_get_a_page_again_after_seconds(restored):
    failed_at = restored["readers"].failed_at
    assert max(failed_at) - min(failed_at) < PAUSE_SECONDS


def test_maintenance_is_off_after_a_restore(restored, status):
    assert status()["maintenance"] is False


def test_former_databases_are_kept_and_named_by_status(restored, status):
    assert len([one for one in status()["restore"] if one.startswith("former-")]) == 3


def test_full_backup_follows_a_restore(restored, backups, full_backup_ended):
    full_backup_ended()
    newest = backups()[-1]
    assert newest["kind"] == "full"
    assert newest["label"] not in restored["labels"]


def test_check_finds_no_problem_after_restores(restored, check):
    assert check() == (0, "")


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("yesterday", "is not a time"),
        ("2001-01-01 00:00:00+00", "cannot be restored: choose a time from"),
        ("2999-01-01 00:00:00+00", "cannot be restored: choose a time from"),
    ],
)
def test_impossible_time_is_refused_before_anything_changes(host, inspect, to, words):
    before = inspect()["db"]["Id"]
    done = host.run("slipway restore --yes --to %s", to)
    assert done.rc == 1
    assert words in done.stderr
    assert inspect()["db"]["Id"] == before


def test_restore_without_a_confirmation_changes_nothing(host, inspect):
    before = inspect()["db"]["State"]["StartedAt"]
    done = host.run("slipway restore < /dev/null")
    assert "add --yes" in done.stderr
    assert inspect()["db"]["State"]["StartedAt"] == before


# --- Drills -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drilled(host, deploy):
    """Run the drill, and return the output of the playbook and the entry in the record."""
    done = deploy("playbooks/drill.yml")
    assert done.status == 0, done.output
    return {
        "output": done.output,
        "entry": json.loads(host.check_output("cat /var/lib/slipway/drills.json"))[-1],
    }


def test_drill_passes(drilled):
    assert drilled["entry"]["passed"]


def test_drill_restores_a_random_moment_too(drilled):
    assert drilled["entry"]["moment"]


def test_drill_compares_the_rows(drilled):
    assert drilled["entry"]["rows"] > 10


def test_drill_measures_what_a_lost_host_would_cost(drilled):
    assert drilled["entry"]["rpo_seconds"] <= 60
    assert 0 < drilled["entry"]["rto_seconds"] < DRILL_SECONDS


def test_drill_leaves_nothing_behind(drilled, docker, host):
    assert docker("ps --all --quiet --filter label=com.docker.compose.service=db_drill") == ""
    assert "slipway_drill" not in docker("volume ls --quiet").split()
    assert not host.file("/etc/slipway/in-service/drill").exists


def test_status_shows_the_drill(drilled, status):
    [sentence] = status()["drill"]
    assert sentence.startswith("passed at ")


def test_drill_is_ended_by_a_release_and_leaves_no_result(drilled, host, docker, containers):
    before = host.check_output("cat /var/lib/slipway/drills.json")
    host.check_output("systemd-run --quiet --collect --unit=slipway-test-drill slipway drill --in-unit")
    running = "ps --quiet --filter label=com.docker.compose.service=db_drill"
    wait_until(lambda: docker(running), 30, "the drill restores")
    done = host.run("slipway release %s --by=anna", containers["flask_blog"]["Image"])
    assert done.rc == 0, done.stdout + done.stderr
    assert host.check_output("cat /var/lib/slipway/drills.json") == before
    assert docker(running) == ""


# --- Failures are loud --------------------------------------------------------------------------------------


DROP_LAST = (
    "import json, pathlib; file = pathlib.Path('drills.json'); "
    "file.write_text(json.dumps(json.loads(file.read_text())[:-1]))"
)


def bundles(host):
    """Return the paths of pgBackRest's bundles: files in the repository that hold files of the database."""
    return host.check_output(f"find {REPOSITORY}/backup/blog -path '*/bundle/*' -type f | sort").split()


def flip_byte(host, path):
    """Change a byte in the middle of a file."""
    host.check_output(
        f"printf X | dd of={path} bs=1 seek=$(($(stat --format=%s {path}) / 2)) conv=notrunc status=none"
    )


@pytest.fixture
def kept_repository(host):
    """Keep a copy of the repository, and put it back after the test."""
    host.check_output(f"rm -rf /var/tmp/repository && cp -a {REPOSITORY} /var/tmp/repository")
    yield
    host.check_output(f"find {REPOSITORY} -mindepth 1 -delete && cp -a /var/tmp/repository/. {REPOSITORY}")
    host.check_output("rm -r /var/tmp/repository")
    # The copy lacks what was archived during the test.
    host.check_output("slipway backup run full")
    host.check_output("slipway backup verify")
    host.run("systemctl reset-failed 'slipway-backup*'")


def test_damaged_file_of_a_backup_is_found(kept_repository, host, status):
    flip_byte(host, bundles(host)[-1])
    assert host.run("systemctl start slipway-backup-verify").rc != 0
    assert any("damaged" in sentence for sentence in status()["backup"])


@pytest.mark.drill
def test_drill_of_a_damaged_backup_fails(kept_repository, host, status):
    for file in bundles(host):
        flip_byte(host, file)
    done = host.run("slipway drill")
    try:
        assert done.rc == 1
        assert status()["drill"][0].startswith("failed at ")
    finally:
        host.check_output("cd /var/lib/slipway && python3 -c %s", DROP_LAST)


FLIP = """
import pathlib, random, sys
chance = random.Random(int(sys.argv[1]))
files = [pathlib.Path(path) for path in sys.argv[2:]]
[file] = chance.choices(files, [path.stat().st_size for path in files])
content = bytearray(file.read_bytes())
place = chance.randrange(len(content))
pathlib.Path("/var/tmp/flipped").write_text(str(file))
pathlib.Path("/var/tmp/unflipped").write_bytes(content)
content[place] ^= 1 << chance.randrange(8)
with file.open("r+b") as opened:
    opened.write(content)
print(file, place)
"""
UNFLIP = "cp --no-preserve=mode,ownership /var/tmp/unflipped $(cat /var/tmp/flipped)"


@pytest.fixture
def is_whole(host):
    """Tell whether the newest restorable database has the same content as the one that runs."""
    place, text = "/root/of-a-test", "pg_restore --file=- | grep -v 'restrict ' | sha256sum"
    database = "docker exec -i slipway-db-1 sh -c"

    def is_whole():
        host.check_output(f"rm -rf {place} && slipway restore --into {place}")
        restored = host.check_output(f"{database} %s < {place}/blog.dump", text)
        dump = "pg_dump --username=postgres --format=custom blog"
        return restored == host.check_output(f"{database} %s", f"{dump} | {text}")

    yield is_whole
    host.run(f"rm -rf {place}")


@pytest.mark.drill
def test_drill_never_passes_with_a_flipped_bit_that_damages_the_database(
    kept_repository, host, backups, is_whole
):
    """The files are those that a restore reads: without the manifest, of which there is a copy.

    A restore into an empty directory does not read all that is in them, such as the checksums of blocks.
    """
    host.check_output("slipway backup run full")
    newest = backups()[-1]
    damaged, harmless = [], []
    for seed in range(20):
        data = f"find {REPOSITORY}/backup/blog/{newest['label']} -type f ! -name '*.manifest*'"
        log = f"find {REPOSITORY}/archive/blog -type f -name '0*.zst'"
        files = host.check_output(data).split()
        files += [path for path in host.check_output(log).split() if segment(path) >= newest["segment"]]
        place = host.check_output("python3 -c %s %s " + " ".join(files), FLIP, str(seed))
        passed = host.run("slipway drill").rc == 0
        if passed:
            assert is_whole(), f"a drill passed with a damaged database: {place}"
        host.check_output(UNFLIP)
        host.check_output("cd /var/lib/slipway && python3 -c %s", DROP_LAST)
        (harmless if passed else damaged).append(place)
    print(f"found in {len(damaged)} drills; harmless: {harmless}")
    assert len({place.split()[0] for place in damaged}) > 1
    assert len(damaged) > len(harmless)


def segment(path):
    """Return the name of the segment in the path of an archived file."""
    return path.rpartition("/")[2].partition("-")[0]


def test_missing_segment_of_the_log_is_found(kept_repository, host, sql, status):
    def archive_a_segment():
        sql("SELECT pg_current_xact_id()")
        [(name,)] = sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        sql("SELECT pg_switch_wal()")
        return wait_until(
            lambda: host.check_output(f"find {REPOSITORY}/archive/blog -name '{name}-*.zst'"),
            30,
            "it is archived",
        )

    _before, file, _after = [archive_a_segment() for _ in range(3)]
    host.check_output("rm %s", file)
    assert host.run("slipway backup verify").rc == 1
    assert any("A part of the archive is missing" in sentence for sentence in status()["backup"])


@pytest.mark.drill
def test_repository_that_cannot_be_written_is_found(kept_repository, host, sql, messages, status):
    host.check_output(f"mv {REPOSITORY}/archive {REPOSITORY}/gone")
    messages.add("lost?")
    sql("SELECT pg_switch_wal()")
    archive = "SELECT last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver"
    wait_until(lambda: sql(archive) == [("t",)], 60, "an attempt to archive fails")
    assert host.run("systemctl start slipway-backup-check").rc != 0
    assert len(status()["backup"]) > 2
    host.check_output(f"mv {REPOSITORY}/gone {REPOSITORY}/archive")
    wait_until(lambda: sql(archive) == [("f",)], 120, "the segment is archived")
