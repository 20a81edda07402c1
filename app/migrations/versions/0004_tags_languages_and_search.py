"""Add former slugs of tags, the language of posts, and a search in scripts without spaces between words."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
destructive = False

# This is a copy of blog/search_vectors.py, because a migration must not change when the models do.
# Chinese, Japanese, Thai, Lao, Burmese, Khmer and Korean: see renderer/words.py
FOUND_BY_PART = (
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U000323af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3"
)


def _lexemes(text: str, letters: int, unspaced_letters: int, weight: str) -> str:
    spaced = f"""regexp_replace("left"({text}, {letters}), '[{FOUND_BY_PART}]+', ' ', 'g')"""
    unspaced = f"""regexp_replace("left"({text}, {unspaced_letters}), '[^{FOUND_BY_PART}]+', ' ', 'g')"""
    second = rf"regexp_replace({unspaced}, '\S(\S*)', '\1', 'g')"
    pairs = [rf"regexp_replace({source}, '(\S\S)', '\1 ', 'g')" for source in (unspaced, second)]
    parts = " || ' ' || ".join([rf"regexp_replace({unspaced}, '(\S)', '\1 ', 'g')", *pairs])
    vector = f"to_tsvector('english'::regconfig, {spaced}) || to_tsvector('simple'::regconfig, {parts})"
    return f"""setweight({vector}, '{weight}'::"char")"""


LEXEMES = " || ".join(
    [
        _lexemes("title", 1000, 1000, "A"),
        _lexemes("summary", 5000, 5000, "B"),
        _lexemes("body", 100_000, 50_000, "C"),
    ]
)


def upgrade() -> None:
    # The next two migrations, in the same transaction, change these tables too. So lock all of them now: else
    # a request could wait for `post` while it holds a lock that a later migration needs, which is a deadlock.
    op.execute("LOCK TABLE media, contact_message, post, comment IN ACCESS EXCLUSIVE MODE")
    op.create_table(
        "tag_alias",
        sa.Column("slug", sa.Text, primary_key=True),
        sa.Column("tag_id", sa.Integer, sa.ForeignKey("tag.id", ondelete="CASCADE"), nullable=False),
    )
    op.create_index("tag_alias_tag_id_idx", "tag_alias", ["tag_id"])
    op.add_column("post", sa.Column("language", sa.Text, nullable=False, server_default=""))
    # Postgres writes the whole table again, while readers wait.
    op.add_column(
        "post",
        sa.Column("lexemes", postgresql.TSVECTOR, sa.Computed(LEXEMES, persisted=True), nullable=False),
    )
    op.create_index("post_lexemes_idx", "post", ["lexemes"], postgresql_using="gin")
