"""Log lines in JSON, one object per line."""

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from flask import has_request_context, request

LONGEST_PATH = 264  # a client chooses the path, and must not fill the log with it


class JsonFormatter(logging.Formatter):
    """Format a record as a JSON object with ts (in UTC), level, logger, message, and traceback (if any).

    During a request, the object also has the request_id.
    """

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.facts(record), ensure_ascii=False, default=str)

    def facts(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the fields of the line."""
        facts: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if has_request_context():
            facts["request_id"] = _request_id(request.headers.get("X-Request-ID", ""))
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return facts


class AccessFormatter(JsonFormatter):
    """Format gunicorn's access records without the query string, which may contain a secret."""

    def facts(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the fields of the line for one request."""
        atoms = record.args
        if not isinstance(atoms, Mapping):
            return super().facts(record)
        method, path = str(atoms["m"])[:16], str(atoms["U"])[:LONGEST_PATH]
        return super().facts(record) | {
            "message": f"{method} {path} {atoms['s']}",
            "method": method,
            "path": path,
            "status": int(str(atoms["s"])),
            "duration_ms": int(str(atoms["M"])),
            "request_id": _request_id(str(atoms["{x-request-id}i"])),
        }


def _request_id(text: str) -> str | None:
    """Return the id that the proxy sent, or None if it sent no valid one."""
    return text if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text) else None


def config() -> dict[str, object]:
    """Return the `logging.config.dictConfig` settings that write all logs to stdout as JSON."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {"()": JsonFormatter},
            "access": {"()": AccessFormatter},
        },
        "handlers": {
            name: {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": name}
            for name in ("json", "access")
        },
        "root": {"level": "INFO", "handlers": ["json"]},
        "loggers": {
            "gunicorn.error": {"level": "INFO", "handlers": ["json"], "propagate": False},
            "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
        },
    }
