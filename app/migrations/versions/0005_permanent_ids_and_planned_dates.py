"""Add permanent ids for feeds, the planned dates of drafts, and indexes to sort the desk's lists by date."""

import sqlalchemy as sa
from alembic import op
from flask import current_app

revision = "0005"
down_revision = "0004"
destructive = False


def upgrade() -> None:
    site = op.create_table(
        "site",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("guid", sa.Text, nullable=False),
        sa.CheckConstraint("id = 1", name="id"),
    )
    op.bulk_insert(site, [{"id": 1, "guid": current_app.config["BASE_URL"]}])
    # Existing posts get no value: an update of every post would lock the table for seconds. See Post.feed_id.
    op.add_column("post", sa.Column("guid", sa.Text))
    op.create_unique_constraint("post_guid_key", "post", ["guid"])

    op.add_column("post", sa.Column("planned_at", sa.TIMESTAMP(timezone=True)))
    op.create_index("post_desk_idx", "post", [sa.text("COALESCE(published_at, updated_at)"), "id"])
    op.create_index("comment_state_created_at_idx", "comment", ["state", "created_at", "id"])
    op.drop_index("comment_state_id_idx", "comment")
