"""Mark messages that are spam, and store who uploaded a picture."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
destructive = False


def upgrade() -> None:
    op.add_column(
        "contact_message", sa.Column("is_spam", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.add_column(
        "media",
        sa.Column("author_id", sa.Integer, sa.ForeignKey("user_account.id", ondelete="SET NULL")),
    )
