"""The script that Alembic runs. `flask migrate` passes its connection, which holds the advisory lock.

The locks and their time-outs (LOCK_TIMEOUT_S) are in blog/schema.py.
"""

from alembic import context

from blog import create_app
from blog.models import Base
from blog.schema import migrator_engine, record_revision


def run(connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, on_version_apply=record_revision)
    with context.begin_transaction():
        context.run_migrations()


if connection := context.config.attributes.get("connection"):
    run(connection)
else:  # a developer runs `alembic revision --autogenerate`
    with create_app().app_context(), migrator_engine().connect() as connection:
        run(connection)
