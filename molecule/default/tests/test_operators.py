"""Test metrics, exports and imports for operators, the directory of pictures, and nginx's cache."""

import json
import re
import time

import pytest
from outside import answers, wait_until


@pytest.fixture
def export(host):
    """Create a directory on the host for an export."""
    directory = host.check_output("mktemp --directory /var/lib/slipway/test-XXXXXX")
    yield directory
    host.check_output("rm --recursive %s", directory)


# --- Metrics ------------------------------------------------------------------------------------------------


def counted_requests(host, endpoint, status):
    """Return the number of GET requests that `slipway metrics` reports."""
    text = host.check_output("slipway metrics")
    line = rf'^blog_http_requests_total{{endpoint="{endpoint}",method="GET",status="{status}"}} (\d+)\.0$'
    return sum(int(number) for number in re.findall(line, text, re.MULTILINE))


def test_metrics_have_the_text_format_of_prometheus(host):
    lines = host.check_output("slipway metrics").splitlines()
    assert "# TYPE blog_http_requests_total counter" in lines
    assert "# TYPE blog_http_request_seconds histogram" in lines
    sample = re.compile(r'[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+-]+')
    assert [line for line in lines if not line.startswith("# ") and not sample.fullmatch(line)] == []


def test_metrics_count_each_request(host, get):
    before = counted_requests(host, "pages.post", 200)
    for number in range(3):
        assert get("/posts/ropes-a-table", Cookie=f"session={number}").status == 200
    assert counted_requests(host, "pages.post", 200) == before + 3


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/%6detrics"])
def test_readers_cannot_get_the_metrics(get, path):
    answer = get(path)
    assert answer.status == 404
    assert "blog_http" not in answer.text


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_metrics_port_is_closed_to_the_world(machine, family):
    assert not answers(getattr(machine, family), 9100)


# --- Imports ------------------------------------------------------------------------------------------------


@pytest.mark.drill
def test_import_after_one_that_was_killed_adds_only_the_posts_of_its_directory(deploy, host, sql, tmp_path):
    post = "---\ntitle: {0}\nslug: {0}\ndate: 2025-01-01\n---\n\nText.\n"
    left, ours = "slipway-test-of-a-killed-import", "slipway-test-import"
    (tmp_path / "ours.md").write_text(post.format(ours))
    place = f"/var/lib/slipway/import{tmp_path}"
    host.check_output("mkdir --parents %s && printf %%s %s > %s/left.md", place, post.format(left), place)
    try:
        done = deploy("playbooks/import.yml", f"--extra-vars=import_directory={tmp_path}")
        assert done.status == 0, done.output
        assert sql("SELECT slug FROM post WHERE slug LIKE 'slipway-test-%import'") == [(ours,)]
    finally:
        sql("DELETE FROM post WHERE slug LIKE 'slipway-test-%import'")
    assert not host.file("/var/lib/slipway/import").exists


# --- Exports ------------------------------------------------------------------------------------------------


def test_import_of_an_export_changes_nothing(host, sql, export):
    def content():
        pictures = ("media", "media_content")
        tables = ("post", "tag", "post_tag", "post_alias", "page", "comment", *pictures)
        return {table: sql(f"SELECT md5(row::text) FROM {table} AS row ORDER BY 1") for table in tables}

    before = content()
    written = json.loads(host.check_output("slipway export %s", export))
    assert written["written"] >= len(before["post"]) >= 2
    told = json.loads(host.check_output("slipway import --existing skip %s", export))
    assert told["changed"] is False
    assert told["created"] == 0
    assert told["updated"] == 0
    assert told["comments"] == 0
    assert told["media"] == 0
    assert told["unchanged"] == len(before["post"]) + len(before["page"]), (
        "the import must read everything that was exported"
    )
    assert content() == before


def test_export_into_a_home_directory_is_refused_and_changes_no_owner(host, variables):
    """Another owner would lock the user out: sshd refuses users whose home belongs to somebody else."""
    home = host.user(variables["ansible_user"]).home
    before = host.check_output("ls --all -l --numeric-uid-gid %s", home)
    done = host.run("cd %s && slipway export .", home)
    assert done.rc == 1, done.stderr + done.stdout
    assert "contains other files" in done.stderr + done.stdout
    assert host.check_output("ls --all -l --numeric-uid-gid %s", home) == before


def test_export_belongs_to_the_user_who_called_sudo(host, export):
    host.check_output("SUDO_UID=1234 SUDO_GID=1234 slipway export %s/new", export)
    owners = host.check_output("find %s/new -printf '%%U:%%G\\n' | sort --unique", export)
    assert owners == "1234:1234"


def test_second_export_writes_nothing(host, export):
    assert json.loads(host.check_output("slipway export %s", export))["changed"] is True
    again = json.loads(host.check_output("slipway export %s", export))
    assert again == {"changed": False, "written": 0, "removed": 0}


# --- Pictures -----------------------------------------------------------------------------------------------


@pytest.fixture
def names_in_media(host):
    """Create files among the pictures, and yield their names. Only the last has the name of a picture."""
    volume = host.check_output("docker volume inspect media_volume --format '{{ .Mountpoint }}'")
    names = [".lock", "notes.txt", f"{'0' * 24}-1x1.svg", f"{'0' * 24}-1x1.png"]
    made = [name for name in names if not host.file(f"{volume}/{name}").exists]
    for name in made:
        host.check_output("echo hush > %s && chmod 0644 %s", f"{volume}/{name}", f"{volume}/{name}")
    yield names
    for name in made:
        host.check_output("rm %s", f"{volume}/{name}")


def test_nginx_serves_only_pictures_from_the_directory_of_pictures(get, names_in_media):
    *others, picture = names_in_media
    for path in [f"/media/{name}" for name in others] + ["/media", "/media/..%2fwww", "/media/%2elock"]:
        answer = get(path)
        assert answer.status == 404, path
        assert "hush" not in answer.text, path
    answer = get(f"/media/{picture}")
    assert answer.status == 200
    assert answer.text == "hush\n"


# --- The cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def requests_to_blog(host, docker, containers):
    """Return the number of requests for a path that nginx passed to the blog."""
    since = host.check_output("date +%s.%N")

    def requests_to_blog(path):
        lines = docker("logs --since %s %s", since, containers["flask_blog"]["Id"]).splitlines()
        return [json.loads(line).get("path") for line in lines if line.startswith("{")].count(path)

    return requests_to_blog


@pytest.mark.parametrize(
    ("cookie", "number"),
    [
        ("", 1),
        ("_ga={}; my_session=2", 1),
        ("_ga=1; session={}", 2),
        ("_ga=1;session={}", 2),
        ("__Host-session={}", 2),
    ],
)
def test_cache_answers_only_requests_without_a_session(get, requests_to_blog, cookie, number):
    path = f"/tags/{time.monotonic_ns()}"
    wait_until(lambda: time.time() % 1 < 0.2, 5, "a second begins: nginx caches a page until the second ends")
    began = time.monotonic()
    first, second = (get(path, **({"Cookie": cookie.format(n)} if cookie else {})) for n in range(2))
    assert time.monotonic() - began < 0.7, "both requests must be within that second"
    assert first.status == 404
    assert second.status == 404
    assert first.body == second.body
    end = f"/nosuch-{time.monotonic_ns()}"
    assert get(end).status == 404
    wait_until(lambda: requests_to_blog(end), 10, "the blog logs the last request")
    assert requests_to_blog(path) == number
