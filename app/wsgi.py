"""The entry point of gunicorn and the `flask` command: `wsgi:app`."""

import sys

from blog import ConfigError, create_app
from blog.coalesce import Coalescer

try:
    app = create_app()
except ConfigError as error:
    sys.exit(f"slipway: {error}")
# Not in create_app: a test that changes a page must see the change at once.
app.wsgi_app = Coalescer(app.wsgi_app, app.config["SESSION_COOKIE_NAME"], app.config["MEDIA_DIR"])
