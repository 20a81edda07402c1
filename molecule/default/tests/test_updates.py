"""Security updates of the packages in the images: they are found, installed and put into service."""

import json
import re

import pytest
from outside import Prober

pytestmark = pytest.mark.drill

PACKAGE = "slipway-test"
# A shell script for an image: install version 1 of a package, and add a package source that has version 2 as
# a security update.
OUTDATE = f"""
set -eu
mkdir -p /srv/repository /tmp/package/DEBIAN
cd /srv/repository
package() {{
    cat > /tmp/package/DEBIAN/control <<END
Package: {PACKAGE}
Version: $1
Architecture: all
Maintainer: Anna <anna@example.org>
Description: of a test
END
    dpkg-deb --build /tmp/package "$2"
}}
package 1 /tmp/1.deb
dpkg --install /tmp/1.deb
package 2 2.deb
cat /tmp/package/DEBIAN/control - > Packages <<END
Filename: ./2.deb
Size: $(stat -c %s 2.deb)
SHA256: $(sha256sum 2.deb | cut -d ' ' -f 1)
END
cat > Release <<END
Label: Debian-Security
Suite: stable-security
SHA256:
 $(sha256sum Packages | cut -d ' ' -f 1) $(stat -c %s Packages) Packages
END
echo 'deb [trusted=yes] file:/srv/repository ./' > /etc/apt/sources.list
rm -r /tmp/package /tmp/1.deb
"""
DOCKERFILE = """
FROM {image}
USER 0:0
RUN <<"SCRIPT"
{script}
SCRIPT
USER {owner}
"""


@pytest.fixture(scope="module")
def tags(docker, inspect, deploy):
    """The tags of nginx's and the blog's image, by service. Put the former images into service afterwards."""
    tags, kept = {}, {}
    for service in ("nginx", "flask_blog"):
        [image] = [c["Image"] for name, c in inspect().items() if name.startswith(service)]
        labels = json.loads(docker("image inspect %s", image))[0]["Config"]["Labels"]
        tags[service] = labels["slipway.image"]
        for tag in (tags[service], labels["org.opencontainers.image.base.name"]):
            kept[tag] = f"slipway.test/kept:{len(kept)}"
            docker("tag %s %s", tag, kept[tag])
    yield tags
    for tag, copy in kept.items():
        docker("tag %s %s", copy, tag)
        docker("image rm %s %s-built", copy, tag)
    done = deploy("site.yml")
    assert done.status == 0, done.output


@pytest.fixture(scope="module")
def outdate(host, docker, tags):
    """Add a package with a pending security update to an image, and move the image's tag to the result."""

    def outdate(service):
        owner = docker("image inspect --format {{.Config.User}} %s", tags[service]).strip()
        text = DOCKERFILE.format(image=tags[service], script=OUTDATE, owner=owner)
        host.check_output("printf %%s %s | docker build --quiet --tag %s -", text, tags[service])

    return outdate


@pytest.fixture
def version(docker, inspect):
    """Return the version of the package in the container of a service."""

    def version(service):
        [container] = [c["Id"] for name, c in inspect().items() if name.startswith(service)]
        return docker("exec %s dpkg-query --show --showformat='${Version}' %s", container, PACKAGE)

    return version


@pytest.fixture(scope="module")
def applied(host, deploy, outdate, reader, status):
    """Put outdated images into service, then apply the updates under load. Return what was seen."""
    for service in ("nginx", "flask_blog"):
        outdate(service)
    done = deploy("site.yml")
    assert done.status == 0, done.output
    host.check_output("slipway updates check")
    pending = status()["updates"]
    with Prober(reader) as readers:
        told = host.run("slipway updates apply --by=anna")
    assert told.rc == 0, told.stdout + told.stderr
    return {"pending": pending, "readers": readers}


def test_status_lists_the_pending_updates_of_each_image(applied):
    assert applied["pending"] == [
        f"{service}: {PACKAGE} 1 → 2: run site.yml, or `slipway updates apply`"
        for service in ("nginx", "flask_blog")
    ]


def test_no_request_fails_while_updates_are_applied(applied):
    assert applied["readers"].failures == []
    assert applied["readers"].answered > 100


def test_applied_updates_are_in_the_running_containers(applied, version, status):
    assert [version(service) for service in ("nginx", "flask_blog")] == ["2", "2"]
    [sentence] = status()["updates"]
    assert sentence.startswith("none, checked ")


def test_updated_release_is_in_the_ledger_with_its_version(applied, ledger):
    former, updated = [entry for entry in ledger() if entry["outcome"] == "in service"][-2:]
    assert updated["by"] == "anna"
    assert (updated["version"], updated["revision"]) == (former["version"], former["revision"])


def test_updated_images_run_without_new_rights(applied, docker, inspect):
    for container in inspect().values():
        # Some directories are not readable.
        find = "find / -xdev -type f -perm /6000 2>/dev/null || true"
        assert docker("exec %s sh -c %s", container["Id"], find) == ""


def test_sbom_of_an_updated_image_has_its_present_packages(applied, host, docker, inspect, variables):
    sbom = json.loads(host.check_output("cat %s/nginx.cdx.json", variables["images_sbom_directory"]))
    written = {
        (c["name"], c["version"]) for c in sbom["components"] if c.get("purl", "").startswith("pkg:deb/")
    }
    command = "dpkg-query --show --showformat '${Package} ${Version}\\n'"
    lines = docker("exec %s sh -c %s", inspect()["nginx"]["Id"], command).splitlines()
    assert written == {tuple(line.split()) for line in lines}


def test_playbook_changes_nothing_after_the_host_applied_updates(applied, deploy, hostname):
    done = deploy("site.yml")
    assert done.status == 0, done.output
    assert done.changed == {hostname: 0}, done.output


def test_status_reports_no_changed_file_after_the_host_applied_updates(applied, deploy):
    done = deploy("playbooks/status.yml")
    assert re.findall(r"changed +\S+ since site.yml wrote it", done.output) == []


def test_deploy_installs_the_pending_updates_of_the_blog(applied, host, deploy, outdate, version, status):
    outdate("flask_blog")
    done = deploy("playbooks/deploy.yml")
    assert done.status == 0, done.output
    host.check_output("slipway updates check")
    assert version("flask_blog") == "1"
    done = deploy("playbooks/deploy.yml")
    assert done.status == 0, done.output
    assert version("flask_blog") == "2"
