"""Add the table of the contents of pictures. The command `flask media adopt` takes over existing files."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
destructive = False


def upgrade() -> None:
    op.create_table(
        "media_content",
        sa.Column("media_id", sa.Integer, sa.ForeignKey("media.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    # Pictures are compressed already. Without compression, Postgres can read a part of a content.
    op.execute("ALTER TABLE media_content ALTER COLUMN content SET STORAGE EXTERNAL")
