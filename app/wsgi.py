"""The entry point of gunicorn and the `flask` command: `wsgi:app`."""

import sys

from blog import ConfigError, create_app

try:
    app = create_app()
except ConfigError as error:
    sys.exit(f"slipway: {error}")
