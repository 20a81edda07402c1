"""Changes that a blog sees in a year, besides those in test_releases.py: code, nginx, posts, the database.

They run one after another while simulated readers send requests. Part of `make soak`.
"""

import contextlib
import json
import re
import shutil

import pytest
from articles import FRESH_SECONDS, Article, delete, edit, stale_answers
from outside import ROOT

pytestmark = pytest.mark.soak


@pytest.fixture
def changed_source(tmp_path):
    """Copy the blog's source, change its stylesheet, and return the directory."""
    directory = tmp_path / "app"
    shutil.copytree(ROOT / "app", directory, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    with (directory / "blog/static/style.css").open("a") as file:
        file.write("\n.of-a-test { color: inherit }\n")
    return directory


@pytest.fixture
def page(reader):
    """Request a page over a new connection, because nginx would have closed an older one."""

    def page(path="/"):
        with contextlib.closing(reader()) as one:
            return one.request(path)

    return page


@pytest.fixture
def stylesheet(page):
    """Return the path of the stylesheet that the home page uses."""
    return lambda: re.search(r"/static/style\.\w+\.css", page().text)[0]


def test_no_request_fails_during_a_release_of_changed_code(
    load, deploy, changed_source, page, stylesheet, ledger
):
    """Release changed code, and then the old code. The stylesheet of the old page stays available."""
    before = stylesheet()
    for what, arguments in {
        "release of changed code": ["--extra-vars", f"images_blog_source={changed_source}"],
        "release of the code as it was": [],
    }.items():
        entries = len(ledger())
        with load.step(f"{what}, by the playbook") as step:
            done = deploy("playbooks/deploy.yml", "--tags", "release", *arguments)
        assert done.status == 0, done.output
        assert step.failures == [], done.output
        assert [entry["outcome"] for entry in ledger()[entries:]] == ["in service"]
        assert (stylesheet() == before) == (not arguments)
        assert page(before).status == 200


@pytest.mark.parametrize("number", range(1, 6))
def test_no_request_fails_during_a_change_of_nginx_configuration(
    number, load, deploy, containers, inspect, page
):
    seconds = 63072000 + number
    assert page().headers["strict-transport-security"] != f"max-age={seconds}"
    with load.step(f"nginx configuration {number}") as step:
        done = deploy(
            "playbooks/deploy.yml", "--tags", "stack", "--extra-vars", f"tls_hsts_seconds={seconds}"
        )
    assert done.status == 0, done.output
    assert step.failures == [], done.output
    assert page().headers["strict-transport-security"] == f"max-age={seconds}"
    assert inspect()["nginx"]["Id"] == containers["nginx"]["Id"]


@pytest.fixture
def another_nginx(host, docker, containers):
    """Build a copy of nginx's image with another label, and return its id."""
    docker("tag %s slipway.test/nginx:source", containers["nginx"]["Image"])
    build = "docker build --quiet --label slipway.test=$(date +%s%N) -"
    return host.check_output(f"echo FROM slipway.test/nginx:source | {build}")


@pytest.mark.parametrize("number", range(1, 3))
def test_no_request_fails_during_a_change_of_nginx_image(
    number, load, deploy, containers, another_nginx, healthy
):
    ids = {name: container["Image"] for name, container in containers.items()} | {"nginx": another_nginx}
    with load.step(f"nginx image {number}") as step:
        extra = json.dumps({"images_ids": ids})
        done = deploy("playbooks/deploy.yml", "--tags", "stack", "--extra-vars", extra)
    assert done.status == 0, done.output
    assert step.failures == [], done.output
    now = healthy()
    assert now["nginx"]["Image"] == another_nginx
    others = {container["Id"] for name, container in containers.items() if name != "nginx"}
    assert others == {container["Id"] for service, container in now.items() if service != "nginx"}


@pytest.mark.parametrize("what", [edit, delete])
def test_readers_see_a_change_of_a_post_in_time(what, load, author, sql, reader):
    article = Article(author(), sql)
    with load.step(f"{what.__name__} a post") as step:
        late = stale_answers(article, what(article), idle_seconds=1, is_visited=True, reader=reader)
    assert step.failures == []
    assert late < FRESH_SECONDS


def test_no_request_fails_while_the_database_is_replaced(load, larger_database, containers, inspect):
    with load.step("replacement of the database") as step:
        done = larger_database()
    assert done.status == 0, done.output
    assert inspect()["db"]["Id"] != containers["db"]["Id"]
    assert step.failures == []


def test_restart_of_the_database_causes_only_503_errors(load, docker, containers, healthy):
    with load.step("restart of the database", tolerate="status 503") as step:
        docker("restart %s", containers["db"]["Id"])
        healthy()
    assert step.failures == []
