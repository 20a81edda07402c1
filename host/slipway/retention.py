"""Static files, dumps and images of releases, and which of them are kept on the host."""

import json
import shutil

from slipway.files import special_files, sync, write
from slipway.schema import remove_oneoff_containers
from slipway.shell import Failure
from slipway.stack import Stack

BLOG_LABEL = "slipway/flask_blog"


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
    if special := special_files(incoming):
        shutil.rmtree(incoming)
        raise Failure(
            f"The image's static files contain links or special files: {', '.join(special)}. Through a link, "
            "nginx could serve files that are not for readers: replace each link with a copy of its target."
        )
    names = [str(path.relative_to(incoming)) for path in incoming.rglob("*") if path.is_file()]
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
    kept = stack.ledger.kept(stack.config["keep"])
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
