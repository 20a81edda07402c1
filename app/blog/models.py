"""The tables. Keys are identity columns, so that a role with rights on tables alone can insert."""

from datetime import datetime

from flask_sqlalchemy_lite import SQLAlchemy
from sqlalchemy import Column, ForeignKey, Identity, Index, MetaData, Table, false, func
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates
from sqlalchemy.types import Text
from werkzeug.security import check_password_hash, generate_password_hash

from . import markdown

db = SQLAlchemy()


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_name)s_key",
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
    """An article. Assigning `body` renders it: `body_html` and `word_count` follow."""

    __tablename__ = "post"
    # Every list is newest first: Postgres reads this index backwards.
    __table_args__ = (Index("post_published_at_id_idx", "published_at", "id"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    summary: Mapped[str]
    body: Mapped[str] = mapped_column(deferred=True)
    body_html: Mapped[str] = mapped_column(deferred=True)
    word_count: Mapped[int]
    author: Mapped[str]
    published_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

    tags: Mapped[list["Tag"]] = relationship(secondary=post_tag, order_by="Tag.name", back_populates="posts")

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


class User(Base):
    """Somebody who can sign in. The email address is kept in lower case."""

    __tablename__ = "user_account"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str]
    is_admin: Mapped[bool] = mapped_column(server_default=false())

    @validates("email")
    def _lower(self, _key: str, email: str) -> str:
        return email.lower()

    def set_password(self, password: str) -> None:
        """Keep the scrypt hash of `password`."""
        self.password_hash = generate_password_hash(password)

    def check_password(self, password: str) -> bool:
        """Tell whether `password` is the one that was set."""
        return check_password_hash(self.password_hash, password)


class SchemaHistory(Base):
    """One row for each migration that was applied, in the order of `id`."""

    __tablename__ = "schema_history"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    revision: Mapped[str] = mapped_column(unique=True)
    applied_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    destructive: Mapped[bool]
