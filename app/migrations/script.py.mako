"""${message}"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# True when a release that does not know this revision cannot run on the schema that it leaves.
destructive = False


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
