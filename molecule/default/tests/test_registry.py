"""The host gets images by digest from a registry, through a mirror, or from a bundle without a network."""

import json
import re
import secrets as random
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import yaml
from outside import ROOT, wait_until
from planted_secrets import VERBOSE, files_on_control_node, is_shown
from registries import Registry

pytestmark = pytest.mark.drill

PLACE = "/run/slipway-test"
# A script that searches the places where a login could remain. The fixture `canary` searches more places.
SCAN = """
search="grep --text --no-messages --fixed-strings --file=/run/canary/pattern"
places="/etc /home /opt /root /run /tmp /var/lib/slipway /var/log /var/tmp"
$search --recursive --files-with-matches --exclude-dir=canary $places
journalctl --quiet --since=-15min --output=export | $search
cat /run/canary/processes
"""


@pytest.fixture(scope="module")
def registry(hostname, tmp_path_factory):
    """Start a container registry on the host's network, which has the user anna."""
    registry = Registry(f"slipway-test-registry-{hostname}", tmp_path_factory.mktemp("registry"))
    registry.create()
    try:
        registry.copy_files()
        registry.start()
        yield registry
    finally:
        registry.remove()


@pytest.fixture(scope="module")
def workspace(host, docker, ledger, registry, tmp_path_factory):
    """Write a vault, and a source of the blog that only adds a label. Yield the arguments of the plays."""
    tmp = tmp_path_factory.mktemp("images")
    running = [entry for entry in ledger() if entry["outcome"] == "in service"][-1]["image"]
    docker("tag %s slipway.test/blog:source", running)
    app = tmp / "app"
    app.mkdir()
    (app / "Dockerfile").write_text(
        "ARG BASE_IMAGE=none\nFROM slipway.test/blog:source\n"
        # The label makes the image differ each time: an image that was rolled back is blocked.
        f"LABEL slipway.test={random.token_hex(8)}\n"
    )
    told = {
        "images_repository": f"{registry.name}:5000/team/blog",
        "images_blog_source": str(app),
        "images_revision": "v1.4-3-gabc1234",
        # The images in service use other directories.
        "images_directory": f"{PLACE}/images",
        "images_sbom_directory": f"{PLACE}/sbom",
        "docker_ca_file": registry.ca,
        "docker_registry_mirrors": [f"https://{registry.name}:5001"],
    }
    vault, key = tmp / "vault.yml", tmp / "key"
    key.write_text("the password of the vault")
    subprocess.run(
        ["ansible-vault", "encrypt", "--vault-password-file", key, "--output", vault],
        input=json.dumps({"images_registry_user": "anna", "images_registry_password": registry.password}),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    before = set(docker("images --quiet --no-trunc").split())
    yield SimpleNamespace(
        tmp=tmp,
        running=running,
        told=("--extra-vars", json.dumps(told)),
        vault=("--extra-vars", f"@{vault}", "--vault-password-file", str(key)),
    )
    host.check_output("rm --recursive --force %s", PLACE)
    docker("rmi slipway.test/blog:source")
    # Keep the images that are in the ledger, as after any release.
    added = set(docker("images --quiet --no-trunc").split()) - before - {e["image"] for e in ledger()}
    for image in added:
        docker("rmi --force %s", image)


@pytest.fixture(scope="module")
def build(deploy, workspace):
    """Run playbooks/build.yml for "pull" or "archive", each with a separate directory for its output."""

    def build(what, *arguments):
        given = {"build_for": what, "build_directory": str(workspace.tmp / what)}
        return deploy(
            "playbooks/build.yml",
            *workspace.told,
            *workspace.vault,
            "--extra-vars",
            json.dumps(given),
            *arguments,
        )

    return build


@pytest.fixture(scope="module")
def restored_engine_settings(host):
    """After these tests, remove the mirror from the engine's settings, and the CA that the engine trusts."""
    configuration, copy = "/etc/docker/daemon.json", "/run/slipway-test-daemon.json"
    host.check_output("cp --preserve %s %s", configuration, copy)
    yield
    host.check_output("cp --preserve %s %s && rm %s", copy, configuration, copy)
    host.check_output(
        "rm --force /usr/local/share/ca-certificates/slipway.crt && update-ca-certificates --fresh"
    )
    host.check_output("systemctl restart docker")


@pytest.fixture(scope="module")
def published(restored_engine_settings, build, workspace, docker):
    """Publish the blog in the registry, remove the image from the host, and return the image's reference."""
    done = build("pull")
    assert done.status == 0, done.output
    again = build("pull", "--start-at-task", "Build | Take the lock of the run, and gather facts of the host")
    file = workspace.tmp / "pull/blog.yml"
    reference = yaml.safe_load(file.read_text())["images_blog_reference"]
    built = json.loads(docker("image inspect %s", reference))[0]
    # Remove all names of the image. Images that are built from it stay.
    docker("rmi --force %s", built["Id"])
    return SimpleNamespace(reference=reference, built=built, told=("--extra-vars", f"@{file}"), again=again)


@pytest.fixture(scope="module")
def refused_pulls(deploy, published, workspace, ledger, inspect, docker):
    """Run two plays that must be refused. Return their Outcomes and the state of the host."""
    nowhere = re.sub("sha256:.*", f"sha256:{'0' * 64}", published.reference)
    wrong = {"wrong password": {"images_registry_password": "this-is-not-it"}}
    cases = wrong | {"unknown digest": {"images_blog_reference": nowhere}}
    deploy_images = (
        "playbooks/deploy.yml",
        "--tags",
        "images",
        *workspace.told,
        *workspace.vault,
        *published.told,
    )

    def state():
        return {
            "ledger": ledger(),
            "images": set(docker("images --quiet --no-trunc").split()),
            "containers": {service: container["Id"] for service, container in inspect().items()},
        }

    before = state()
    outcomes = {
        name: deploy(*deploy_images, "--extra-vars", json.dumps(given)) for name, given in cases.items()
    }
    return SimpleNamespace(outcomes=outcomes, before=before, after=state())


def test_built_image_is_published_with_its_labels(published, registry, hostname):
    name, _, digest = published.reference.partition("@")
    assert name == f"{registry.name}:5000/team/blog"
    manifest = registry.ask(f"/v2/team/blog/manifests/{digest}")
    assert manifest["config"]["digest"] == published.built["Id"]
    labels = registry.ask(f"/v2/team/blog/blobs/{published.built['Id']}")["config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == "v1.4-3-gabc1234"
    assert labels["slipway.image"] == f"slipway/flask_blog:{labels['org.opencontainers.image.version']}"


def test_sbom_is_written_beside_the_published_reference(published, workspace):
    about = json.loads((workspace.tmp / "pull/flask_blog.cdx.json").read_text())["metadata"]["component"]
    labels = published.built["Config"]["Labels"]
    assert f"{about['name']}:{about['version']}" == labels["slipway.image"]


def test_published_image_is_not_built_or_published_again(published, hostname):
    assert published.again.status == 0, published.again.output
    assert published.again.changed == {hostname: 0}, published.again.output


@pytest.mark.parametrize(
    ("case", "says"),
    {
        "wrong password": ["401 Unauthorized", "check images_registry_user and images_registry_password"],
        "unknown digest": ["manifest unknown", "publish it with playbooks/build.yml"],
    }.items(),
)
def test_pull_that_fails_is_refused_before_any_change(refused_pulls, case, says, hostname, registry):
    outcome = refused_pulls.outcomes[case]
    assert outcome.status == 2, outcome.output
    assert outcome.changed == {hostname: 0}, outcome.output
    assert [words for words in says if words not in outcome.errors[-1]] == [], outcome.output
    assert refused_pulls.after == refused_pulls.before


def test_image_without_the_label_of_the_blog_is_refused(
    refused_pulls, workspace, registry, docker, host, deploy
):
    there = f"{registry.name}:5001/team/other"
    build = (
        f"docker build --quiet --label slipway.image=other --label slipway.test=$(date +%s%N) --tag {there} -"
    )
    image = host.check_output(f"echo FROM slipway.test/blog:source | {build}")
    digest = re.search(
        "digest: (sha256:[0-9a-f]+)", docker("push %s && docker rmi --force %s", there, image)
    )[1]
    given = {"images_blog": "pull", "images_blog_reference": f"{there}@{digest}"}
    done = deploy(
        "playbooks/deploy.yml", "--tags", "images", *workspace.told, "--extra-vars", json.dumps(given)
    )
    assert done.status == 2
    [message] = done.errors
    assert f"{there}@{digest} has no label slipway.image=slipway/flask_blog:VERSION" in message
    assert "Publish the image with playbooks/build.yml" in message
    tags = docker("image inspect --format '{{json .RepoTags}}' %s", image)
    assert tags == "[]"


@pytest.fixture(scope="module")
def second_engine(host):
    """Start a second engine on the host, empty and without a network. Yield its socket and its command."""
    directory, unit = "/run/slipway-test-engine", "slipway-test-engine"
    own = f"--data-root=/var/lib/docker/{unit} --exec-root={directory}/exec --pidfile={directory}/pid"
    apart = f"--containerd-namespace={unit} --containerd-plugins-namespace={unit}-plugins"
    plain = "--config-file=/dev/null --bridge=none --iptables=false --ip6tables=false"
    # The engine shares the host's mounts, where containerd must find the engine's files.
    dockerd = f"unshare --net dockerd --host=unix://{directory}/socket {own} {apart} {plain}"
    host.check_output(
        f"systemd-run --quiet --collect --unit={unit} --property=RuntimeDirectory={unit} {dockerd}"
    )
    docker = f"docker --host=unix://{directory}/socket"
    wait_until(lambda: host.run(f"{docker} version").rc == 0, 20, "the second engine answers")
    assert host.check_output(f"{docker} images --all --quiet") == ""
    yield SimpleNamespace(
        socket=f"unix://{directory}/socket", docker=lambda command: host.check_output(f"{docker} {command}")
    )
    host.check_output(f"systemctl stop {unit}; rm --recursive --force /var/lib/docker/{unit}")


def test_pulled_blog_is_released_and_the_password_is_not_left_anywhere(
    refused_pulls, published, deploy, workspace, registry, canary, ledger, docker, inspect, host
):
    assert docker("images --quiet --no-trunc").find(published.built["Id"]) == -1
    canary.watch(registry.password)
    before = canary.rounds()
    given = (*workspace.told, *workspace.vault, *published.told, "--extra-vars", "blog_version=1.4")
    done = deploy("playbooks/deploy.yml", "--tags", "release", *VERBOSE, *given)
    assert done.status == 0, done.output

    entry = ledger()[-1]
    assert entry["outcome"] == "in service"
    assert entry["image"] == published.built["Id"]
    assert entry["version"] == "1.4"
    assert entry["revision"] == "v1.4-3-gabc1234"
    assert inspect()[f"flask_blog_{entry['slot']}"]["Image"] == published.built["Id"]
    tags = json.loads(docker("image inspect %s", published.reference))[0]["RepoTags"]
    assert tags == [f"slipway/flask_blog:{published.reference.partition('@sha256:')[2][:12]}"]

    assert not is_shown(registry.password, done.output)
    # First show that the scan finds the mark.
    host.check_output("cp /run/canary/pattern /root/bait")
    assert host.check_output(SCAN).splitlines() == ["/root/bait"]
    host.check_output("rm /root/bait")
    assert host.check_output(SCAN) == ""
    assert canary.rounds() > before
    assert files_on_control_node(registry.password) == []


def test_image_on_the_host_needs_no_registry_and_no_login(
    published, deploy, workspace, registry, hostname, host, in_service, ledger
):
    """A second run and a rollback use the images that the host already has."""
    assert in_service["image"] == published.built["Id"]
    registry.stop()
    assert not registry.is_up()
    try:
        done = deploy("playbooks/deploy.yml", "--tags", "release", *workspace.told, *published.told)
        assert done.status == 0, done.output
        assert done.changed == {hostname: 0}, done.output
        host.check_output("slipway rollback --by=anna")
        assert ledger()[-1]["image"] == workspace.running
    finally:
        registry.start()


def test_engine_pulls_a_base_image_by_digest_through_the_mirror(published, registry, docker, host):
    """Pull a stand-in for an official image, as `images_base: registry` does. Only the mirror has it."""
    ours = docker("images slipway/base-nginx --format {{.Repository}}:{{.Tag}}").splitlines()[0]
    there = f"{registry.name}:5001/library/nginx:stand-in"
    # Build a new image each time, because an engine keeps the manifests that it has seen.
    build = "docker build --quiet --label slipway.test=$(date +%s%N)"
    host.check_output(f"echo FROM {ours} | {build} --tag {there} -")
    pushed = docker("push %s && docker rmi %s", there, there)
    digest = re.search("digest: (sha256:[0-9a-f]+)", pushed)[1]
    assert host.run("docker image inspect %s", f"nginx@{digest}").rc != 0
    docker("pull --quiet %s", f"nginx:stand-in@{digest}")
    docker("rmi %s", f"nginx@{digest}")
    asked = f'http.request.method=GET .*http.request.uri="/v2/library/nginx/manifests/{digest}"'
    assert any(re.search(asked, line) for line in registry.logs().splitlines())


@pytest.fixture(scope="module")
def bundle(build, workspace, published):
    """Export a bundle twice. Return its directory, its variables, and the Outcome of the second export."""
    done = build(
        "archive", "--start-at-task", "Build | Take the lock of the run, and gather facts of the host"
    )
    assert done.status == 0, done.output
    again = build(
        "archive", "--start-at-task", "Build | Take the lock of the run, and gather facts of the host"
    )
    told = ("--extra-vars", f"@{workspace.tmp}/archive/blog.yml")
    return SimpleNamespace(directory=workspace.tmp / "archive/bundle", told=told, again=again)


LOAD = """
- hosts: slipway
  become: true
  gather_subset: ['!all', min]
  environment: {{DOCKER_HOST: "{socket}"}}
  tasks:
    - ansible.builtin.import_role: {{name: slipway.blog.images, tasks_from: preflight}}
    - ansible.builtin.import_role: {{name: slipway.blog.images}}
    - ansible.builtin.debug: {{msg: "{{{{ images_ids | ansible.builtin.to_json }}}}"}}
"""


def test_exported_bundle_is_not_exported_again(bundle, hostname):
    assert bundle.again.status == 0, bundle.again.output
    assert bundle.again.changed == {hostname: 0}, bundle.again.output


def test_bundle_is_loaded_without_a_network(bundle, second_engine, deploy, workspace, hostname, host):
    playbook = workspace.tmp / "load.yml"
    playbook.write_text(LOAD.format(socket=second_engine.socket))
    images = json.loads((bundle.directory / "slipway.json").read_text())["images"]
    first, second = (deploy(str(playbook), *workspace.told, *bundle.told) for _ in range(2))
    for outcome in (first, second):
        assert outcome.status == 0, outcome.output
        told = "".join(outcome.output.split())
        assert all(f'"{service}":"{image}"' in told for service, image in images.items())
    assert first.changed[hostname] > 0
    assert second.changed == {hostname: 0}
    assert sorted(second_engine.docker("images --no-trunc --quiet").split()) == sorted(images.values())
    for service in images:
        written = host.file(f"{PLACE}/sbom/{service}.cdx.json").content
        assert written == (bundle.directory / f"{service}.cdx.json").read_bytes()
    told = second_engine.docker(f"run --rm --network=none {images['nginx']} nginx -v 2>&1")
    assert told.startswith("nginx version: nginx/")


def test_truncated_bundle_is_refused(bundle, deploy, workspace, hostname):
    broken = workspace.tmp / "broken"
    shutil.copytree(bundle.directory, broken)
    file = broken / "images.tar.gz"
    with file.open("r+b") as content:
        content.truncate(file.stat().st_size - 1)
    given = json.dumps({"images_blog": "archive", "images_bundle": str(broken)})
    done = deploy("playbooks/deploy.yml", "--extra-vars", given)
    assert done.status == 2, done.output
    assert done.changed == {hostname: 0}, done.output
    [message] = done.errors
    assert f"{file} is truncated or was changed: its SHA-256 differs" in message
    assert "playbooks/build.yml -e build_for=archive" in message
