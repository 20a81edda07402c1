"""Read export.json, and take over the id of the feed from it."""

import re
from typing import Any

from sqlalchemy import select, update

from ..exporter import FORMAT, MARKER
from ..models import GUID, Post, Site
from .entries import read_json
from .step import Import


def read_site(step: Import) -> dict[str, Any]:
    """Return `media`, `tags` and `guid` of export.json.

    In exports of earlier releases, `tags` is empty and `guid` is None.
    """
    marker = step.source / MARKER
    site = read_json(marker, step)
    if not isinstance(site, dict) or site.get("format") != FORMAT:
        step.problems.append(
            f"{marker}:1: does not have the format {FORMAT}; "
            "export the site again with the release that runs this import"
        )
        return {"media": [], "tags": [], "guid": None}
    guid = site.get("guid")
    if guid is not None and not (isinstance(guid, str) and re.fullmatch(GUID, guid)):
        step.problems.append(f"{marker}:1: has a guid that is not valid: {guid!r}; export again")
    return {"media": site.get("media"), "tags": site.get("tags", []), "guid": guid}


def write_site(site: dict[str, Any], step: Import) -> None:
    """Give the feed the id of the export. If the blog has posts, keep its own id, which feed readers know."""
    if site["guid"] and step.session.scalar(select(Post.id).limit(1)) is None:
        step.session.execute(update(Site).values(guid=site["guid"]))
