"""Import the tags of an export. Exports of older releases have only the names of tags, in the posts."""

from typing import Any

from ..exporter import MARKER
from ..models import Tag, TagAlias
from ..names import is_slug
from ..tags import TagBook, is_visible_name
from .entries import entries, refuse_control_characters
from .step import Import


def read_tags(site: dict[str, Any], step: Import) -> list[Tag]:
    """Read the tags that `site`, the content of export.json, describes."""
    return list(entries(step.source / MARKER, site["tags"], _tag, step))


def _tag(row: dict[str, Any]) -> Tag:
    """Return the tag in `row`. Raises KeyError, TypeError or ValueError if it is not valid."""
    name, slugs, first = row["name"], [row["slug"], *row["aliases"]], row.get("first_slug")
    if "," in name or not is_visible_name(name) or not all(map(is_slug, [*slugs, first or slugs[0]])):
        raise ValueError
    refuse_control_characters(name)
    aliases = [TagAlias(slug=slug) for slug in slugs[1:]]
    return Tag(name=name, slug=slugs[0], first_slug=first, aliases=aliases)


def write_tags(exported: list[Tag], tags: TagBook) -> None:
    """Add the tags that the blog lacks.

    A tag that the blog has keeps its address, and the addresses that it has in the export redirect to it.
    """
    for tag in exported:
        is_new = tags.find(tag.name) is None
        found = tags.get(tag.name, tag.slug)
        if is_new:
            found.first_slug = tag.first_slug
        for slug in (tag.slug, *(alias.slug for alias in tag.aliases)):
            tags.add_alias(found, slug)
