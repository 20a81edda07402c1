"""Add search, old slugs, pages, comments, messages, pictures, throttles, and the session epoch of users."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
destructive = False

SEARCH = """
    setweight(to_tsvector('english'::regconfig, "left"(title, 1000)), 'A'::"char")
    || setweight(to_tsvector('english'::regconfig, "left"(summary, 5000)), 'B'::"char")
    || setweight(to_tsvector('english'::regconfig, "left"(body, 100000)), 'C'::"char")
"""


def _moment(name: str) -> sa.Column:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


def upgrade() -> None:
    op.add_column(
        "user_account",
        sa.Column("session_epoch", sa.Integer, nullable=False, server_default=sa.text("0")),
    )
    op.add_column("user_account", _moment("created_at"))

    op.add_column(
        "post",
        sa.Column("author_id", sa.Integer, sa.ForeignKey("user_account.id", ondelete="SET NULL")),
    )
    op.add_column("post", sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")))
    op.add_column(
        "post",
        sa.Column("search", postgresql.TSVECTOR, sa.Computed(SEARCH, persisted=True), nullable=False),
    )
    op.create_index("post_author_id_idx", "post", ["author_id"])
    op.create_index("post_search_idx", "post", ["search"], postgresql_using="gin")

    op.create_table(
        "post_alias",
        sa.Column("slug", sa.Text, primary_key=True),
        sa.Column("post_id", sa.Integer, sa.ForeignKey("post.id", ondelete="CASCADE"), nullable=False),
    )
    op.create_index("post_alias_post_id_idx", "post_alias", ["post_id"])

    op.create_table(
        "page",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("slug", sa.Text, nullable=False, unique=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("body_html", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False, server_default=sa.text("0")),
        _moment("updated_at"),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
    )

    op.create_table(
        "comment",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("post_id", sa.Integer, sa.ForeignKey("post.id", ondelete="CASCADE"), nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("email", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="pending"),
        _moment("created_at"),
        sa.CheckConstraint("state IN ('pending', 'approved', 'spam')", name="state"),
    )
    op.create_index("comment_post_id_id_idx", "comment", ["post_id", "id"])
    op.create_index("comment_state_id_idx", "comment", ["state", "id"])

    op.create_table(
        "contact_message",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("is_read", sa.Boolean, nullable=False, server_default=sa.false()),
        _moment("created_at"),
    )

    op.create_table(
        "media",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("mime", sa.Text, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("original_name", sa.Text, nullable=False),
        sa.Column("alt", sa.Text, nullable=False, server_default=""),
        _moment("created_at"),
    )

    op.create_table(
        "throttle",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
    )
