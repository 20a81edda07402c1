"""The ledger of releases, which defines what should run."""

import json
import os
from pathlib import Path
from typing import Required, TypedDict

from slipway.files import replace, write
from slipway.shell import Failure

ENTRIES = 200


class Held(TypedDict):
    """Who rolled a release back, and when."""

    since: str
    by: str


class Entry(TypedDict, total=False):
    """One release in the ledger, as stored in releases.json.

    Attributes:
        id: its name, which is the time when it began.
        image: id of the image.
        version, revision: of the image's source, for people.
        slot: the slot that it was deployed to.
        by: who released it.
        at: when it began; later, when it came into service or failed.
        outcome: "under way", "in service", "failed" or "rotated".
        stage: its current stage, while it is under way.
        stages: the duration of each stage, in seconds.
        switched: seconds until it served readers.
        instead_of: id of the release that it rolled back.
        held: set while this release is held after a rollback.
        schema: the schema revision that it found or migrated to.
        applied: revisions of the migrations that were pending.
        config: compose's hash of the slot's definition.
        secrets: names of the secrets that it put into service.
        reason: why it failed.
    """

    id: Required[str]
    image: Required[str]
    version: Required[str]
    revision: Required[str]
    slot: Required[str]
    by: Required[str]
    at: Required[str]
    outcome: Required[str]
    stage: str
    stages: dict[str, float]
    switched: float
    instead_of: str
    held: Held
    schema: str | None
    applied: list[str]
    config: str
    secrets: list[str]
    reason: str


class Ledger:
    """releases.json: the latest releases, oldest first, with author, time, image and outcome of each.

    An entry's outcome is "under way", "in service" (it came into service, even if another one replaced it
    later), "failed" or "rotated" (only the admin's password is new).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The complete ledger from before the last write.
        self.former = path.with_name(f"{path.name}.former")

    def entries(self) -> list[Entry]:
        """Return the entries, oldest first; raise Failure if they cannot be read."""
        try:
            entries = json.loads(self.path.read_text()) if self.path.exists() else []
            if not isinstance(entries, list) or not all({"id", "outcome"} <= {*entry} for entry in entries):
                raise ValueError("it holds no entries of releases")
        except (ValueError, TypeError) as error:
            raise Failure(
                f"{self.path} is broken ({error}), and nothing was changed. Put back what it was when it was "
                f"last written:\n    cp {self.former} {self.path}\n"
                f"Where that does not help, move {self.path} away and run site.yml: a new one begins with "
                "what is released next, and nothing that earlier releases left is removed."
            ) from None
        return entries

    def put(self, *changed: Entry) -> None:
        """Add entries, or replace those with the same id, in one step; drop the oldest beyond the limit.

        The limit applies separately to releases that served and to others, so failures push out no release
        that served.
        """
        entries = list({entry["id"]: entry for entry in [*self.entries(), *changed]}.values())
        served = [entry for entry in entries if entry["outcome"] == "in service"][-ENTRIES:]
        others = [entry for entry in entries if entry["outcome"] != "in service"][-ENTRIES:]
        kept = [entry for entry in entries if entry in served or entry in others]
        if self.path.exists():
            # `write` creates a new file, so a hard link keeps the present one.
            name = self.former.with_name(f"{self.former.name}.new")
            name.unlink(missing_ok=True)
            os.link(self.path, name)
            replace(name, self.former)
        write(self.path, json.dumps(kept, indent=2) + "\n")

    def set_in_service(self, entry: Entry) -> None:
        """Add the entry of a release that came into service, and free its image; hold the one rolled back.

        If it undoes a rollback, do not hold the release that served in between: nobody found a fault in it.
        """
        changed = []
        before = {other["id"] for other in self.successful() if other["image"] == entry["image"]}
        for other in self.successful():
            if other["id"] == entry.get("instead_of") and other.get("instead_of") not in before:
                changed.append(other | {"held": {"since": entry["at"], "by": entry["by"]}})
            elif other["image"] == entry["image"] and "held" in other:
                free = other.copy()
                del free["held"]
                changed.append(free)
        self.put(*changed, entry)

    def successful(self) -> list[Entry]:
        """Return the entries of releases that were put into service, oldest first."""
        return [entry for entry in self.entries() if entry["outcome"] == "in service"]

    def current(self) -> Entry | None:
        """Return the entry of the release in service, or None."""
        return next(iter(self.successful()[::-1]), None)

    def in_service(self) -> Entry:
        """Return the entry of the release in service; raise Failure if the ledger has none."""
        current = self.current()
        if not current:
            raise Failure(f"{self.path} has no release in service: run the playbook deploy.yml.")
        return current

    def under_way(self) -> Entry | None:
        """Return the entry of a release that has not ended, or None."""
        return next((e for e in reversed(self.entries()) if e["outcome"] == "under way"), None)

    def held(self, image: str) -> Entry | None:
        """Return the newest entry that had image in service if that entry is held, else None."""
        newest = next((entry for entry in reversed(self.successful()) if entry["image"] == image), None)
        return newest if newest and newest.get("held") else None

    def find(self, name: str) -> Entry:
        """Return the newest release with that id or version that was in service; else raise Failure."""
        found = [entry for entry in self.successful() if name in (entry["id"], entry["version"])]
        if not found:
            known = ", ".join(entry["id"] for entry in self.successful()[-5:]) or "none yet"
            raise Failure(
                f"No release {name} was ever in service. The latest are: {known}; see `slipway history`."
            )
        return found[-1]

    def kept(self, keep: int) -> list[Entry]:
        """Return the entries whose image, dump and static files are kept.

        Args:
            keep: how many images that were in service to keep, counted from the newest; at least 2.
        """
        images = []
        for entry in reversed(self.successful()):
            if entry["image"] not in images:
                images.append(entry["image"])
        chosen = set(images[: max(keep, 2)])
        # Keep held images while the repository may still ask for them: a rebuild has another id.
        ordinary = [number for number, entry in enumerate(self.successful()) if not entry.get("instead_of")]
        recent = self.successful()[ordinary[-1] :] if ordinary else []
        chosen |= {entry["image"] for entry in recent}
        oldest = min((entry["id"] for entry in self.successful() if entry["image"] in chosen), default="")
        # Keep a dump as long as a release from before its migration, even if the dump's own release failed.
        migrated = {revision: entry for entry in self.entries() for revision in entry.get("applied", [])}
        needed = [entry for entry in migrated.values() if entry["id"] > oldest] + self.entries()[-1:]
        return [entry for entry in self.entries() if entry["image"] in chosen or entry in needed]
