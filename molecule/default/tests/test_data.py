"""Foreign volumes, another version of Postgres and images that do not start cannot harm the data."""

import json

import pytest
from variants import program

REASON = "the reason is in the stars"
# Dockerfile lines of images that each differ from the database's image in one respect.
IMAGES = {
    "another major": "ENV PG_MAJOR=16",
    "no start": f'ENTRYPOINT ["sh", "-c", "seq 100; echo {REASON}; exit 3"]',
}


@pytest.fixture
def release_of_database(host, docker, inspect, deploy):
    """Extend the database's image by some Dockerfile lines, run the role `stack`, and return the Outcome."""
    ids = {
        "flask_blog" if "flask_blog" in service else service: container["Image"]
        for service, container in inspect().items()
    }
    docker("tag %s slipway.test/db:source", ids["db"])
    made = []

    def run(lines, *arguments):
        dockerfile = f"FROM slipway.test/db:source\nLABEL slipway.test=db\n{lines}\n"
        made.append(host.check_output("echo %s | docker build --quiet -", dockerfile))
        variables = json.dumps({"images_ids": {**ids, "db": made[-1]}})
        return deploy("site.yml", "--tags", "stack", "--extra-vars", variables, *arguments)

    yield run
    docker(f"rmi --force slipway.test/db:source {' '.join(made)}")


def test_release_that_does_not_start_shows_the_containers_last_log_lines(variant, inspect, deploy):
    images = {service: container["Image"] for service, container in inspect().items()}
    images["flask_blog"] = variant(program(f"raise SystemExit('{REASON}')"))
    done = deploy("site.yml", "--tags", "release", "--extra-vars", json.dumps({"images_ids": images}))
    assert done.status != 0
    [message] = done.errors
    assert "The container slipway-flask_blog_" in message, done.output
    assert [words for words in ("exit code 1)", REASON, "serves as before") if words not in message] == []
    assert "stdout" not in done.output


@pytest.mark.parametrize("arguments", [[], ["--check"]], ids=["run", "dry run"])
def test_database_image_of_another_major_version_is_refused_and_the_old_image_keeps_running(
    release_of_database, arguments, inspect, host
):
    def state():
        return {
            "container": inspect()["db"]["Id"],
            "compose.yml": host.check_output("cat /opt/slipway/compose.yml"),
        }

    before = state()
    done = release_of_database(IMAGES["another major"], *arguments)
    assert done.status != 0, done.output
    assert set(done.changed.values()) == {0}
    [message] = done.errors
    for words in (
        "db_volume has a cluster of PostgreSQL 17 (in 17/a)",
        "is PostgreSQL 16",
        "go back",
        "upgrade_database.yml",
    ):
        assert words in message, message
    assert state() == before


@pytest.fixture
def foreign_volume(docker):
    """Create a volume that belongs to another Compose project, and yield its name."""
    name = "slipway-test-volume"
    docker("volume create --label com.docker.compose.project=tutorial %s", name)
    yield name
    docker("volume rm %s", name)


def test_foreign_volume_and_new_empty_volume_are_refused(foreign_volume, deploy, inspect, docker):
    before = {service: container["Id"] for service, container in inspect().items()}
    for name, words in {
        foreign_volume: [
            f"The volume {foreign_volume} is not Slipway's",
            f"docker volume rm {foreign_volume}",
        ],
        "slipway-test-new": ["would be a new, empty volume", "Slipway's data is in media_volume"],
    }.items():
        done = deploy("site.yml", "--extra-vars", f"stack_media_volume={name}")
        assert done.status == 2, done.output
        assert set(done.changed.values()) == {0}, done.output
        [message] = done.errors
        assert [word for word in [*words, "stack_media_volume"] if word not in message] == [], message
    assert {service: container["Id"] for service, container in inspect().items()} == before
    assert "slipway-test-new" not in docker("volume ls --quiet")


@pytest.mark.drill
def test_failed_start_of_the_database_shows_its_last_log_lines_and_loses_no_data(
    release_of_database, deploy, healthy, sql
):
    posts = sql("SELECT slug, body FROM post ORDER BY 1")
    done = release_of_database(IMAGES["no start"])
    try:
        assert done.status != 0
        message = done.errors[-1]
        assert "The container slipway-db-1 is " in message, done.output
        assert "(exit code 3). Its last lines: 87 88 " in message
        assert REASON in message
        assert "slipway-nginx-1" not in message
        shown = done.output.partition("Start | Start nginx and the database")[2]
        assert shown
        assert [word for word in ("Publishers", "ExitCode", "Mounts") if word in shown] == []
    finally:
        mended = deploy("site.yml")
    assert mended.status == 0, mended.output
    healthy()
    assert sql("SELECT slug, body FROM post ORDER BY 1") == posts
