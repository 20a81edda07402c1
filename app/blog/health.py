"""What the machinery around the app asks: is the process alive, and may it have traffic."""

from flask import Blueprint, Response, current_app
from sqlalchemy.exc import SQLAlchemyError

from . import schema
from .models import db

bp = Blueprint("health", __name__)


@bp.get("/healthz")
def healthz() -> Response:
    """Say that the process answers. It never asks the database: restarting the app does not mend that."""
    return _plain("ok", 200)


@bp.get("/readyz")
def readyz() -> Response:
    """Say whether the database answers and this code can run on its schema. The reason goes to the log."""
    try:
        with db.engine.connect() as connection:
            schema.check_compatible(connection)
    except (SQLAlchemyError, schema.SchemaError) as error:
        current_app.logger.warning("not ready: %s", getattr(error, "orig", error))
        return _plain("not ready", 503)
    return _plain("ready", 200)


def _plain(text: str, status: int) -> Response:
    return Response(text + "\n", status, mimetype="text/plain", headers={"Cache-Control": "no-store"})
