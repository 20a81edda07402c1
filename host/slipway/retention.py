"""Static files, dumps and images of releases, and which of them are kept on the host."""

import json
import shutil

from slipway.files import special_files, sync, write
from slipway.ledger import Ledger, Release
from slipway.schema import remove_oneoff_containers
from slipway.shell import Failure
from slipway.stack import Stack

BLOG_LABEL = "slipway/flask_blog"


def kept_releases(ledger: Ledger, keep: int) -> list[Release]:
    """Return the entries whose image, dump and static files are kept.

    Args:
        ledger: the ledger of the host.
        keep: how many images that were in service to keep, counted from the newest; at least 2. It is the
            variable `release_keep` of the role release.
    """
    entries, served = ledger.entries(), ledger.successful()
    chosen = set(list(dict.fromkeys(entry.image for entry in reversed(served)))[: max(keep, 2)])
    # Keep the image that was released last, and those of all rollbacks since then. Keep them even if they are
    # blocked: site.yml may still ask for a blocked image. If it had to build the image again, the new image
    # would have another id, and would not be blocked.
    chosen |= {entry.image for entry in served[max(ledger.places().values(), default=0) :]}
    # Keep a dump while a release from before its migration is kept, even if the migrating release failed.
    # Compare places in the ledger, not ids: an id is a time, and the clock may have been set back.
    kept = [entry.outcome == "in service" and entry.image in chosen for entry in entries]
    oldest = kept.index(True) if any(kept) else -1
    migrated = {revision: place for place, entry in enumerate(entries) for revision in entry.applied or []}
    needed = {place for place in migrated.values() if place > oldest} | {len(entries) - 1}
    return [entry for place, entry in enumerate(entries) if entry.image in chosen or place in needed]


def copy_static(stack: Stack, slot: str, name: str) -> None:
    """Copy the release's static files to nginx's directory; hashed names keep the old files valid.

    Args:
        slot: the slot whose container has them.
        name: the release's id, which names the list of these files for their later removal.
    """
    container = stack.container(slot)
    if not container:
        raise Failure(f"The container of the {slot} slot no longer exists.")
    stack.manifests.mkdir(exist_ok=True)
    # A fixed name, so that the next run removes the leftovers of a killed one.
    incoming = stack.static.parent / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    stack.host.run("docker", "cp", "--quiet", f"{container['Id']}:{stack.config['static']}/.", str(incoming))
    # Through a link, nginx could serve files of this host. In the list, each name is one line.
    paths = {str(path.relative_to(incoming)) for path in incoming.rglob("*") if path.is_file()}
    skipped = {*special_files(incoming), *(name for name in paths if not name.isprintable())}
    if skipped:
        told = ", ".join(ascii(name)[1:-1] for name in sorted(skipped))
        print(
            f"Links, special files and names with special characters are left to the slot: {told}", flush=True
        )
    names = sorted(paths - skipped)
    write(stack.manifests / f"{name}.txt", "\n".join(names) + "\n")
    for file in names:
        target = stack.static / file
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(incoming / file)
        (incoming / file).replace(target)
    shutil.rmtree(incoming)


def tidy(stack: Stack) -> None:
    """Remove images, dumps and static files of releases that are not kept, and leftovers of a killed run.

    Keep everything of a release that is not in the ledger: the ledger may be a new one.
    """
    remove_oneoff_containers(stack, "status=exited")
    kept = kept_releases(stack.ledger, stack.config["keep"])
    gone = [entry for entry in stack.ledger.entries() if entry not in kept]
    listed = ("docker", "image", "ls", "--no-trunc", "--quiet", "--all", "--filter", "label=slipway.image")
    here = set(stack.host.run(*listed).split()) & {entry.image for entry in gone}
    in_use = {stack.image(slot) for slot in stack.slot_states()}
    for image in here - {entry.image for entry in kept} - in_use:
        try:
            [found] = json.loads(stack.host.run("docker", "image", "inspect", image))
            if found["Config"]["Labels"]["slipway.image"].startswith(BLOG_LABEL):
                stack.host.run("docker", "image", "rm", "--force", image)
        except Failure as failure:
            print(f"An image of an old release was not removed: {failure}", flush=True)
    ids = {entry.id for entry in gone}
    manifests = {path.stem: set(path.read_text().splitlines()) for path in stack.manifests.glob("*.txt")}
    # A release of a former version has no manifest (list of static files): then remove no static file.
    if all(entry.id in manifests for entry in kept if entry.outcome == "in service"):
        used = set().union(*(names for name, names in manifests.items() if name not in ids))
        unused = set().union(*(names for name, names in manifests.items() if name in ids)) - used
        for path in stack.static.rglob("*"):
            if path.is_file() and str(path.relative_to(stack.static)) in unused:
                path.unlink()
        for name in ids:
            (stack.manifests / f"{name}.txt").unlink(missing_ok=True)
    for path in stack.dumps.glob("*.*"):
        # A dump that still has the suffix .new is incomplete.
        if path.stem in ids or path.suffix == ".new":
            path.unlink()
