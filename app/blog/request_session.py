"""The session of a request. A request by GET or HEAD only reads, so it needs no transaction.

The engine has the isolation level AUTOCOMMIT: a query sees what was committed before it, as in a transaction
of the level READ COMMITTED, but Postgres gets no BEGIN before it and no ROLLBACK after it.
"""

from functools import cache
from typing import Any

from flask import has_request_context, request
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session


class RequestSession(Session):
    """A session with a transaction, except during a request by GET or HEAD."""

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """Return the engine for a statement."""
        bind = super().get_bind(*args, **options)
        if has_request_context() and request.method in ("GET", "HEAD"):
            return bind
        return with_transactions(bind) if isinstance(bind, Engine) else bind


@cache
def with_transactions(engine: Engine) -> Engine:
    """Return an engine with the same pool of connections."""
    return engine.execution_options(isolation_level="READ COMMITTED")
