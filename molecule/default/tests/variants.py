"""Dockerfile lines for images that differ from the blog's image in one respect."""

import json
from pathlib import Path

MIGRATIONS = Path(__file__).parents[3] / "app/migrations/versions"
HEAD = max(path.name.partition("_")[0] for path in MIGRATIONS.glob("*.py"))  # the blog's newest revision

# A WSGI wrapper that gets each request before the blog does. It can start slowly or answer wrongly.
WRAPPED = """
COPY --chmod=0644 <<END /app/wsgi.py
import sys, time
from blog import create_app

if "gunicorn" in sys.argv[0]:
    time.sleep({sleep})
app = create_app()
inner, answers = app.wsgi_app, {answers}


def outer(environ, start_response):
    if environ["PATH_INFO"] in answers:
        start_response(answers[environ["PATH_INFO"]], [("Content-Type", "text/plain")])
        return [b"an answer of the test"]
    return inner(environ, start_response)


app.wsgi_app = outer
END
"""
MIGRATION = f"""
COPY --chmod=0644 <<END /app/migrations/versions/9001_of_a_test.py
from alembic import op

revision, down_revision, destructive = "9001", "{HEAD}", {{destructive}}


def upgrade():
    op.execute("{{statement}}")
END
"""


def program(code):
    """Return a line of a Dockerfile that makes the image run a Python program instead of the blog."""
    return f"CMD {json.dumps(['python3', '-c', code])}\n"
