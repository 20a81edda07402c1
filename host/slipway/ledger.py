"""The ledger of releases, which defines what should run."""

import dataclasses
import json
import os
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from slipway.files import replace, write
from slipway.json_types import has_type
from slipway.settings import SLOTS
from slipway.shell import Failure

ENTRIES = 200


@dataclass
class Blocked:
    """The block of a release: when the release was rolled back, and by whom."""

    since: str
    by: str


@dataclass
class Release:
    """One release, which is an entry of the ledger.

    Attributes:
        id: its name, which is the time when it began.
        image: id of the image.
        version, revision: version and git revision of the image's source, to show to people.
        slot: the slot that it was deployed to.
        by: who released it.
        at: when it began; later, when it came into service or failed.
        outcome: "under way", "in service", "failed" or "rotated".
        stage: its current stage, while it is under way.
        stages: the duration of each stage, in seconds.
        switched: seconds until it served readers.
        instead_of: id of the release that it rolled back.
        blocked: set while this release is blocked after a rollback.
        schema: the schema revision that it found or migrated to.
        applied: revisions of the migrations that were pending.
        config: compose's hash of the slot's definition.
        secrets: names of the secrets that it put into service.
        reason: why it failed.
        others: keys that this version does not know, with their values.
    """

    id: str
    image: str
    version: str
    revision: str
    slot: str
    by: str
    at: str
    outcome: str
    stage: str | None = None
    stages: dict[str, float] | None = None
    switched: float | None = None
    instead_of: str | None = None
    blocked: Blocked | None = None
    schema: str | None = None
    applied: list[str] | None = None
    config: str | None = None
    secrets: list[str] | None = None
    reason: str | None = None
    others: dict[str, object] = field(default_factory=dict)

    @classmethod
    def from_json(cls, entry: object) -> "Release":
        """Return the release that an object in releases.json describes.

        A newer version of the program may have written keys that this one does not know. They are kept in
        `others`, and `to_json` writes them back.

        Raises:
            ValueError: a key is missing, or its value has another type or is no slot.
        """
        if not isinstance(entry, dict):
            raise ValueError("an entry is not an object")
        # The previous version of this program wrote the key `blocked` as `held`.
        values = {"blocked" if key == "held" else key: value for key, value in entry.items()}
        names = {each.name for each in fields(cls)} - {"others"}
        values["others"] = {key: value for key, value in values.items() if key not in names}
        if values.get("blocked") is not None:
            values["blocked"] = build(Blocked, values["blocked"])
        release = build(cls, values)
        if release.slot not in SLOTS:
            raise ValueError(f"the `slot` of an entry is neither {' nor '.join(SLOTS)}")
        return release

    def to_json(self) -> dict[str, Any]:
        """Return the object for releases.json, the webhook and `--json`; leave out fields that are None."""
        values = {key: value for key, value in asdict(self).items() if value is not None and key != "others"}
        return values | self.others


Record = TypeVar("Record", Blocked, Release)


def build(cls: type[Record], values: object) -> Record:
    """Return an instance of a dataclass from a JSON object; ignore keys that the class does not have.

    Raises:
        ValueError: a value is missing or has another type.
    """
    given = {}
    for each in fields(cls):
        if isinstance(values, dict) and each.name in values:
            given[each.name] = values[each.name]
            if not has_type(given[each.name], each.type):
                raise ValueError(f"the `{each.name}` of an entry has the wrong type")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"an entry has no `{each.name}`")
    return cls(**given)


class Ledger:
    """releases.json: the latest releases, oldest first, with author, time, image and outcome of each.

    An entry's outcome is "under way", "in service" (it came into service, even if another one replaced it
    later), "failed" or "rotated" (only the admin's password is new).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The complete ledger from before the last write.
        self.former = path.with_name(f"{path.name}.former")

    def entries(self) -> list[Release]:
        """Return the entries, oldest first; raise Failure if they cannot be read."""
        try:
            entries = json.loads(self.path.read_text()) if self.path.exists() else []
            if not isinstance(entries, list):
                raise ValueError("it is not a list of releases")
            return [Release.from_json(entry) for entry in entries]
        except ValueError as error:
            raise Failure(
                f"{self.path} is broken ({error}); nothing was changed. Restore its previous version:\n"
                f"    cp {self.former} {self.path}\n"
                f"If that does not help, move {self.path} away and run site.yml: the next release starts a "
                "new ledger, and no images, dumps or static files of earlier releases are removed."
            ) from None

    def put(self, *changed: Release) -> None:
        """Add entries, or replace those with the same id, atomically; remove the oldest beyond the limit.

        The limit applies separately to releases that served and to others, so failures remove no release
        that served.
        """
        entries = list({entry.id: entry for entry in [*self.entries(), *changed]}.values())
        served = [entry for entry in entries if entry.outcome == "in service"][-ENTRIES:]
        others = [entry for entry in entries if entry.outcome != "in service"][-ENTRIES:]
        kept = {entry.id for entry in [*served, *others]}
        if self.path.exists():
            # `write` creates a new file, so a hard link keeps the present one.
            name = self.former.with_name(f"{self.former.name}.new")
            name.unlink(missing_ok=True)
            os.link(self.path, name)
            replace(name, self.former)
        write(
            self.path, json.dumps([entry.to_json() for entry in entries if entry.id in kept], indent=2) + "\n"
        )

    def set_in_service(self, entry: Release) -> None:
        """Add the entry of a release in service; unblock its image, and block the release it rolled back.

        If the rollback goes forward again, to an image that is newer than the one in service, block nothing:
        nobody found a fault in the releases that served in between.
        """
        changed, places = [], self.places()
        for other in self.successful():
            goes_back = places.get(entry.image, -1) < places[other.image]
            if other.id == entry.instead_of and goes_back:
                changed.append(dataclasses.replace(other, blocked=Blocked(entry.at, entry.by)))
            elif other.image == entry.image and other.blocked:
                changed.append(dataclasses.replace(other, blocked=None))
        self.put(*changed, entry)

    def successful(self) -> list[Release]:
        """Return the entries of releases that were put into service, oldest first."""
        return [entry for entry in self.entries() if entry.outcome == "in service"]

    def places(self) -> dict[str, int]:
        """Return the place in history of each image that was in service: an index in `successful()`.

        An image gets its place when it is released. It keeps this place when a rollback returns to it, and
        when it is released again while it serves, such as for new secrets.
        """
        places: dict[str, int] = {}
        before = None
        for number, entry in enumerate(self.successful()):
            if not (entry.instead_of or entry.image == before) or entry.image not in places:
                places[entry.image] = number
            before = entry.image
        return places

    def current(self) -> Release | None:
        """Return the entry of the release in service, or None."""
        return next(iter(self.successful()[::-1]), None)

    def in_service(self) -> Release:
        """Return the entry of the release in service; raise Failure if the ledger has none."""
        current = self.current()
        if not current:
            raise Failure(f"{self.path} has no release in service: run the playbook deploy.yml.")
        return current

    def under_way(self) -> Release | None:
        """Return the entry of a release that has not ended, or None."""
        return next((e for e in reversed(self.entries()) if e.outcome == "under way"), None)

    def all_blocked(self) -> list[Release]:
        """Return the blocked entries, oldest first; a later entry with the same image ends the block."""
        served = self.successful()
        newest = {entry.image: entry for entry in served}
        return [entry for entry in served if entry.blocked and newest[entry.image] is entry]

    def blocked(self, image: str) -> Release | None:
        """Return the entry that blocks this image, or None if the image is not blocked."""
        return next((entry for entry in self.all_blocked() if entry.image == image), None)

    def find(self, name: str) -> Release:
        """Return the newest release that has this id or version and was in service; else raise Failure."""
        found = [entry for entry in self.successful() if name in (entry.id, entry.version)]
        if not found:
            known = ", ".join(entry.id for entry in self.successful()[-5:]) or "none"
            raise Failure(
                f"No release with the id or version {name} was ever in service. The latest releases: "
                f"{known}. `slipway history` lists more."
            )
        return found[-1]
