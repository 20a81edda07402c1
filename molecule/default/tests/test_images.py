"""Compare the SBOM of each image with the actual content of the image."""

import json
import re

import pytest

# The package of each image's main program, and the command that prints the program's version.
PROGRAMS = {
    "nginx": ("nginx", "nginx -v 2>&1"),
    "flask_blog": ("flask", "flask --version"),
    "db": ("postgresql-17", "postgres --version"),
}
each = pytest.mark.parametrize("service", PROGRAMS)


@pytest.fixture
def tag(docker, containers, service):
    """The tag of the image that the service runs."""
    return docker("image inspect --format '{{index .RepoTags 0}}' %s", containers[service]["Image"])


@pytest.fixture
def sbom(host, variables, service):
    """The SBOM of the service's image, in CycloneDX format."""
    return json.loads(host.check_output("cat %s/%s.cdx.json", variables["images_sbom_directory"], service))


@pytest.fixture
def versions(sbom):
    """The versions of packages in the SBOM, by kind and name."""
    kinds = [
        (re.match("pkg:([a-z]+)/", component.get("purl", "")), component) for component in sbom["components"]
    ]
    return {(kind[1], c["name"]): c["version"] for kind, c in kinds if kind}


@each
def test_sbom_is_about_the_running_image(sbom, tag):
    about = sbom["metadata"]["component"]
    assert f"{about['name']}:{about['version']}" == tag
    assert sbom["bomFormat"] == "CycloneDX"


@each
def test_sbom_has_the_version_of_the_running_program(docker, containers, versions, service):
    package, command = PROGRAMS[service]
    [version] = {version for (_, name), version in versions.items() if name == package}
    told = docker("exec %s sh -c %s", containers[service]["Id"], command)
    assert re.split("[-+]", version)[0] in re.findall(r"[0-9]+(?:\.[0-9]+)+", told)


@each
def test_sbom_lists_each_debian_package(docker, containers, versions, service):
    command = "dpkg-query --show --showformat '${Package} ${Version}\\n'"
    found = docker("exec %s sh -c %s", containers[service]["Id"], command).splitlines()
    written = {f"{name} {version}" for (kind, name), version in versions.items() if kind == "deb"}
    assert len(found) > 50
    assert written == set(found)


def test_sbom_lists_each_python_package(docker, containers, host, variables):
    program = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name, d.version)"
    found = docker("exec %s python3 -c %s", containers["flask_blog"]["Id"], program).splitlines()
    sbom = json.loads(host.check_output("cat %s/flask_blog.cdx.json", variables["images_sbom_directory"]))
    written = {
        (c["name"].lower().replace("_", "-"), c["version"])
        for c in sbom["components"]
        if c.get("purl", "").startswith("pkg:pypi/")
    }
    assert len(found) > 10
    assert {tuple(line.lower().replace("_", "-").split()) for line in found} <= written


def test_directory_of_sboms_has_one_for_each_service(host, variables):
    listed = host.file(variables["images_sbom_directory"]).listdir()
    assert sorted(listed) == [f"{service}.cdx.json" for service in sorted(PROGRAMS)]


@each
def test_labels_name_the_image_and_its_base(docker, tag):
    labels = json.loads(docker("image inspect --format '{{json .Config.Labels}}' %s", tag))
    assert labels["slipway.image"] == tag
    assert labels["org.opencontainers.image.version"] == tag.partition(":")[2]
    assert labels["org.opencontainers.image.base.name"].startswith("slipway/base-")


@each
def test_image_is_small(docker, tag):
    assert int(docker("image inspect --format '{{.Size}}' %s", tag)) < 250 * 10**6


def test_deploy_removes_only_superseded_images_that_no_container_uses(host, docker, deploy):
    base = "slipway/base-debian:trixie-stock"
    build = f"echo FROM {base} | docker build --quiet --tag %s --label slipway.image=%s -"
    labels = {
        "slipway/base-nginx:old": "slipway/base-nginx:old",
        "slipway/base-nginx:used": "slipway/base-nginx:used",
        "example/nginx:old": "example/nginx:1",
    }
    for name, label in labels.items():
        host.check_output(build, name, label)
    docker("create --name image-user --label slipway.test slipway/base-nginx:used true")
    try:
        done = deploy("playbooks/deploy.yml")
        assert done.status == 0, done.output
        left = docker("image ls --format '{{.Repository}}:{{.Tag}}'").splitlines()
        assert "slipway/base-nginx:old" not in left
        assert "slipway/base-nginx:used" in left
        assert "example/nginx:old" in left
        assert base in left
    finally:
        docker("rm image-user")
        docker("image rm example/nginx:old slipway/base-nginx:used")
