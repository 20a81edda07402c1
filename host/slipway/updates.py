"""Security updates of the packages in the images that are in service.

Debian publishes security updates at any time, but an image keeps the packages with which it was built. A
daily timer runs `check`, or `apply` if `images_updates` is `auto`. `build` installs the updates in a layer on
top of the image that was built first, and moves that image's tag to the new image, so that site.yml finds it.
`apply` also puts the new images into service.
"""

import contextlib
import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway import containers, nginx, startup
from slipway.files import rewrite_managed, write
from slipway.host import Host, age, moment
from slipway.json_types import from_json
from slipway.lock import lock, playbook_run
from slipway.recovery import locked
from slipway.release import put_into_service
from slipway.retention import BLOG_LABEL
from slipway.sbom import set_versions
from slipway.settings import DAY
from slipway.shell import CommandFailure, Failure, printable, say
from slipway.stack import Stack
from slipway.unit import detach, exec_in_unit

# Options of apt-get: it runs without the privileges that it needs to become the user _apt.
APT = "apt-get -qq -o APT::Sandbox::User=root"
# Without this, apt-get update succeeds even if it cannot reach a package source.
ALL = "-o APT::Update::Error-Mode=any"
NO_APT = 3
CHECK = f"""
command -v apt-get >/dev/null || exit {NO_APT}
{APT} {ALL} update
{APT} --simulate --with-new-pkgs upgrade
"""
# The container has no more rights than these commands need: the image may have been taken over.
THROWAWAY = (
    *("docker", "run", "--rm", "--pull=never", "--user=0:0", "--read-only"),
    *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m", "--pids-limit=100"),
    *("--tmpfs=/tmp", "--tmpfs=/var/lib/apt/lists", "--tmpfs=/var/cache/apt"),
)
# As in the Dockerfiles, no program may change its user.
DOCKERFILE = f"""
ARG BASE_IMAGE
FROM ${{BASE_IMAGE}}
ARG OWNER
USER 0:0
RUN {APT} {ALL} update \\
 && DEBIAN_FRONTEND=noninteractive {APT} -y -o Dpkg::Options::=--force-confold --with-new-pkgs upgrade \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \\
 && find / -xdev -type f -perm /6000 -exec chmod a-s {{}} +
USER ${{OWNER}}
ARG NAME
LABEL slipway.image=${{NAME}} slipway.updated=${{NAME}}
"""
# Such as: Inst libc6 [2.41-12] (2.41-12+deb13u1 Debian-Security:13/stable-security [amd64])
UPDATE = re.compile(r"^Inst (\S+) (?:\[(\S+)\] )?\((\S+) (.*)\)", re.MULTILINE)
STALE_DAYS = 8
# The suffix of the tag that keeps the image without updates. Each update builds its layer on that image anew.
BUILT = "-built"


@dataclass
class Record:
    """The result of the last check.

    Attributes:
        checked: when the last check ended without a problem, as in RFC 3339; empty if there was none.
        problem: why the last check failed; empty if it did not.
        images: the pending updates by the id of the image.
    """

    checked: str = ""
    problem: str = ""
    images: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """An image in service.

    Attributes:
        service: its service.
        id: its id.
        name: the tag by which site.yml finds it, from its label.
        base: the image that it was built on, from its label.
        owner: the user of its processes.
        is_local: whether this host built it, so that the host may replace it.
    """

    service: str
    id: str
    name: str
    base: str
    owner: str
    is_local: bool


def record_file(stack: Stack) -> Path:
    """Return the path of the record. The module host_facts reads it too."""
    return stack.state / "updates.json"


def read_record(stack: Stack) -> Record:
    """Return the result of the last check; an empty one if there was none, or if the file is damaged."""
    try:
        record = from_json(Record, json.loads(record_file(stack).read_text()))
        if record.checked:
            moment(record.checked)
        return record
    except (OSError, ValueError):
        return Record()


def images_in_service(stack: Stack) -> list[Image]:
    """Return the images of the containers in service."""
    names = {"nginx": "nginx", "db": "db", "flask_blog": f"flask_blog_{stack.active()}"}
    found = []
    for service, name in names.items():
        for container in containers.inspect(stack.host, *containers.of_service(stack.host, name)[:1]):
            about = inspect_image(stack.host, container["Image"])
            labels = about["Config"].get("Labels") or {}
            found.append(
                Image(
                    service,
                    container["Image"],
                    labels.get("slipway.image", ""),
                    labels.get("org.opencontainers.image.base.name", ""),
                    about["Config"].get("User") or "0:0",
                    is_built_here(stack, service),
                )
            )
    return found


def is_built_here(stack: Stack, service: str) -> bool:
    """Tell whether this host builds a service's image, by images_blog: build, pull or archive."""
    source = stack.config.get("images_blog", "build")
    return source == "build" or (source == "pull" and service != "flask_blog")


def inspect_image(host: Host, name: str) -> dict[str, Any]:
    """Return the `docker image inspect` output of one image."""
    [found] = json.loads(host.run("docker", "image", "inspect", name))
    about: dict[str, Any] = found
    return about


def id_of(host: Host, name: str) -> str:
    """Return the id of the image that has a tag; empty if there is none."""
    with contextlib.suppress(CommandFailure):
        return str(inspect_image(host, name)["Id"])
    return ""


def pending_updates(host: Host, image: str) -> list[str]:
    """Return the pending security updates of an image, such as "libc6 2.41-12 → 2.41-12+deb13u1".

    Raises:
        Failure: the image has no apt-get, or it cannot read the lists of packages.
    """
    try:
        options = ("--network=bridge", "--entrypoint=timeout")
        text = host.run(*THROWAWAY, *options, image, "300", "sh", "-euc", CHECK)
    except CommandFailure as failure:
        if failure.status == NO_APT:
            raise Failure("it has no apt-get, so its packages cannot be checked.") from None
        raise
    return [
        printable(f"{package} {before or '(new)'} → {after}")
        for package, before, after, origins in UPDATE.findall(text)
        if "security" in origins.lower()
    ]


def check(stack: Stack) -> Record:
    """Look for pending updates of the images in service, and record them.

    Raises:
        Failure: an image cannot be checked. The record has the reason, and what is known of the other images.
    """
    before, problems = read_record(stack), []
    record = Record(before.checked)
    for image in images_in_service(stack):
        try:
            record.images[image.id] = pending_updates(stack.host, image.id)
        except Failure as failure:
            problems.append(f"{image.service}: {failure}")
            if image.id in before.images:
                record.images[image.id] = before.images[image.id]
    record.problem = "\n".join(problems)
    if not problems:
        record.checked = stack.host.now()
    save(stack, record)
    if problems:
        raise Failure(
            "The packages of these images could not be checked for security updates. This host must reach "
            f"the package sources of the images.\n{record.problem}"
        )
    return record


def save(stack: Stack, record: Record) -> None:
    """Write the record."""
    write(record_file(stack), json.dumps(vars(record), indent=1) + "\n")


def build(stack: Stack) -> dict[str, str]:
    """Install the recorded updates in the images in service, and in the images that they were built on.

    Returns:
        The ids of the new images by service, also of those that an earlier run built. The new images have the
        tags of the former ones.
    """
    host, pending, new = stack.host, read_record(stack).images, {}
    for image in images_in_service(stack):
        if not pending.get(image.id) or not image.is_local:
            continue
        if id_of(host, image.name) == image.id:
            say(f"{image.service}: installing {len(pending[image.id])} updates")
            if image.base.startswith("slipway/") and id_of(host, image.base):
                install(host, image.base, "0:0")
            install(host, image.name, image.owner)
        elif not id_of(host, f"{image.name}{BUILT}"):
            continue  # The tag points to an image that no update made; site.yml puts it into service.
        correct_sbom(stack, image)
        new[image.service] = id_of(host, image.name)
    return {service: image for service, image in new.items() if not stack.ledger.blocked(image)}


def install(host: Host, name: str, owner: str) -> None:
    """Replace the image with a tag by one that has all updates of its packages."""
    built = f"{name}{BUILT}"
    # An image inherits this label from an updated base. Only its own update sets the label to its own name.
    labels = inspect_image(host, name)["Config"].get("Labels") or {}
    if labels.get("slipway.updated") != name or not id_of(host, built):
        host.run("docker", "tag", name, built)
    values = {"BASE_IMAGE": built, "OWNER": owner, "NAME": name}
    arguments = [f"--build-arg={key}={value}" for key, value in values.items()]
    host.run("docker", "build", "--quiet", "--no-cache", "--tag", name, *arguments, "-", stdin=DOCKERFILE)


def correct_sbom(stack: Stack, image: Image) -> None:
    """Write the versions of the image's packages to its SBOM."""
    path = Path(stack.config.get("sbom", "")) / f"{image.service}.cdx.json"
    if path.is_file():
        query = ("dpkg-query", "--show", "--showformat=${Package} ${Version}\n")
        options = ("--network=none", f"--entrypoint={query[0]}")
        lines = stack.host.run(*THROWAWAY, *options, image.name, *query[1:]).splitlines()
        set_versions(path, dict(line.split() for line in lines))


def deploy(stack: Stack, new: dict[str, str], by: str) -> None:
    """Put new images into service, in the order of site.yml.

    Args:
        stack: the stack, under the lock.
        new: the ids of the images by service.
        by: the name for the ledger's new entry.
    """
    compose_file = stack.directory / "compose.yml"
    before = compose_file.read_text()
    former = {image.service: image.id for image in images_in_service(stack)}
    after, record = before, stack.state / "files.json"
    for service in {"nginx", "db"} & new.keys():
        after = after.replace(former[service], new[service])
    if after != before:
        rewrite_managed(compose_file, after, record)
    # An earlier run may have been killed after it wrote compose.yml.
    if {"nginx", "db"} & new.keys():
        nginx.apply(stack.host)
        startup.up(stack.host)
        # As the role `stack` does: this file has the digest of the compose.yml that is in service.
        state = stack.host.settings.project / "stack.json"
        text = re.sub('(?<="compose": ")[0-9a-f]{64}', sha256(after), state.read_text())
        rewrite_managed(state, text, record)
    if "flask_blog" in new:
        current = stack.ledger.in_service()
        put_into_service(stack, new["flask_blog"], current.version, current.revision, by)


def sha256(text: str) -> str:
    """Return the digest of a text as in stack.json."""
    return hashlib.sha256(text.encode()).hexdigest()


def remove_replaced(host: Host) -> None:
    """Remove images of nginx, the database and the bases whose tag was moved to a newer image.

    The cleanup of releases removes images of the blog: it knows which of them a rollback needs.
    """
    listed = ("docker", "image", "ls", "--quiet", "--no-trunc")
    for image in host.run(*listed, "--filter=dangling=true", "--filter=label=slipway.image").split():
        label = inspect_image(host, image)["Config"]["Labels"]["slipway.image"]
        if not label.startswith(BLOG_LABEL):
            # The engine refuses to remove an image that a container uses.
            with contextlib.suppress(CommandFailure):
                host.run("docker", "image", "rm", image)


def describe(stack: Stack) -> list[str]:
    """Return sentences about pending updates and about checks that failed, for the status."""
    record = read_record(stack)
    if record == Record():
        return []
    told = list(problems(stack, record))
    for image in images_in_service(stack):
        if image.id not in record.images:
            told.append(
                f"{image.service}: not checked yet; the daily timer or `slipway updates check` does it"
            )
        if updates := record.images.get(image.id):
            told.append(f"{image.service}: {', '.join(updates)}: {remedy(stack, image)}")
    return told or [f"none, checked {record.checked}"]


def remedy(stack: Stack, image: Image) -> str:
    """Return what installs the pending updates of an image."""
    if not image.is_local:
        return "build a new image on current bases, see docs/images.md"
    if blocked := stack.ledger.blocked(id_of(stack.host, image.name)):
        return (
            f"the image with updates was rolled back; `slipway rollback {blocked.id}` puts it into service "
            "again, and a build from changed sources gets the updates too"
        )
    return "run site.yml, or `slipway updates apply`"


def problems(stack: Stack, record: Record) -> Iterator[str]:
    """Yield a sentence for each problem with the checks themselves."""
    if record.problem:
        yield f"The last check failed: `journalctl -u slipway-updates`. {record.problem.splitlines()[0]}"
    if record.checked and age(stack.host, record.checked) > STALE_DAYS * DAY:
        yield f"The last complete check was at {record.checked}: see `systemctl status slipway-updates.timer`"


def command_check(stack: Stack, options: Namespace) -> int:
    remove_replaced(stack.host)
    check(stack)
    print("\n".join(describe(stack)))
    return 0


def command_build(stack: Stack, options: Namespace) -> int:
    if not options.in_unit:
        exec_in_unit("slipway-updates", options.arguments)
    before = {image.name: id_of(stack.host, image.name) for image in images_in_service(stack)}
    with lock(stack.host, "an installation of security updates", other="Another operation"):
        build(stack)
    changed = any(id_of(stack.host, name) != image for name, image in before.items())
    print(json.dumps({"changed": changed}))
    return 0


def command_apply(stack: Stack, options: Namespace) -> int:
    refuse_during_a_playbook(stack.host)
    if not options.in_unit:
        return detach(stack.host, options.by, options.arguments)
    # An image that cannot be checked must not keep the others from their updates.
    with contextlib.suppress(Failure):
        check(stack)
    with locked(stack, options.by):
        # A playbook may have started during the check.
        refuse_during_a_playbook(stack.host)
        deploy(stack, build(stack), options.by)
    return command_check(stack, options)


def refuse_during_a_playbook(host: Host) -> None:
    """Raise Failure while a playbook runs: it knows the images that it found at its beginning."""
    if run := playbook_run(host):
        raise Failure(
            f"{run['playbook']} by {run['by']} runs since {run['since']}: try again when it has ended."
        )
