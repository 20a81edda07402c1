"""The role `images`: the images that each value of images_blog needs, and the input that the role refuses."""

import hashlib
import json
import os
import re
import tarfile
from pathlib import Path

import jinja2
import pytest
import yaml
from project import ROOT

DIGEST = f"sha256:{'c' * 64}"
SERVICES = ("nginx", "db", "flask_blog")
FILES = ("images.tar.gz", *(f"{service}.cdx.json" for service in SERVICES))
BUNDLE = {
    "architecture": "amd64",
    "images": {service: f"sha256:{str(number) * 64}" for number, service in enumerate(SERVICES)},
    "tags": {service: f"slipway/{service}:1" for service in SERVICES},
    "sha256": {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES},
}
PULL = {"images_blog": "pull"}
CASES = {
    "build": {},
    "pull": PULL | {"images_blog_reference": f"registry.example.org:5000/team/blog:1.4@{DIGEST}"},
    "pull_of_hub": PULL | {"images_blog_reference": f"team/blog@{DIGEST}", "images_base": "debian"},
    # A pull needs no source of the blog.
    "pull_alone": PULL
    | {"images_blog_reference": f"localhost/blog@{DIGEST}", "images_blog_source": "/nowhere"},
    **{
        name: {"images_blog": "archive", "images_blog_source": "/nowhere"}
        for name in ("archive", "archive_from_here", "archive_from_home")
    },
    "ca_from_here": {"images_ca_file": "LICENSE"},
    # The engine has two images that were pushed to the same repository.
    "published_twice": PULL
    | {
        "images_blog_reference": f"registry.example.org/blog@{DIGEST}",
        "images_repository": "registry.example.org/blog",
        "known_images": {
            f"registry.example.org/blog@sha256:{'d' * 64}": {"id": "sha256:newer"},
            f"registry.example.org/blog@{DIGEST}": {"id": "sha256:older"},
            "sha256:older": {"id": "sha256:older"},
        },
    },
    # A password may look like a number.
    "login": {"images_registry_user": "anna", "images_registry_password": 123456},
    "tag": PULL | {"images_blog_reference": "registry.example.org/blog:1.4"},
    "nothing": PULL,
    "short_digest": PULL | {"images_blog_reference": f"registry.example.org/blog@{DIGEST[:-1]}"},
    "password_alone": {"images_registry_password": "never-to-be-shown"},
    "user_alone": {"images_registry_user": "anna"},
    "no_bundle": {"images_blog": "archive", "images_bundle": "/nowhere"},
    "no_source": {"images_blog_source": "/nowhere"},
    "no_way": {"images_blog": "carry"},
}
VARIABLES = (
    "__images_wanted",
    "__images_names",
    "__images_tags",
    "__images_registry",
    "__images_contexts",
    "__images_ca_file",
    "__images_references",
)
PLAY = {
    "hosts": "all",
    "gather_facts": False,
    "any_errors_fatal": False,
    "tasks": [
        {
            "set_fact": {
                "architecture": "x86_64",
                "distribution": "Debian",
                "host_packages": [],
                "host_images": "{{ known_images | default({}) }}",
                "cacheable": True,
            }
        },
        {
            "block": [{"import_role": {"name": "slipway.blog.images", "tasks_from": "preflight"}}],
            "rescue": [{"set_fact": {"refusal": "{{ ansible_failed_result.msg }}"}}],
        },
        {
            "copy": {
                "content": "{{ {'refusal': refusal} if refusal is defined else told }}",
                "dest": "{{ told_to }}/{{ inventory_hostname }}.json",
            },
            "vars": {
                "role_path": str(ROOT / "roles/images"),
                "told": {name: "{{ " + name + " }}" for name in VARIABLES},
            },
        },
    ],
}


@pytest.fixture(scope="module")
def results(ansible, tmp_path_factory):
    """The values of VARIABLES, or the refusal, for each case; and the output of the play."""
    tmp = tmp_path_factory.mktemp("images")
    bundle = tmp / "bundle"
    bundle.mkdir()
    (bundle / "slipway.json").write_text(json.dumps(BUNDLE))
    for name in FILES:
        (bundle / name).write_text(name)
    CASES["archive"]["images_bundle"] = str(bundle)
    CASES["archive_from_here"]["images_bundle"] = os.path.relpath(bundle, ROOT)
    CASES["archive_from_home"]["images_bundle"] = f"~/{os.path.relpath(bundle, Path.home())}"
    (tmp / "inventory.json").write_text(json.dumps({"all": {"hosts": CASES}}))
    (tmp / "play.yml").write_text(json.dumps([PLAY]))
    here = ("--connection", "local", "--extra-vars", f"told_to={tmp}")
    done = ansible("playbook", "--inventory", tmp / "inventory.json", *here, tmp / "play.yml")
    cases = {file.stem: json.loads(file.read_text()) for file in tmp.glob("*.json") if file.stem in CASES}
    assert set(cases) == set(CASES), done.stdout + done.stderr
    return cases | {"output": done.stdout + done.stderr}


def test_build_names_images_by_their_content(results):
    case = results["build"]
    assert list(case["__images_names"]) == list(SERVICES)
    for service, name in case["__images_names"].items():
        assert re.fullmatch(f"slipway/{service}:[0-9a-f]{{12}}", name)
    assert case["__images_names"] == case["__images_tags"]
    assert set(case["__images_names"].values()) < set(case["__images_wanted"])
    assert [context["name"] for context in case["__images_contexts"]] == ["images", "app"]
    assert results["login"]["__images_names"] == case["__images_names"]


def test_published_reference_is_that_of_the_configured_image_and_not_of_a_newer_one(results):
    assert results["published_twice"]["__images_references"] == [f"registry.example.org/blog@{DIGEST}"]


@pytest.mark.parametrize(
    ("case", "registry", "name"),
    [
        ("pull", "registry.example.org:5000", "registry.example.org:5000/team/blog"),
        ("pull_of_hub", "", "team/blog"),
        ("pull_alone", "localhost", "localhost/blog"),
    ],
)
def test_pull_uses_the_digest_and_builds_the_other_images(results, case, registry, name):
    pulled, built = results[case], results["build"]
    assert pulled["__images_registry"] == registry
    # The role drops the tag: the engine knows a pulled image by its name and digest.
    assert pulled["__images_names"]["flask_blog"] == f"{name}@{DIGEST}"
    assert pulled["__images_tags"]["flask_blog"] == f"slipway/flask_blog:{'c' * 12}"
    assert f"{name}@{DIGEST}" in pulled["__images_wanted"]
    assert built["__images_names"]["flask_blog"] not in pulled["__images_wanted"]
    assert pulled["__images_names"]["nginx"] in pulled["__images_wanted"]
    assert [context["name"] for context in pulled["__images_contexts"]] == ["images"]


@pytest.mark.parametrize("case", ["archive", "archive_from_here", "archive_from_home"])
def test_archive_uses_only_the_image_ids_of_the_bundle(results, case):
    case = results[case]
    assert case["__images_names"] == BUNDLE["images"]
    assert sorted(case["__images_wanted"]) == sorted(BUNDLE["images"].values())
    assert case["__images_tags"] == BUNDLE["tags"]


def test_relative_path_is_relative_to_the_current_directory(results):
    assert results["ca_from_here"]["__images_ca_file"] == str(ROOT / "LICENSE")


@pytest.fixture
def contexts(ansible, tmp_path):
    """A function that runs one task of contexts.yml on this machine, with variables of the role."""

    def run(name, **variables):
        tasks = yaml.safe_load((ROOT / "roles/images/tasks/contexts.yml").read_text())
        [task] = [task for task in tasks if task["name"] == f"Contexts | {name}"]
        known = yaml.safe_load((ROOT / "roles/images/vars/main.yml").read_text())
        play = {"hosts": "localhost", "gather_facts": False, "connection": "local", "vars": known | variables}
        (tmp_path / "play.yml").write_text(json.dumps([play | {"tasks": [task]}]))
        done = ansible("playbook", "--inventory", "localhost,", tmp_path / "play.yml")
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_build_removes_only_the_contexts_of_an_earlier_build(contexts, tmp_path):
    place = tmp_path / "srv"
    for name in ("app/old", "images/old", "backup/of-the-host"):
        (place / name).mkdir(parents=True)
    (place / "ca.pem").touch()
    contexts("Remove the contexts of an earlier build", images_directory=str(place))
    assert [path.name for path in place.iterdir()] == ["backup"]
    assert (place / "backup/of-the-host").is_dir()


def test_build_context_has_only_the_files_that_count_in_the_digest(contexts, tmp_path):
    source, pack = tmp_path / "source", tmp_path / "pack"
    named = {"Dockerfile", "blog/app.py", "blog/environment.py", ".gitignore", "blog/test.env"}
    for name in named | {".env", "blog/.env", ".git/config", "README.md", "tests/a/b.py", "blog/tests/c.py"}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    pack.mkdir()
    what = {"__images_pack": {"path": str(pack)}, "__images_contexts": [{"name": "app", "from": str(source)}]}
    contexts("Archive the contexts", **what)
    with tarfile.open(pack / "app.tar.gz") as archive:
        assert {member.name for member in archive if member.isfile()} == named


@pytest.mark.parametrize(
    ("case", "says"),
    {
        "tag": ['"registry.example.org/blog:1.4", which has no digest', "playbooks/build.yml prints"],
        "nothing": ['images_blog_reference is ""', "@sha256:"],
        "short_digest": ["which has no digest", "with 64 hexadecimal digits"],
        "password_alone": ["images_registry_user is empty", "Set both"],
        "user_alone": ["images_registry_password is empty", "the password in the vault"],
        "no_bundle": ["/nowhere/slipway.json cannot be read", "playbooks/build.yml -e build_for=archive"],
        "no_source": ['images_blog_source is "/nowhere"', "no Dockerfile"],
        "no_way": ["images_blog must be one of: build, pull, archive, got: carry"],
    }.items(),
)
def test_wrong_input_is_refused_with_a_remedy(results, case, says):
    refusal = " ".join(str(results[case]["refusal"]).split())
    assert [words for words in says if words not in refusal] == [], refusal
    assert "never-to-be-shown" not in results["output"]


@pytest.mark.parametrize(("images_updates", "command"), [("report", "check"), ("auto", "apply")])
def test_timer_installs_updates_only_if_the_inventory_says_so(images_updates, command):
    environment = jinja2.Environment(autoescape=False)
    environment.filters["comment"] = str
    text = (ROOT / "roles/images/templates/slipway-updates.service.j2").read_text()
    unit = environment.from_string(text).render(images_updates=images_updates, ansible_managed="")
    [line] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert line.split()[:3] == ["ExecStart=/usr/local/bin/slipway", "updates", command]
