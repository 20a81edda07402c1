"""The filters of the role `images`."""

import hashlib
import json
import os
import shutil

import pytest
from ansible.errors import AnsibleFilterError
from project import ROOT, load_program

FILTERS = ROOT / "plugins/filter"
tree_digest = load_program(FILTERS / "tree_digest.py").tree_digest
bundle_problems = load_program(FILTERS / "bundle_problems.py").bundle_problems
image_ids = load_program(FILTERS / "image_ids.py").image_ids
superseded_images = load_program(FILTERS / "superseded_images.py").superseded_images

# --- tree_digest --------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A build context."""
    (tmp_path / "blog").mkdir()
    (tmp_path / "Dockerfile").write_text("FROM base\n")
    (tmp_path / "blog/app.py").write_text("print()\n")
    return tmp_path


def rename(tree):
    (tree / "blog/app.py").rename(tree / "blog/main.py")


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "blog/app.py").write_text("print(1)\n"),
        lambda tree: (tree / "blog/app.py").chmod(0o755),
        lambda tree: (tree / "blog/empty.py").touch(),
        lambda tree: (tree / "Dockerfile").unlink(),
        rename,
    ],
    ids=["content", "mode", "new file", "file gone", "name"],
)
def test_digest_changes_with_the_tree(tree, change):
    before = tree_digest(tree, "base", exclude=["tests"])
    change(tree)
    assert tree_digest(tree, "base", exclude=["tests"]) != before


def test_digest_changes_with_each_input(tree):
    inputs = [(), ("base:1",), ("base:2",), ("base:1", "base:2"), ("base:2", "base:1")]
    assert len({tree_digest(tree, *given) for given in inputs}) == len(inputs)


def test_digest_does_not_depend_on_the_trees_place_and_times(tree, tmp_path_factory):
    elsewhere = shutil.copytree(tree, tmp_path_factory.mktemp("elsewhere") / "context")
    os.utime(elsewhere / "Dockerfile", (0, 0))
    digest = tree_digest(elsewhere)
    assert digest == tree_digest(tree)
    assert len(digest) == 12


def test_digest_ignores_excluded_names(tree):
    before = tree_digest(tree, exclude=["tests", "README.md"])
    (tree / "blog/tests").mkdir()
    (tree / "blog/tests/test_app.py").touch()
    (tree / "README.md").touch()
    assert tree_digest(tree, exclude=["tests", "README.md"]) == before
    assert tree_digest(tree, exclude=["tests"]) != before


def test_digest_of_no_directory_is_an_error(tree):
    with pytest.raises(AnsibleFilterError, match="Dockerfile is not a directory"):
        tree_digest(tree / "Dockerfile")


# --- bundle_problems ----------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path):
    """A bundle like one from playbooks/build.yml, but with small files."""
    services = ("nginx", "db", "flask_blog")
    files = {"images.tar.gz": b"images", **{f"{service}.cdx.json": service.encode() for service in services}}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    about = {
        "architecture": "amd64",
        "revision": "v1",
        "images": {service: f"sha256:{'a' * 64}" for service in services},
        "tags": {service: f"slipway/{service}:1" for service in services},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    (tmp_path / "slipway.json").write_text(json.dumps(about))
    return tmp_path


def describe(**changes):
    """Return a function that changes keys of a bundle's slipway.json; None removes a key."""

    def change(bundle):
        file = bundle / "slipway.json"
        about = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))

    return change


def test_complete_bundle_has_no_problems(bundle):
    assert bundle_problems(bundle, "x86_64") == []


FOREIGN = "slipway.json is not the manifest of a Slipway bundle"


@pytest.mark.parametrize(
    ("change", "problem"),
    {
        "cut off": (
            lambda b: (b / "images.tar.gz").write_bytes(b"image"),
            "images.tar.gz is truncated or was changed",
        ),
        "changed": (
            lambda b: (b / "db.cdx.json").write_bytes(b"dc"),
            "db.cdx.json is truncated or was changed",
        ),
        "half there": (
            lambda b: (b / "images.tar.gz").unlink(),
            "images.tar.gz cannot be read (No such file",
        ),
        "nowhere": (lambda b: (b / "slipway.json").unlink(), "slipway.json cannot be read (No such file"),
        "no JSON": (lambda b: (b / "slipway.json").write_text("{"), FOREIGN),
        "no object": (lambda b: (b / "slipway.json").write_text("[]"), FOREIGN),
        "another's": (lambda b: (b / "slipway.json").write_text('{"images": {}}'), FOREIGN),
        "no architecture": (describe(architecture=None), FOREIGN),
        "fewer images": (describe(images={"nginx": f"sha256:{'a' * 64}"}), FOREIGN),
        "images by tags": (
            describe(images=dict.fromkeys(["nginx", "db", "flask_blog"], "slipway/db:1")),
            FOREIGN,
        ),
        "file elsewhere": (describe(sha256={"/etc/passwd": "0"}), FOREIGN),
        "architecture": (describe(architecture="arm64"), "its images are for arm64, but the host is x86_64"),
    }.values(),
)
def test_problem_of_an_unusable_bundle_is_reported(bundle, change, problem):
    change(bundle)
    [told] = bundle_problems(bundle, "x86_64")
    assert problem in told


# --- image_ids ---------------------------------------------------------------------------------------------


def test_missing_image_keeps_its_name():
    names = {"nginx": "slipway/nginx:1", "db": "slipway/db:2"}
    assert image_ids(names, {"slipway/nginx:1": {"id": "sha256:a"}}) == {
        "nginx": "sha256:a",
        "db": "slipway/db:2",
    }


# --- superseded_images --------------------------------------------------------------------------------------

DIGESTS = {"old": "sha256:" + "a" * 64, "new": "sha256:" + "b" * 64}


def found(*images):
    """Return images as host_facts does, each given as its label, its base and its names."""
    return {
        name: {"id": label, "label": label, "base": base, "revision": ""}
        for label, base, *names in images
        for name in names
    }


def test_image_is_superseded_once_its_repository_has_a_newer_one():
    images = found(
        ("slipway/nginx:1", "slipway/base-nginx:1", "slipway/nginx:1"),
        ("slipway/nginx:2", "slipway/base-nginx:2", "slipway/nginx:2"),
        ("slipway/base-nginx:1", "slipway/base-debian:1", "slipway/base-nginx:1"),
        ("slipway/base-nginx:2", "slipway/base-debian:1", "slipway/base-nginx:2"),
        ("slipway/base-debian:1", "", "slipway/base-debian:1"),
    )
    wanted = ["slipway/nginx:2", "slipway/base-nginx:2", "slipway/base-debian:1"]
    assert superseded_images(images, wanted) == ["slipway/base-nginx:1", "slipway/nginx:1"]


def test_official_base_is_superseded_with_the_image_that_was_built_on_it():
    old, new = (f"postgres@{digest}" for digest in DIGESTS.values())
    images = found(
        ("slipway/db:1", f"postgres:17.1-trixie@{DIGESTS['old']}", "slipway/db:1"),
        ("slipway/db:2", f"postgres:17.2-trixie@{DIGESTS['new']}", "slipway/db:2"),
        ("", "", old),
        ("", "", new),
        ("", "", "postgres:16"),
    )
    assert superseded_images(images, ["slipway/db:2", f"postgres:17.2-trixie@{DIGESTS['new']}"]) == [
        old,
        "slipway/db:1",
    ]


def test_image_without_a_successor_is_not_superseded():
    """A host that loads a bundle wants no base images, and keeps those that it has."""
    images = found(("slipway/base-nginx:1", "", "slipway/base-nginx:1"), ("", "", "redis:7"))
    assert superseded_images(images, ["slipway/nginx:2", "redis:8"]) == []


def test_image_of_a_registry_with_a_port_has_a_repository():
    old, new = (f"registry.example.org:5000/mirror/nginx@{digest}" for digest in DIGESTS.values())
    base = old.replace("@", ":1.2@")
    images = found(("slipway/nginx:1", base, "slipway/nginx:1"), ("", "", old), ("", "", new))
    assert superseded_images(images, [new]) == [old]


def test_year_of_monthly_base_images_leaves_one_generation():
    services, images = ("nginx", "postgres", "python"), {}
    for month in range(12):
        debian = f"slipway/base-debian:{month}"
        wanted = [debian, *(f"slipway/base-{service}:{month}" for service in services)]
        images |= found((debian, "", debian), *((name, debian, name) for name in wanted[1:]))
        images = {name: images[name] for name in images.keys() - set(superseded_images(images, wanted))}
    assert sorted(images) == sorted(wanted)
