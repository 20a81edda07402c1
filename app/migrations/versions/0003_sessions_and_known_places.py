"""Add the tables of sessions, which can be ended one by one, and of known places.

blog/sign_in_limits.py says what a known place is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
destructive = False


def _moment(name: str, **options: object) -> sa.Column:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=False, **options)


def _user() -> sa.Column:
    return sa.Column(
        "user_id", sa.Integer, sa.ForeignKey("user_account.id", ondelete="CASCADE"), nullable=False
    )


def upgrade() -> None:
    op.create_table(
        "user_session",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        _user(),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("token", sa.Text, nullable=False, unique=True),
        sa.Column("browser", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        _moment("created_at", server_default=sa.func.now()),
        _moment("last_seen_at", server_default=sa.func.now()),
        _moment("expires_at"),
    )
    op.create_index("user_session_user_id_idx", "user_session", ["user_id"])

    op.create_table(
        "known_place",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        _user(),
        sa.Column("place", sa.Text, nullable=False),
        _moment("expires_at"),
        sa.UniqueConstraint("user_id", "place"),
    )
