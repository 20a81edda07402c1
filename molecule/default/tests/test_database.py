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
    [mount] = [m for m in containers["db"]["Mounts"] if m["Type"] == "volume"]
    assert mount["Name"] == "db_volume"
    assert mount["Destination"] == "/var/lib/postgresql/data"
    [volume] = json.loads(docker("volume inspect db_volume"))
    assert host.file(f"{volume['Mountpoint']}/17/a/PG_VERSION").content_string == "17\n"
    assert host.file(f"{volume['Mountpoint']}/17/a").mode == 0o700
    assert docker("volume ls --quiet").split() == ["db_volume", "media_volume"]


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
    ],
)
def test_app_role_is_denied_other_statements(login, app_role, statement, refusal):
    done = login(app_role, statement)
    assert done.rc == 1
    assert refusal in done.stderr


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
