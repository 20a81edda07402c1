"""If `slipway` is killed in any stage of a release or rollback, the next run cleans up and goes on.

A wrapper of the command `docker` kills `slipway` at a given command of a given stage.
"""

from dataclasses import dataclass

import pytest
from outside import Prober
from variants import HEAD

PLACE = "/run/slipway-test"
# The wrapper is in the first directory of the PATH of `slipway`.
CLIENT = "/usr/local/sbin/docker"
KILLS = rf"""#!/bin/sh
real=/usr/bin/docker place={PLACE}
strike() {{
    flock --nonblock /run/slipway/lock true || cp /run/slipway/lock $place/struck
    systemctl kill --signal=KILL 'slipway-release-*'
    sleep infinity
}}
[ -e $place/fault ] && grep --quiet slipway-release- /proc/self/cgroup \
    && read -r stage number moment < $place/fault \
    && tail --lines=1 /run/slipway/slipway-release-*.log | grep --quiet "^$stage " || exec $real "$@"
echo >> $place/commands
[ "$(wc --lines < $place/commands)" = "$number" ] || exec $real "$@"
case $moment in
    during)
        $real "$@" &
        once='--filter label=com.docker.compose.oneoff=True'
        while kill -0 $! && ! $real ps --quiet $once | grep --quiet .; do sleep 0.05; done
        ;;
    after) $real "$@" ;;
esac
strike
"""
# A migration that goes on in the database after its client is killed.
MIGRATION = f"""
COPY --chmod=0644 <<END /app/migrations/versions/9001_of_a_test.py
from alembic import op

revision, down_revision, destructive = "9001", "{HEAD}", False


def upgrade():
    op.execute("CREATE TABLE slipway_test (n int); SELECT pg_sleep({{seconds}})")
END
"""
NEVER_READY = "CMD sleep infinity\n"


# The stages after the ledger says that the release is in service.
AFTER = ("drain", "tidy", "pictures")


@dataclass(frozen=True)
class Kill:
    """The moment at which a run is killed: before, during or after the nth docker command of a stage."""

    command: str
    stage: str
    moment: str
    number: int = 1
    lines: str = ""

    def __str__(self):
        return f"{self.command}-{self.stage}-{self.moment}-{self.number}"

    @property
    def had_readers(self):
        """Whether readers already got the release at that moment."""
        return self.stage in ("switch", *AFTER)


SLOW = MIGRATION.format(seconds=600)
# `make test` runs only these. `make soak` runs all.
FEW = [Kill("release", "migrate", "during", lines=SLOW)]
MORE = [
    Kill("release", "switch", "before"),
    Kill("release", "check", "before"),
    Kill("release", "check", "after", 3),
    Kill("release", "database", "after", 2),
    Kill("release", "schema", "during", 2),
    Kill("release", "dump", "before", 2, lines=SLOW),
    Kill("release", "start", "before", 2),
    Kill("release", "admin", "during"),
    Kill("release", "ready", "before", lines=NEVER_READY),
    Kill("release", "smoke", "after", 3),
    Kill("release", "drain", "before"),
    Kill("release", "drain", "after"),
    Kill("release", "tidy", "before"),
    Kill("release", "pictures", "before"),
    Kill("rollback", "check", "after", 2),
    Kill("rollback", "database", "before"),
    Kill("rollback", "start", "after", 2),
    Kill("rollback", "ready", "before"),
    Kill("rollback", "smoke", "before"),
    Kill("rollback", "switch", "after"),
    Kill("rollback", "drain", "after"),
    Kill("rollback", "tidy", "before"),
]


@pytest.fixture
def run_until_killed(host):
    """Run `slipway` until it is killed. Assert that it held the lock, and that the lock is free now."""
    host.check_output("mkdir %s && echo %s > %s && chmod 0755 %s", PLACE, KILLS, CLIENT, CLIENT)

    def run_until_killed(kill, command):
        host.check_output("echo %s > %s/fault", f"{kill.stage} {kill.number} {kill.moment}", PLACE)
        assert host.run(command).rc != 0
        assert ", process " in host.check_output("cat %s/struck", PLACE), "slipway did not hold the lock"
        assert host.check_output("cat /run/slipway/lock") == host.check_output("cat %s/struck", PLACE)
        host.check_output("flock --nonblock /run/slipway/lock true")
        host.check_output("rm %s/fault", PLACE)

    yield run_until_killed
    host.check_output("rm --recursive --force %s %s", CLIENT, PLACE)


def newest(ledger, image):
    """Return the id of the newest release that put this image into service."""
    return [e["id"] for e in ledger if (e["image"], e["outcome"]) == (image, "in service")][-1]


@pytest.fixture(scope="module")
def first_image(variant, inspect, host, ledger):
    """The image in service before these tests. After the tests, roll back to this image."""
    [first_image] = [c["Image"] for service, c in inspect().items() if "flask_blog" in service]
    yield first_image
    host.check_output("slipway rollback %s", newest(ledger(), first_image))


@pytest.fixture
def restored_schema(sql):
    """Restore the schema after the test."""
    yield
    sql("DROP TABLE IF EXISTS slipway_test")
    sql(f"UPDATE alembic_version SET version_num = '{HEAD}'")
    sql("DELETE FROM schema_history WHERE revision = '9001'")


@pytest.fixture
def assert_clean(host, sql, healthy, slot, status):
    """Assert that an image is in service, and that nothing is left of the killed run."""

    def assert_clean(serves):
        containers = healthy()
        assert containers.keys() == {"nginx", "db", f"flask_blog_{slot()}"}
        assert containers[f"flask_blog_{slot()}"]["Image"] == serves
        now = status()
        assert now["drift"] == []
        assert now["under_way"] is None
        assert now["image"] == serves
        assert host.check_output("ls --almost-all /var/lib/slipway/www") == "static"
        assert "isolated-" not in host.check_output("ls /var/lib/slipway/slot")
        once = "docker ps --all --quiet --filter label=com.docker.compose.oneoff=True"
        assert host.check_output(once) == ""
        assert host.check_output("ls /etc/slipway/in-service").split() == sorted(["admin_password", slot()])
        assert sql("SELECT rolname FROM pg_roles WHERE rolname ~ '^blog_app_' AND rolcanlogin") == [
            (f"blog_app_{slot()}",)
        ]
        assert sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'blog_migrator'") == [("0",)]

    return assert_clean


@pytest.mark.parametrize(
    "kill", [*FEW, *(pytest.param(kill, marks=pytest.mark.soak) for kill in MORE)], ids=str
)
def test_next_run_cleans_up_after_a_killed_run(
    kill, run_until_killed, assert_clean, restored_schema, host, variant, first_image, inspect, reader, ledger
):
    if first_image not in [c["Image"] for c in inspect().values()]:
        # Begin each test with this image, so that it is always among the images that the host keeps.
        host.check_output("slipway rollback %s", newest(ledger(), first_image))
    if kill.command == "release":
        image = variant(kill.lines)
        command = again = f"slipway release {image}"
        if kill.lines:
            image = variant(MIGRATION.format(seconds=0) if kill.lines == SLOW else "")
            again = f"slipway release {image}"
    else:
        host.check_output("slipway release %s", variant())
        image = first_image
        command = again = f"slipway rollback {newest(ledger(), first_image)}"

    with Prober(reader) as prober:
        run_until_killed(kill, command)
        entry = ledger()[-1]
        told = host.check_output(again)
        assert_clean(image)
    assert prober.failures == []
    assert prober.answered > 20

    cut = f"Release {entry['id']} was interrupted during the stage `{kill.stage}`"
    ended = [e["outcome"] for e in ledger() if e["id"] == entry["id"]]
    if kill.stage in AFTER:
        assert entry["outcome"] == "in service"
        assert cut not in told
    else:
        assert entry["outcome"] == "under way"
        assert (
            f"{cut}{', after the switch; it was finished.' if kill.had_readers else '; it was undone.'}"
            in told
        )
        assert ended == ["in service" if kill.had_readers else "failed"]
