"""${message}"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# Set this to True if releases without this revision cannot run on the schema that it creates.
destructive = False


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
