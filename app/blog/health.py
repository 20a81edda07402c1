"""Health checks: /healthz tells whether the process responds, /readyz whether it can take traffic."""

from flask import Blueprint, Response, current_app
from sqlalchemy.exc import SQLAlchemyError

from . import schema
from .models import db

bp = Blueprint("health", __name__)


@bp.get("/healthz")
def healthz() -> Response:
    """Report that the process responds. Ignore the database: a restart of the app would not repair it."""
    return _plain("ok", 200)


@bp.get("/readyz")
def readyz() -> Response:
    """Report whether the database responds and its schema is compatible with this code. If not, log why."""
    try:
        with db.engine.connect() as connection:
            schema.check_compatible(connection)
    except (SQLAlchemyError, schema.SchemaError) as error:
        current_app.logger.warning("not ready: %s", getattr(error, "orig", error))
        return _plain("not ready", 503)
    return _plain("ready", 200)


def _plain(text: str, status: int) -> Response:
    return Response(text + "\n", status, mimetype="text/plain", headers={"Cache-Control": "no-store"})
