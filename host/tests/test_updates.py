"""Security updates of the packages in the images."""

import json
import re

import pytest
from fakes import make_entry

from slipway import updates
from slipway.files import managed_digest
from slipway.shell import CommandFailure, Failure
from slipway.updates import BUILT, Record, read_record

SERVICES = ("nginx", "db", "flask_blog_blue")
NAMES = {"nginx": "slipway/nginx:1", "db": "slipway/db:1", "flask_blog_blue": "slipway/flask_blog:1"}
LIBC = "Inst libc6 [2.41-12] (2.41-12+deb13u1 Debian-Security:13/stable-security [amd64])"
LISTED = f"""{LIBC}
Inst tzdata [2025a-1] (2025b-1 Debian:13.1/stable [all])
Conf libc6 (2.41-12+deb13u1 Debian-Security:13/stable-security [amd64])
Inst liboqs (0.1 Debian-Security:13/stable-security [amd64])
"""


class Images:
    """A fake engine: the ids of images by tag, and their pending updates as apt-get lists them."""

    def __init__(self, run):
        self.fallback, self.commands = run, []
        self.running = {service: f"sha256:{service}" for service in SERVICES}
        self.tags = {NAMES[service]: image for service, image in self.running.items()}
        self.tags["slipway/base-nginx:1"] = "sha256:base"
        self.digests, self.apt, self.updated, self.dangling = {}, {}, {}, []

    def run(self, *command, **options):
        """Answer a command as docker does."""
        words = " ".join(map(str, command))
        self.commands.append(words)
        if words.startswith("docker ps") and (found := re.search(r"compose.service=(\w+)", words)):
            return f"id-{found[1]}\n" if found[1] in self.running else ""
        if words.startswith("docker inspect id-"):
            service = words.removeprefix("docker inspect id-")
            return json.dumps([{"Image": self.running[service]}])
        if words.startswith("docker image inspect"):
            return self.inspect(command[-1])
        if words.startswith("docker tag"):
            self.tags[command[3]] = self.tags[command[2]]
            return ""
        if words.startswith("docker build"):
            name = command[command.index("--tag") + 1]
            self.tags[name] = f"{self.tags[name]}-updated"
            self.updated[self.tags[name]] = name
            return ""
        if words.startswith("docker run") and "--entrypoint=timeout" in command:
            told = self.apt.get(command[command.index("--entrypoint=timeout") + 1], "")
            if isinstance(told, Exception):
                raise told
            return told
        if words.startswith("docker run") and "--entrypoint=dpkg-query" in command:
            return "libc6 2.41-12+deb13u1\nnew-library 1\n"
        if words.startswith("docker image ls"):
            return "\n".join(self.dangling)
        if words.startswith("docker image rm"):
            self.dangling.remove(command[-1])
            return ""
        return self.fallback(*command, **options)

    def inspect(self, name):
        """Return the `docker image inspect` output of an image."""
        image = self.tags.get(name, name)
        if not image.startswith("sha256:"):
            raise CommandFailure(("docker", "image", "inspect"), 1, "No such image")
        service = next((one for one in SERVICES if f"sha256:{one}" in image), "nginx")
        labels = {
            "slipway.image": NAMES[service],
            "org.opencontainers.image.base.name": "slipway/base-nginx:1",
        }
        labels |= {"slipway.updated": self.updated[image]} if image in self.updated else {}
        config = {"Labels": labels, "User": "101:101"}
        return json.dumps([{"Id": image, "Config": config, "RepoDigests": self.digests.get(image, [])}])


@pytest.fixture
def images(stack, engine, monkeypatch):
    """The fake engine, with a release of the blog in service."""
    fake = Images(engine.run)
    engine.run = fake.run
    stack.ledger.put(make_entry(image="sha256:flask_blog_blue", version="1.4", revision="abc"))
    return fake


def test_only_security_updates_are_pending(stack, images):
    images.apt["sha256:nginx"] = LISTED
    updates.check(stack)
    assert read_record(stack).images == {
        "sha256:nginx": ["libc6 2.41-12 → 2.41-12+deb13u1", "liboqs (new) → 0.1"],
        "sha256:db": [],
        "sha256:flask_blog_blue": [],
    }


def test_check_runs_in_a_container_without_rights(stack, images):
    updates.check(stack)
    [command, *_others] = [words for words in images.commands if "--entrypoint=timeout" in words]
    for option in ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pull=never"):
        assert option in command, option
    assert "--volume" not in command


def test_status_names_the_pending_updates_and_the_remedy(stack, images):
    images.apt["sha256:db"] = LIBC
    updates.check(stack)
    [sentence] = updates.describe(stack)
    assert sentence == ("db: libc6 2.41-12 → 2.41-12+deb13u1: run site.yml, or `slipway updates apply`")


def test_status_says_when_there_are_none(stack, images):
    updates.check(stack)
    assert updates.describe(stack) == [f"none, checked {read_record(stack).checked}"]


def test_status_says_that_a_new_image_was_not_checked_yet(stack, images):
    updates.check(stack)
    images.running["nginx"] = "sha256:nginx-2"
    [sentence] = updates.describe(stack)
    assert sentence.startswith("nginx: not checked yet")


def test_status_says_nothing_before_the_first_check(stack, images):
    assert updates.describe(stack) == []


def test_damaged_record_counts_as_no_check(stack, images):
    for text in (
        "[]",
        "{}",
        "null",
        '{"checked": 1, "problem": "", "images": {}}',
        "{",
        '{"checked": "x", "problem": "", "images": {}}',
    ):
        updates.record_file(stack).write_text(text)
        assert read_record(stack) == Record(), text


def test_status_reports_a_check_that_failed_and_keeps_what_was_known(stack, images):
    images.apt["sha256:nginx"] = LIBC
    updates.check(stack)
    images.apt["sha256:nginx"] = CommandFailure(("docker", "run"), 100, "Could not resolve host")
    with pytest.raises(Failure, match="must reach the package sources"):
        updates.check(stack)
    failed, pending = updates.describe(stack)
    assert failed.startswith("The last check failed: `journalctl -u slipway-updates`. nginx: ")
    assert pending.startswith("nginx: libc6")


def test_image_without_apt_is_named(stack, images):
    images.apt["sha256:flask_blog_blue"] = CommandFailure(("docker", "run"), updates.NO_APT, "")
    with pytest.raises(Failure, match="flask_blog: it has no apt-get"):
        updates.check(stack)


def test_status_reports_checks_that_have_stopped(stack, images):
    known = {image: [] for image in images.running.values()}
    updates.save(stack, Record("2026-01-01T00:00:00Z", "", known))
    [sentence] = updates.describe(stack)
    assert "The last complete check was at 2026-01-01T00:00:00Z" in sentence


def test_updates_of_a_pulled_image_come_with_a_new_image(stack, images):
    images.apt["sha256:flask_blog_blue"] = LIBC
    stack.config["images_blog"] = "pull"
    updates.check(stack)
    [sentence] = updates.describe(stack)
    assert "build a new image on current bases" in sentence
    assert updates.build(stack) == {}


def test_updated_image_gets_the_tag_and_keeps_its_user(stack, images):
    images.apt["sha256:nginx"] = LIBC
    updates.check(stack)
    assert updates.build(stack) == {"nginx": "sha256:nginx-updated"}
    assert images.tags["slipway/nginx:1"] == "sha256:nginx-updated"
    assert images.tags[f"slipway/nginx:1{BUILT}"] == "sha256:nginx"
    builds = [words for words in images.commands if words.startswith("docker build")]
    assert [re.search("--tag (\\S+)", words)[1] for words in builds] == [
        "slipway/base-nginx:1",
        "slipway/nginx:1",
    ]
    assert "BASE_IMAGE=slipway/nginx:1-built" in builds[1]
    assert "OWNER=101:101" in builds[1]


def test_second_update_replaces_the_layer_of_the_first(stack, images):
    for _ in range(2):
        images.apt[images.running["nginx"]] = LIBC
        updates.check(stack)
        images.running |= {"nginx": updates.build(stack)["nginx"]}
    assert images.tags[f"slipway/nginx:1{BUILT}"] == "sha256:nginx"


def test_lost_tag_of_the_first_image_does_not_stop_updates(stack, images):
    images.apt["sha256:nginx"] = LIBC
    updates.check(stack)
    images.running["nginx"] = updates.build(stack)["nginx"]
    del images.tags[f"slipway/nginx:1{BUILT}"]
    images.apt[images.running["nginx"]] = LIBC
    updates.check(stack)
    assert updates.build(stack) == {"nginx": "sha256:nginx-updated-updated"}


def test_image_that_was_built_again_gets_the_next_update(stack, images):
    images.tags[f"slipway/nginx:1{BUILT}"] = "sha256:nginx-of-a-former-build"
    images.apt["sha256:nginx"] = LIBC
    updates.check(stack)
    updates.build(stack)
    assert images.tags[f"slipway/nginx:1{BUILT}"] == "sha256:nginx"


def test_interrupted_installation_continues_without_a_second_build(stack, images):
    images.apt["sha256:nginx"] = LIBC
    updates.check(stack)
    first = updates.build(stack)
    images.commands.clear()
    assert updates.build(stack) == first
    assert [words for words in images.commands if words.startswith("docker build")] == []


def test_other_image_with_the_tag_is_left_to_the_playbook(stack, images):
    images.apt["sha256:nginx"] = LIBC
    updates.check(stack)
    images.tags["slipway/nginx:1"] = "sha256:newer"
    assert updates.build(stack) == {}


def test_image_that_was_rolled_back_is_not_released_again(stack, images):
    images.apt["sha256:flask_blog_blue"] = LIBC
    updates.check(stack)
    blocked = {"since": "2026-01-02T00:00:00Z", "by": "anna"}
    stack.ledger.path.write_text(
        json.dumps(
            [
                make_entry(id="2", image="sha256:flask_blog_blue-updated").to_json() | {"blocked": blocked},
                *(entry.to_json() for entry in stack.ledger.entries()),
            ]
        )
    )
    assert updates.build(stack) == {}
    [sentence] = updates.describe(stack)
    assert "`slipway rollback 2` puts it into service again" in sentence


def test_replaced_images_are_removed_but_not_those_of_the_blog(stack, images):
    images.dangling = ["sha256:nginx-old", "sha256:flask_blog_blue-old"]
    updates.remove_replaced(stack.host)
    assert images.dangling == ["sha256:flask_blog_blue-old"]


def test_sbom_has_the_new_versions(stack, images, tmp_path):
    package = {
        "name": "libc6",
        "version": "2.41-12",
        "purl": "pkg:deb/debian/libc6@2.41-12?arch=amd64",
        "cpe": "cpe:2.3:a:libc6:libc6:2.41-12:*:*:*:*:*:*:*",
        "properties": [{"name": "syft:cpe23", "value": "cpe:2.3:a:glibc:libc6:2.41-12:*:*:*:*:*:*:*"}],
    }
    module = {"name": "login", "version": "1", "purl": "pkg:pypi/login@1"}
    stack.config["sbom"] = str(tmp_path)
    (tmp_path / "nginx.cdx.json").write_text(json.dumps({"components": [package, module]}))
    images.apt["sha256:nginx"] = LIBC
    updates.check(stack)
    updates.build(stack)
    changed, other, added = json.loads((tmp_path / "nginx.cdx.json").read_text())["components"]
    assert changed["version"] == "2.41-12+deb13u1"
    assert changed["purl"] == "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64"
    assert changed["cpe"] == r"cpe:2.3:a:libc6:libc6:2.41-12\+deb13u1:*:*:*:*:*:*:*"
    assert changed["properties"][0]["value"] == r"cpe:2.3:a:glibc:libc6:2.41-12\+deb13u1:*:*:*:*:*:*:*"
    assert other == module
    assert (added["name"], added["version"]) == ("new-library", "1")


@pytest.fixture
def managed(stack, settings):
    """compose.yml and stack.json, and the record of both."""
    settings.project.mkdir(parents=True)
    compose, state = stack.directory / "compose.yml", settings.project / "stack.json"
    compose.write_text("nginx: {image: sha256:nginx}\ndb: {image: sha256:db}\n")
    state.write_text(json.dumps({"compose": updates.sha256(compose.read_text())}))
    record = stack.state / "files.json"
    record.write_text(json.dumps({str(path): {"kind": "file", "found": ""} for path in (compose, state)}))
    return compose, state, record


@pytest.fixture
def done(monkeypatch):
    """The steps that put images into service, without their effects."""
    done = []
    monkeypatch.setattr(updates.nginx, "apply", lambda host: done.append("nginx"))
    monkeypatch.setattr(updates.startup, "up", lambda host: done.append("up"))
    monkeypatch.setattr(updates, "put_into_service", lambda stack, *values: done.append(values))
    return done


def test_new_images_are_put_into_service_like_by_the_playbook(stack, images, managed, done):
    compose, state, record = managed
    updates.deploy(stack, {"nginx": "sha256:new", "flask_blog": "sha256:blog"}, "anna")
    assert compose.read_text() == "nginx: {image: sha256:new}\ndb: {image: sha256:db}\n"
    assert json.loads(state.read_text())["compose"] == updates.sha256(compose.read_text())
    assert done == ["nginx", "up", ("sha256:blog", "1.4", "abc", "anna")]
    known = json.loads(record.read_text())
    assert {path: item["found"] for path, item in known.items()} == {
        str(path): managed_digest(path) for path in (compose, state)
    }
    # With an empty entry, the next playbook sends its content, even if that is the content before the update.
    assert {item["entry"] for item in known.values()} == {""}


def test_run_that_was_killed_after_it_wrote_compose_yml_is_finished(stack, images, managed, done):
    compose, state, _record = managed
    compose.write_text("nginx: {image: sha256:new}\ndb: {image: sha256:db}\n")
    updates.deploy(stack, {"nginx": "sha256:new"}, "anna")
    assert done == ["nginx", "up"]
    assert json.loads(state.read_text())["compose"] == updates.sha256(compose.read_text())


def test_image_that_cannot_be_checked_does_not_keep_the_others_from_their_updates(
    main, stack, images, managed, done, capsys
):
    images.apt["sha256:nginx"] = LIBC
    images.apt["sha256:flask_blog_blue"] = CommandFailure(("docker", "run"), updates.NO_APT, "")
    assert main("updates", "apply", "--in-unit") == 1
    assert "flask_blog: it has no apt-get" in capsys.readouterr().err
    assert done == ["nginx", "up"]


def test_updates_are_not_installed_while_a_playbook_runs(main, stack, images, monkeypatch, capsys):
    run = {"playbook": "site.yml", "by": "anna", "since": "noon"}
    monkeypatch.setattr(updates, "playbook_run", lambda host: run)
    assert main("updates", "apply", "--in-unit") == 1
    assert "site.yml by anna runs since noon" in capsys.readouterr().err
    assert [words for words in images.commands if words.startswith("docker build")] == []


def test_output_of_an_image_cannot_control_the_terminal(stack, images):
    images.apt["sha256:nginx"] = "Inst a\x1b[2J [1] (2 Debian-Security:13/stable-security [amd64])"
    updates.check(stack)
    assert "\x1b" not in "".join(updates.describe(stack))


def test_host_does_not_update_the_images_of_a_bundle(stack, images):
    stack.config["images_blog"] = "archive"
    images.apt["sha256:nginx"] = LIBC
    updates.check(stack)
    assert updates.build(stack) == {}
