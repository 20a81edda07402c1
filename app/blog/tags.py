"""Tags. A tag is recognised by its name. Its slug is only its address, and other tags never get it."""

import re
import unicodedata
from collections.abc import Iterable

from sqlalchemy import delete, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as insert_new
from sqlalchemy.orm import Session, selectinload

from .models import Base, Post, Tag, TagAlias, post_tag
from .names import free_slug

MAX_CHARACTERS = 60
VALID_NAME = f"Use at most {MAX_CHARACTERS} characters, at least one of them visible."
COMMAS = ",\uff0c\u3001\u060c"  # the commas of Latin, Chinese, Japanese and Arabic texts


class TagBook:
    """The tags of the blog, to find tags by name and to create new ones. The caller commits.

    If two requests create the same tag at the same moment, the commit of one raises IntegrityError.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        found = session.scalars(select(Tag).options(selectinload(Tag.aliases)).order_by(Tag.id.desc())).all()
        self._by_key = {key(tag.name): tag for tag in found}
        self._taken = {slug for tag in found for slug in (tag.slug, *(alias.slug for alias in tag.aliases))}

    def find(self, name: str) -> Tag | None:
        """Return the tag with this name, or None."""
        return self._by_key.get(key(name))

    def get(self, name: str, slug: str = "") -> Tag:
        """Return the tag with this name, or create it, with the given slug if it is free."""
        tag = self.find(name)
        if tag is None:
            tag = Tag(name=name, slug=slug if slug and self.is_free(slug) else self.free_slug(name))
            self._session.add(tag)
            self._by_key[key(name)] = tag
            self._taken.add(tag.slug)
        return tag

    def add_alias(self, tag: Tag, slug: str) -> None:
        """Let the address of a former slug redirect to the tag, unless another tag has or had this slug."""
        if self.is_free(slug):
            tag.aliases.append(TagAlias(slug=slug))
            self._taken.add(slug)

    def is_free(self, slug: str, tag: Tag | None = None) -> bool:
        """Tell whether no other tag than `tag` has or had the slug."""
        own = {tag.slug, *(alias.slug for alias in tag.aliases)} if tag else set()
        return slug not in self._taken - own

    def free_slug(self, name: str, tag: Tag | None = None) -> str:
        """Return a slug made from the name, with a number if another tag than `tag` has or had the slug."""
        words = re.sub(r"(?<=\w)#", " sharp ", name.replace("+", " plus "))
        return free_slug(words, "tag", lambda slug: self.is_free(slug, tag))


def key(name: str) -> str:
    """Return a text that is the same for all spellings of a tag's name.

    "Hello World", "hello-world" and "HELLO_WORLD" are one tag, but "C", "C++" and "C#" are three.
    """
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", unicodedata.normalize("NFKC", name).casefold())


def unique(names: Iterable[str]) -> list[str]:
    """Return the names in their order. Of several spellings of one tag, return only the first."""
    by_key: dict[str, str] = {}
    for name in names:
        by_key.setdefault(key(name), name)
    return list(by_key.values())


def is_visible_name(name: str) -> bool:
    """Tell whether the name contains a letter, a digit, or another character that readers can see."""
    return any(unicodedata.category(character)[0] in "LNPS" for character in name)


def rename(session: Session, tag: Tag, name: str, slug: str) -> None:
    """Give the tag a new name and slug. The address of the old slug redirects. The caller commits."""
    _note_change_of_posts(session, tag)
    if slug != tag.slug:
        session.execute(delete(TagAlias).where(TagAlias.tag_id == tag.id, TagAlias.slug == slug))
        session.add(TagAlias(slug=tag.slug, tag_id=tag.id))
        tag.first_slug = tag.first_slug or tag.slug
    tag.name, tag.slug = name, slug


def merge(session: Session, tag: Tag, target: Tag) -> None:
    """Give the posts of `tag` the tag `target` instead, and delete `tag`. Its addresses redirect to `target`.

    The caller commits.
    """
    _note_change_of_posts(session, tag)
    # Lock the tag: other transactions cannot give it to a post until this one has deleted it.
    session.refresh(tag, with_for_update=True)
    posts = select(post_tag.c.post_id, literal(target.id)).where(post_tag.c.tag_id == tag.id)
    session.execute(insert_new(post_tag).from_select(["post_id", "tag_id"], posts).on_conflict_do_nothing())
    session.execute(update(TagAlias).where(TagAlias.tag_id == tag.id).values(tag_id=target.id))
    session.execute(insert(TagAlias).values(slug=tag.slug, tag_id=target.id))
    session.delete(tag)


def remove(session: Session, tag: Tag) -> None:
    """Delete the tag. Its posts stay, without the tag. The caller commits."""
    _note_change_of_posts(session, tag)
    session.delete(tag)


def _note_change_of_posts(session: Session, tag: Tag) -> None:
    """Change the version of the tag's posts: an editor that is open must not bring the old tag back."""
    posts = Base.metadata.tables[Post.__tablename__]
    tagged = select(post_tag.c.post_id).where(post_tag.c.tag_id == tag.id)
    session.execute(update(posts).where(posts.c.id.in_(tagged)).values(version=posts.c.version + 1))
