"""The database: its version, its volume, and the permissions of each role."""

import json

import pytest


def test_server_is_postgres_17_with_checksums_and_scram(sql):
    [[version]] = sql("SHOW server_version_num")
    assert version.startswith("17")
    assert sql("SHOW data_checksums") == [("on",)]
    assert sql("SHOW password_encryption") == [("scram-sha-256",)]


def test_cluster_is_in_a_directory_of_its_version_in_the_volume(sql, docker, containers, host):
    assert sql("SHOW data_directory") == [("/var/lib/postgresql/data/17/a",)]
    mounts = {m["Name"]: m["Destination"] for m in containers["db"]["Mounts"] if m["Type"] == "volume"}
    assert mounts == {"db_volume": "/var/lib/postgresql/data", "backup_volume": "/var/lib/pgbackrest"}
    [volume] = json.loads(docker("volume inspect db_volume"))
    assert host.file(f"{volume['Mountpoint']}/17/a/PG_VERSION").content_string == "17\n"
    assert host.file(f"{volume['Mountpoint']}/17/a").mode == 0o700
    assert docker("volume ls --quiet").split() == ["backup_volume", "db_volume", "media_volume"]


def test_roles_have_only_the_attributes_that_they_need(sql, slot):
    assert sql(
        "SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb FROM pg_roles"
        " WHERE rolname !~ '^pg_' ORDER BY 1"
    ) == [
        ("blog_app", "f", "f", "f", "f"),
        ("blog_app_blue", "t" if slot() == "blue" else "f", "f", "f", "f"),
        ("blog_app_green", "t" if slot() == "green" else "f", "f", "f", "f"),
        ("blog_migrator", "t", "f", "f", "f"),
        ("postgres", "t", "t", "t", "t"),
    ]


def test_passwords_are_stored_as_scram_verifiers(sql):
    assert all(
        verifier.startswith("SCRAM-SHA-256$")
        for (verifier,) in sql("SELECT rolpassword FROM pg_authid WHERE rolcanlogin")
    )
    idle = "NOT rolcanlogin AND rolname !~ '^pg_'"
    assert sql(f"SELECT count(rolpassword) FROM pg_authid WHERE {idle}") == [("0",)]


def test_migrator_role_owns_every_table(sql):
    owners = dict(sql("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'"))
    assert {"post", "tag"} <= owners.keys()
    assert set(owners.values()) == {"blog_migrator"}


def test_app_role_reads_and_writes_rows(login, app_role):
    assert login(app_role, "SELECT count(*) FROM post").stdout == "2\n"
    writes = "INSERT INTO tag (slug, name) VALUES ('x', 'x'); UPDATE tag SET name = 'y'; DELETE FROM post_tag"
    done = login(app_role, f"BEGIN; {writes}; ROLLBACK")
    assert done.rc == 0, done.stderr


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("CREATE TABLE mine ()", "permission denied for schema public"),
        ("CREATE SCHEMA mine", "permission denied for database blog"),
        ("CREATE TEMPORARY TABLE mine ()", "permission denied to create temporary tables"),
        ("DROP TABLE post", "must be owner of table"),
        ("ALTER TABLE post ADD COLUMN mine int", "must be owner of table"),
        ("TRUNCATE post CASCADE", "permission denied for table"),
        ("CREATE ROLE mine", "permission denied to create role"),
        ("SELECT rolpassword FROM pg_authid", "permission denied for table pg_authid"),
        ("COPY post TO PROGRAM 'cat'", "permission denied to COPY to or from an external program"),
        (
            "INSERT INTO schema_history (revision, destructive) VALUES ('x', true)",
            "permission denied for table schema_history",
        ),
        ("DELETE FROM schema_history", "permission denied for table schema_history"),
        ("UPDATE alembic_version SET version_num = 'x'", "permission denied for table alembic_version"),
        ("SELECT lo_create(0)", "permission denied for function lo_create"),
        ("SELECT lo_creat(-1)", "permission denied for function lo_creat"),
        ("SELECT lo_from_bytea(0, 'x')", "permission denied for function lo_from_bytea"),
        ("SELECT pg_advisory_lock(5133847)", "permission denied for function pg_advisory_lock"),
        ("SELECT pg_try_advisory_lock(1, 1)", "permission denied for function pg_try_advisory_lock"),
    ],
)
def test_app_role_is_denied_other_statements(login, app_role, statement, refusal):
    done = login(app_role, statement)
    assert done.rc == 1
    assert refusal in done.stderr


@pytest.mark.parametrize("role", ["blog_app", "blog_migrator"])
@pytest.mark.parametrize("database", ["postgres", "template1"])
def test_roles_of_the_blog_connect_to_no_other_database(login, app_role, role, database):
    done = login(app_role if role == "blog_app" else role, "SELECT 1", database=database)
    assert done.rc == 2
    assert f'permission denied for database "{database}"' in done.stderr


def test_app_role_leaves_connections_for_others(host, containers, login, app_role, secrets, sql):
    """Open more connections than the role may have, as a blog that was taken over could."""
    address = containers["db"]["NetworkSettings"]["Networks"]["slipway_data"]["IPAddress"]
    psql = f"psql -XAtqc 'SELECT pg_sleep(2)' 'host={address} user={app_role} dbname=blog'"
    attack = f"for i in $(seq 40); do {psql} & done 2>&1; wait"
    done = host.run(
        "docker exec --env PGPASSWORD=%s %s bash -c %s",
        secrets["db_app_password"],
        containers["db"]["Id"],
        attack,
    )
    assert f'too many connections for role "{app_role}"' in done.stdout
    assert "remaining connection slots are reserved" not in done.stdout
    limits = dict(sql("SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname LIKE 'blog_%'"))
    [[maximum]], [[reserved]] = sql("SHOW max_connections"), sql("SHOW superuser_reserved_connections")
    together = sum(int(limits[role]) for role in ("blog_app_blue", "blog_app_green", "blog_migrator"))
    assert together <= int(maximum) - int(reserved)


def test_deploy_undoes_a_password_that_the_app_role_changed(login, app_role, deploy):
    """Postgres lets every role change its own password."""
    assert login(app_role, f"ALTER ROLE {app_role} PASSWORD 'of an intruder'").rc == 0
    assert login(app_role, "SELECT 1").rc == 2
    assert deploy("playbooks/deploy.yml").status == 0
    assert login(app_role, "SELECT 1").rc == 0


def test_migrator_role_can_change_the_schema_and_no_more(login):
    assert login("blog_migrator", "BEGIN; CREATE TABLE mine (); DROP TABLE mine; ROLLBACK").rc == 0
    assert "permission denied" in login("blog_migrator", "SELECT rolpassword FROM pg_authid").stderr


@pytest.mark.parametrize("role", ["postgres", "blog_migrator", "blog_app"])
def test_login_needs_the_right_password(login, app_role, role):
    role = app_role if role == "blog_app" else role
    assert login(role, "SELECT current_user").stdout.strip() == role
    wrong = login(role, "SELECT 1", password="wrong")
    assert wrong.rc == 2, wrong.stderr
    assert wrong.stdout == ""
    assert "password authentication failed" in wrong.stderr
    none = login(role, "SELECT 1", password="")
    assert none.rc == 2, none.stderr
    assert none.stdout == ""
    assert "no password supplied" in none.stderr
