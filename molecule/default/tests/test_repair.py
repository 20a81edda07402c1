"""One run of site.yml repairs everything that Slipway manages. The next run changes nothing."""

import json
import time

import pytest

RECORD = "/var/lib/slipway/files.json"
# The record has the host program as one tree, not file by file. So the test damages this one module of it.
MODULE = "/usr/local/lib/slipway/current/slipway/release.py"
# sudo ignores a file that others may write, and a play could not become root without this one.
SUDOERS = "/etc/sudoers.d/slipway"
SECRET = "/etc/slipway/secrets/app_secret_key"


@pytest.fixture(scope="module")
def files(host, deploy):
    """Repair what other tests left; return the files that the record lists as Slipway's."""
    assert deploy("site.yml").status == 0
    record = json.loads(host.file(RECORD).content_string)
    return [*(path for path, item in record.items() if item["kind"] == "file"), MODULE]


def test_record_has_files_of_each_role(host, files):
    """Otherwise, the next test would damage too few files."""
    roles = {item["role"] for item in json.loads(host.file(RECORD).content_string).values()}
    names = ("baseline", "docker", "images", "host_program", "tls", "backup", "stack", "release")
    assert roles == {f"slipway.blog.{name}" for name in names}
    assert len(files) >= 20


@pytest.fixture
def state(host, inspect, sql, files):
    """Return what a run must restore: content and modes of files, firewall, containers, database roles."""

    def state():
        paths = " ".join([*files, "$(find /etc/slipway -type f | sort)"])
        users, public = "rolname !~ '^pg_'", "roleid >= 16384"
        return {
            "content": host.check_output(f"sha256sum {paths}"),
            "modes": host.check_output(
                f"stat --format '%n %u:%g %a' {paths} /etc/slipway /etc/slipway/secrets"
            ),
            "firewall": host.run("nft --stateless list chain inet slipway forward").stdout,
            "link": host.check_output("readlink /opt/slipway/.env || echo none"),
            "containers": sorted((service, c["Image"]) for service, c in inspect().items()),
            "roles": sql(f"SELECT rolname, rolcanlogin FROM pg_roles WHERE {users} ORDER BY 1"),
            "members": sql(
                f"SELECT roleid::regrole, member::regrole FROM pg_auth_members WHERE {public} ORDER BY 1, 2"
            ),
        }

    return state


def test_one_run_repairs_everything_that_slipway_manages(
    host, files, state, sql, deploy, healthy, login, app_role, get
):
    before = state()
    for path in files:
        damage = "echo '# corrupt' >> %s" if path == SUDOERS else "chmod 0666 %s && echo corrupt >> %s"
        host.check_output(damage, *[path] * damage.count("%s"))
    host.check_output(
        "rm /opt/slipway/.env && chmod 0444 %s && chmod 0755 /etc/slipway /etc/slipway/secrets", SECRET
    )
    host.check_output("nft delete table inet slipway")
    sql(f"ALTER ROLE {app_role} NOLOGIN PASSWORD 'forgotten'")
    sql(f"REVOKE blog_app FROM {app_role}")
    broken = state()
    assert [key for key in before if broken[key] == before[key]] == ["containers"]

    done = deploy("site.yml")
    assert done.status == 0, done.output
    after = state()
    assert {key: after[key] for key in after if after[key] != before[key]} == {}
    healthy()
    assert login(app_role, "SELECT 1").rc == 0
    assert "Ropes: a table" in get("/", Cookie="session=unknown").text


def test_empty_secret_is_refused_and_generated_again_after_its_removal(
    host, deploy, hostname, inspect, healthy, login, app_role, status
):
    file, before = "/etc/slipway/secrets/db_migrator_password", inspect()
    host.check_output("truncate --size=0 %s", file)
    try:
        done = deploy("site.yml")
        assert done.status == 2, done.output
        assert done.changed == {hostname: 0}, done.output
        refused = f"is empty or damaged: {file}. Nothing was changed. Remove the"
        assert refused in " ".join(done.output.split())
        assert login(app_role, "SELECT 1").rc == 0
    finally:
        host.check_output("rm %s", file)

    done = deploy("site.yml", "--tags", "secrets,images,release")
    assert done.status == 0, done.output
    assert host.file(file).size == 40
    assert {service: c["Id"] for service, c in healthy().items()} == {s: c["Id"] for s, c in before.items()}
    assert status()["drift"] == []


# A visit is a task that talks to the host. It costs a third of a second, so a new one needs a reason. One of
# the six is the connection that holds the lock of the run.
VISITS = 6
SECONDS = 15


@pytest.fixture
def visits(host):
    """Return the number of times that a play has become root on the host."""
    # sudo logs this command too. Because of the brackets, grep does not count it.
    lines = "journalctl --sync; journalctl --boot --output=cat _COMM=sudo | grep --count 'BECOME[-]SUCCESS'"
    return lambda: int(host.check_output(lines))


def test_next_run_changes_nothing_and_is_fast(deploy, hostname, visits):
    """Only one of three runs has to be fast, because the machine may be busy."""
    seconds = []
    while not seconds or (seconds[-1] > SECONDS and len(seconds) < 3):
        before, began = visits(), time.monotonic()
        done = deploy("site.yml")
        seconds.append(round(time.monotonic() - began, 1))
        assert done.status == 0, done.output
        assert done.changed == {hostname: 0}, done.output
        assert VISITS / 2 < visits() - before <= VISITS, done.output
    assert seconds[-1] <= SECONDS, seconds
