"""The tables. Keys are identity columns, so that a role with rights on tables alone can insert."""

from datetime import datetime
from threading import Lock

from flask_sqlalchemy_lite import SQLAlchemy
from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Table,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates
from sqlalchemy.types import Text
from werkzeug.security import check_password_hash, generate_password_hash

from . import markdown

db = SQLAlchemy()

_hashing = Lock()  # scrypt takes 32 MB each time: one at a time, or a few sign-ins fill a small container

COMMENT_STATES = ("pending", "approved", "spam")

# Postgres keeps 16,383 positions of a text and refuses a tsvector of more than 1 MB: the beginning has to do.
SEARCH = """
    setweight(to_tsvector('english'::regconfig, "left"(title, 1000)), 'A'::"char")
    || setweight(to_tsvector('english'::regconfig, "left"(summary, 5000)), 'B'::"char")
    || setweight(to_tsvector('english'::regconfig, "left"(body, 100000)), 'C'::"char")
"""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )
    type_annotation_map = {str: Text, datetime: TIMESTAMP(timezone=True)}  # noqa: RUF012 (SQLAlchemy's interface)


post_tag = Table(
    "post_tag",
    Base.metadata,
    Column("post_id", ForeignKey("post.id", ondelete="CASCADE"), primary_key=True),
    Column("tag_id", ForeignKey("tag.id", ondelete="CASCADE"), primary_key=True),
    Index("post_tag_tag_id_idx", "tag_id"),
)


class Post(Base):
    """An article. Assigning `body` renders it: `body_html` and `word_count` follow.

    published_at: None for a draft, a moment to come for a post that is scheduled.
    author, author_id: the name that readers see, and the user who wrote it, if it was one.
    version: grows with each change; a change that rests on an older one raises StaleDataError.
    search: what the full-text search looks at; Postgres writes it.
    """

    __tablename__ = "post"
    __table_args__ = (
        # Every list is newest first: Postgres reads this index backwards.
        Index("post_published_at_id_idx", "published_at", "id"),
        Index("post_search_idx", "search", postgresql_using="gin"),
        Index("post_author_id_idx", "author_id"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True, active_history=True)
    title: Mapped[str]
    summary: Mapped[str]
    body: Mapped[str] = mapped_column(deferred=True)
    body_html: Mapped[str] = mapped_column(deferred=True)
    word_count: Mapped[int]
    author: Mapped[str]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id", ondelete="SET NULL"))
    published_at: Mapped[datetime | None] = mapped_column(active_history=True)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[int] = mapped_column(server_default=text("1"))
    search: Mapped[str] = mapped_column(TSVECTOR, Computed(SEARCH, persisted=True), deferred=True)

    tags: Mapped[list["Tag"]] = relationship(secondary=post_tag, order_by="Tag.name", back_populates="posts")
    aliases: Mapped[list["PostAlias"]] = relationship(
        order_by="PostAlias.slug", cascade="all, delete-orphan", passive_deletes=True
    )
    comments: Mapped[list["Comment"]] = relationship(
        order_by="Comment.id", back_populates="post", passive_deletes="all"
    )

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 (SQLAlchemy's interface)

    @validates("body")
    def _render(self, _key: str, body: str) -> str:
        rendered = markdown.render(body)
        self.body_html, self.word_count = rendered.html, rendered.word_count
        return body

    @property
    def reading_minutes(self) -> int:
        """Minutes an average reader needs, at 220 words a minute; at least 1."""
        return max(1, round(self.word_count / 220))


class Tag(Base):
    """A subject that posts share."""

    __tablename__ = "tag"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]

    posts: Mapped[list[Post]] = relationship(secondary=post_tag, back_populates="tags", viewonly=True)


class PostAlias(Base):
    """A slug that a post had before: its address leads to the post for ever."""

    __tablename__ = "post_alias"
    __table_args__ = (Index("post_alias_post_id_idx", "post_id"),)

    slug: Mapped[str] = mapped_column(primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("post.id", ondelete="CASCADE"))


class Page(Base):
    """A page outside the stream of posts, such as "About". Assigning `body` renders it into `body_html`.

    position: the pages are listed by it, the smallest first.
    version: as for a post.
    """

    __tablename__ = "page"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True, active_history=True)
    title: Mapped[str]
    body: Mapped[str] = mapped_column(deferred=True)
    body_html: Mapped[str] = mapped_column(deferred=True)
    position: Mapped[int] = mapped_column(server_default=text("0"))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[int] = mapped_column(server_default=text("1"))

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 (SQLAlchemy's interface)

    @validates("body")
    def _render(self, _key: str, body: str) -> str:
        self.body_html = markdown.render(body).html
        return body


class Comment(Base):
    """What a reader wrote below a post: plain text, shown when its state is `approved`."""

    __tablename__ = "comment"
    __table_args__ = (
        CheckConstraint(f"state IN {COMMENT_STATES}", name="state"),
        Index("comment_post_id_id_idx", "post_id", "id"),
        Index("comment_state_id_idx", "state", "id"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("post.id", ondelete="CASCADE"))
    author: Mapped[str]
    email: Mapped[str | None]
    body: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="pending", active_history=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    post: Mapped[Post] = relationship(back_populates="comments")


class ContactMessage(Base):
    """What somebody wrote to the authors through the contact form."""

    __tablename__ = "contact_message"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    body: Mapped[str]
    is_read: Mapped[bool] = mapped_column(server_default=false())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Media(Base):
    """An uploaded picture. `name`: its file in MEDIA_DIR, made from a hash of the content."""

    __tablename__ = "media"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    mime: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int]
    original_name: Mapped[str]
    alt: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Throttle(Base):
    """How often something was tried in a window of time; see throttle.py."""

    __tablename__ = "throttle"

    key: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    expires_at: Mapped[datetime]


class User(Base):
    """Somebody who can sign in. The email address is kept in lower case.

    session_epoch: grows when the password changes, which ends the sessions that began before.
    """

    __tablename__ = "user_account"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str]
    is_admin: Mapped[bool] = mapped_column(server_default=false())
    session_epoch: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @validates("email")
    def _lower(self, _key: str, email: str) -> str:
        return email.lower()

    def set_password(self, password: str) -> None:
        """Keep the scrypt hash of `password`, and end the sessions that began with another one."""
        with _hashing:
            self.password_hash = generate_password_hash(password)
        self.session_epoch = (self.session_epoch or 0) + 1

    def check_password(self, password: str) -> bool:
        """Tell whether `password` is the one that was set."""
        with _hashing:
            return check_password_hash(self.password_hash, password)


class UserSession(Base):
    """Where somebody is signed in; see sessions.py.

    epoch: the user's when the session began. token: the digest of what the cookie has.
    """

    __tablename__ = "user_session"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    epoch: Mapped[int]
    token: Mapped[str] = mapped_column(unique=True)
    browser: Mapped[str]
    client: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]

    __table_args__ = (Index("user_session_user_id_idx", "user_id"),)


class KnownPlace(Base):
    """A browser or a client's address, as a digest, from which a user has signed in; see guesses.py."""

    __tablename__ = "known_place"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    place: Mapped[str]
    expires_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("user_id", "place"),)


class SchemaHistory(Base):
    """One row for each migration that was applied, in the order of `id`."""

    __tablename__ = "schema_history"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    revision: Mapped[str] = mapped_column(unique=True)
    applied_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    destructive: Mapped[bool]
