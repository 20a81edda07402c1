"""Store the first slug of a tag, so that the id of its feed stays when the slug changes."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
destructive = False


def upgrade() -> None:
    op.add_column("tag", sa.Column("first_slug", sa.Text))
