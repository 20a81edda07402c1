"""/.well-known/security.txt, which tells whom to contact about a vulnerability (RFC 9116)."""

from datetime import UTC, datetime, timedelta

from flask import Blueprint, Response, abort, current_app, url_for

from . import pages

LIFETIME = timedelta(days=180)  # RFC 9116 recommends less than a year

bp = Blueprint("security_txt", __name__)


@bp.get("/.well-known/security.txt")
def security_txt() -> Response:
    """Serve the contact: the setting SECURITY_CONTACT, or else the contact form.

    The standard allows no address with http://, so a blog without HTTPS has this file only with the setting.
    """
    fields = {
        "Contact": current_app.config["SECURITY_CONTACT"] or pages.absolute(url_for("contact.contact")),
        "Expires": pages.rfc3339(_midnight() + LIFETIME),
        "Preferred-Languages": "en",
        "Canonical": pages.absolute(url_for(".security_txt")),
    }
    allowed = {name: value for name, value in fields.items() if not value.startswith("http:")}
    if "Contact" not in allowed:
        abort(404)
    lines = "".join(f"{name}: {value}\n" for name, value in allowed.items())
    return Response(lines, mimetype="text/plain")


def _midnight() -> datetime:
    """Return the beginning of this day, so that the file and its ETag change only once a day."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
