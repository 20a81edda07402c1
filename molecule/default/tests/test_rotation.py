"""While secrets are rotated, no request of readers or of a signed-in author fails."""

import json
from secrets import token_hex

import pytest
from outside import Prober, Writer

EMAIL, PASSWORD = "writer@example.org", "a password of the tests"


@pytest.fixture
def writer(create_admin, sql, try_to_sign_in):
    """Create an author of the blog who is signed in."""
    create_admin(EMAIL, PASSWORD)
    author = try_to_sign_in(EMAIL, PASSWORD)
    assert author.signed_in
    yield author
    sql(f"DELETE FROM user_account WHERE email = '{EMAIL}'")


@pytest.fixture
def accepts_password(host, inspect):
    """Return whether the database accepts a password of a role over TCP."""

    def accepts_password(role, password):
        db = inspect()["db"]
        address = db["NetworkSettings"]["Networks"]["slipway_data"]["IPAddress"]
        return (
            host.run(
                "docker exec --env PGPASSWORD=%s %s psql --no-password -XAtqc 'SELECT 1' %s",
                password,
                db["Id"],
                f"host={address} user={role} dbname=blog",
            ).rc
            == 0
        )

    return accepts_password


def test_writer_reports_failures(writer):
    writer.cookie = ""
    with Writer(writer) as prober:
        pass
    assert prober.answered == 0
    assert set(prober.failures) == {"status 400 to the form"}


def test_no_request_fails_during_a_rotation_of_all_secrets(
    deploy, reader, writer, try_to_sign_in, read_secrets, variables, slot, accepts_password, ledger
):
    old, admin = read_secrets(), variables["release_admin_email"]
    before = try_to_sign_in(admin, old["admin_password"])
    assert before.signed_in
    slot_before = slot()
    with Prober(reader) as readers, Writer(writer) as writes:
        done = deploy("playbooks/rotate_secrets.yml")
    assert done.status == 0, done.output
    assert readers.failures == []
    assert readers.answered > 100
    assert writes.failures == []
    assert writes.answered > 50

    new = read_secrets()
    # A new value could not decrypt the backups.
    assert [name for name in old if old[name] == new[name]] == ["backup_passphrase"]
    assert old.named_in(done.output) + new.named_in(done.output) == []
    assert "/etc/slipway/secrets/admin_password" in done.output

    assert slot() != slot_before
    for role, secret in {
        "postgres": "db_superuser_password",
        "blog_migrator": "db_migrator_password",
    }.items():
        accepted = {"old": accepts_password(role, old[secret]), "new": accepts_password(role, new[secret])}
        assert accepted == {"old": False, "new": True}, role
    for password in (old["db_app_password"], new["db_app_password"]):
        assert not accepts_password(f"blog_app_{slot_before}", password)
    assert not accepts_password(f"blog_app_{slot()}", old["db_app_password"])
    assert accepts_password(f"blog_app_{slot()}", new["db_app_password"])

    assert not before.is_in(), "a new password ends the admin's sessions"
    assert not try_to_sign_in(admin, old["admin_password"]).signed_in
    assert try_to_sign_in(admin, new["admin_password"]).signed_in

    entry = ledger()[-1]
    assert entry["outcome"] == "in service"
    assert entry["slot"] == slot()
    assert sorted(entry["secrets"]) == sorted(new.keys() - {"backup_passphrase"})


def test_site_yml_puts_a_changed_value_of_the_vault_into_service(deploy, reader, writer, read_secrets, slot):
    """Only the first run has the vault's values. The second run has no vault, and must change nothing."""
    slot_before, given = slot(), token_hex(20)
    site = ("site.yml", "--tags", "secrets,release")
    with Prober(reader) as readers, Writer(writer) as writes:
        done = deploy(
            *site,
            "--extra-vars",
            json.dumps({"secrets_vault": {"app_secret_key": given, "db_app_password": token_hex(20)}}),
        )
    assert done.status == 0, done.output
    assert readers.failures == []
    assert writes.failures == []
    assert slot() != slot_before
    # Store the result in a variable first: pytest would print the secrets that an assert compares.
    is_in_service = given in read_secrets().values()
    assert is_in_service

    done = deploy(*site)
    assert done.status == 0, done.output
    assert set(done.changed.values()) == {0}, done.output


@pytest.mark.drill
def test_failed_rotation_leaves_the_old_login_in_service(
    host, sql, reader, writer, read_secrets, slot, accepts_password, ledger
):
    old, slot_before = read_secrets(), slot()
    idle = "green" if slot_before == "blue" else "blue"
    sql(f"ALTER ROLE blog_app_{idle} VALID UNTIL 'yesterday'")
    try:
        with Prober(reader) as readers, Writer(writer) as writes:
            done = host.run("slipway rotate database")
    finally:
        sql(f"ALTER ROLE blog_app_{idle} VALID UNTIL 'infinity'")
    told = done.stdout + done.stderr
    assert done.rc == 1, told
    assert f'password authentication failed for user "blog_app_{idle}"' in told, told
    assert f"The {slot_before} slot serves as before." in told
    assert "The new secrets stay in their files" in told
    assert readers.failures == []
    assert writes.failures == []
    assert slot() == slot_before
    assert accepts_password(f"blog_app_{slot_before}", old["db_app_password"])
    assert not accepts_password(f"blog_app_{idle}", read_secrets()["db_app_password"])
    assert ledger()[-1]["outcome"] == "failed"

    host.check_output("slipway rotate database")
    assert slot() == idle
    assert accepts_password(f"blog_app_{idle}", read_secrets()["db_app_password"])
    assert not accepts_password(f"blog_app_{slot_before}", old["db_app_password"])


# --- Refusals and dry runs ----------------------------------------------------------------------------------

# Skip the earlier checks, because every playbook has them and other tests cover them.
FROM_HERE = ("--start-at-task", "Rotate | Check rotate")


@pytest.fixture
def rotate(deploy):
    """Run the playbook without its first checks. Keywords are extra variables, as in rotate(rotate="key")."""
    return lambda *arguments, **variables: deploy(
        "playbooks/rotate_secrets.yml", *FROM_HERE, "--extra-vars", json.dumps(variables), *arguments
    )


@pytest.fixture
def state(read_secrets, ledger, inspect):
    """Return the state that a refusal must not change."""
    return lambda: {
        "secrets": read_secrets(),
        "ledger": ledger(),
        "containers": {service: c["Id"] for service, c in inspect().items()},
    }


def test_rotation_of_an_unknown_kind_is_refused(rotate, state):
    before = state()
    done = rotate(rotate="database,tls")
    assert done.status == 2
    assert 'rotate is "database,tls"' in done.errors[0]
    assert "Use database, key or admin" in done.errors[0]
    assert state() == before


def test_rotation_of_an_unchanged_value_of_the_vault_is_refused(rotate, state, read_secrets):
    before = state()
    same = {"app_secret_key": read_secrets()["app_secret_key"], "admin_password": "another one of the vault"}
    done = rotate(rotate="key,admin", secrets_vault=same)
    assert done.status == 2
    assert "secrets_vault sets app_secret_key to the value that is already in service" in done.errors[0]
    assert "ansible-vault edit" in done.errors[0]
    assert "another one of the vault" not in done.output
    assert state() == before


def test_dry_run_lists_the_secrets_that_would_be_rotated(rotate, state):
    before = state()
    done = rotate("--check", rotate="database")
    assert done.status == 0, done.output
    assert "Would rotate db_superuser_password, db_migrator_password, db_app_password" in " ".join(
        done.output.split()
    )
    assert state() == before
