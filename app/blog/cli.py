"""The commands. On success, each writes one JSON object to stdout. All other output goes to stderr."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click
from flask import current_app
from flask.cli import with_appcontext
from psycopg2.errors import UndefinedTable
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from . import assets, exporter, guesses, importer, rerender, schema, sessions
from .models import User, db

MIN_PASSWORD_CHARACTERS = 12


class _Command(click.Command):
    """A command that reports a database error in one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
        except (IntegrityError, StaleDataError) as error:
            raise click.ClickException(
                "somebody else wrote the same at the same time: run this again"
            ) from error
        except DBAPIError as error:
            advice = " Run `flask migrate` first." if isinstance(error.orig, UndefinedTable) else ""
            reason = str(error.orig).strip().partition("\n")[0]
            raise click.ClickException(f"the database refused: {reason}.{advice}") from error


def _done(message: str, *, changed: bool, **facts: object) -> None:
    click.echo(message, err=True)
    click.echo(json.dumps({"changed": changed, **facts}))


@click.command(cls=_Command)
@click.option("--check", is_flag=True, help="Only tell which migrations are pending; change nothing.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 86_400),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another migration to end.",
)
@with_appcontext
def migrate(check: bool, wait_s: float) -> None:
    """Bring the database's schema to this release.

    One migration runs at a time, and in one transaction: it is applied whole or not at all.
    """
    try:
        if check:
            with schema.migrator_engine().connect() as connection:
                state = schema.inspect_state(connection)
            _done(f"Migrations pending: {len(state.pending)}.", changed=False, **asdict(state))
        else:
            state = schema.migrate(wait_s)
            message = f"Migrations applied: {len(state.pending)}."
            _done(message, changed=bool(state.pending), applied=state.pending, head=state.head)
    except schema.SchemaError as error:
        raise click.ClickException(str(error)) from error


@click.group()
def user() -> None:
    """Look after the people who can sign in."""


@user.command("ensure-admin", cls=_Command)
@click.option(
    "--email", required=True, help="The address to sign in with; upper and lower case are the same."
)
@click.option("--name", default="", help="The name to show; for a new user only.")
@click.option(
    "--password-file",
    type=click.File("rb"),
    required=True,
    help="Holds the password of a new user, at least 12 characters; - reads standard input.",
)
@with_appcontext
def ensure_admin(email: str, name: str, password_file: BinaryIO) -> None:
    """Create an administrator, or make a user one.

    A user who exists keeps name and password.
    """
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or "\0" in email:
        raise click.ClickException(f"{email!r} is not an email address: write it like name@example.com")
    person = db.session.scalar(select(User).where(User.email == email.lower()))
    created = person is None
    if person is None:
        person = User(email=email, name=name, is_admin=False)
        person.set_password(_password(password_file))
        db.session.add(person)
    changed = not person.is_admin
    person.is_admin = True
    db.session.commit()
    message = f"{person.email} {'is now' if changed else 'already was'} an administrator."
    _done(message, changed=changed, created=created, email=person.email)


@user.command("set-password", cls=_Command)
@click.option("--email", required=True, help="The address that the user signs in with.")
@click.option(
    "--password-file",
    type=click.File("rb"),
    required=True,
    help="Holds the new password, at least 12 characters; - reads standard input.",
)
@with_appcontext
def set_password(email: str, password_file: BinaryIO) -> None:
    """Set the password of a user, which ends the user's sessions.

    The sessions go on when the password stays the same. Failed sign-ins are forgotten in both cases.
    """
    email = email.lower().replace("\0", "")
    person = db.session.scalar(select(User).where(User.email == email))
    if person is None:
        raise click.ClickException(f"nobody has the address {email!r}: see `flask user ensure-admin --help`")
    password = _password(password_file)
    changed = not person.check_password(password)
    if changed:
        person.set_password(password)
        db.session.commit()
        sessions.end_all(person)
        guesses.forget_places(person)
    guesses.forget_tries(person)
    _done(
        f"The password of {email} {'is set' if changed else 'already was this one'}.",
        changed=changed,
        email=email,
    )


def _password(file: BinaryIO) -> str:
    try:
        password = file.read().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.ClickException("the password is not UTF-8 text: save the file as UTF-8") from error
    if len(password) < MIN_PASSWORD_CHARACTERS:
        raise click.ClickException(
            f"the password has {len(password)} characters: use at least {MIN_PASSWORD_CHARACTERS}"
        )
    return password


@click.command("import", cls=_Command)
@click.argument("source", type=click.Path(path_type=Path), metavar="DIR_OR_FILE")
@click.option(
    "--existing",
    type=click.Choice(["refuse", "skip", "update"]),
    default="refuse",
    show_default=True,
    help="What to do with a post that the blog already has with other content.",
)
@with_appcontext
def import_(source: Path, existing: str) -> None:
    """Import a Markdown file, every one below a directory, or what `flask export` wrote.

    A file begins with YAML front matter (--- lines) or Pelican's header lines. Title and date are
    required; slug, aliases, summary, author, tags, category, updated and publishDate are optional.
    A file is a draft if it says status: draft or private, draft or private: true, or published: false,
    or if it is in a folder _drafts. Either all files are imported, or none, with a list of all
    problems. Hidden files and files that are not Markdown are ignored and reported.
    """
    options = {"existing": existing, "default_author": current_app.config["SITE_AUTHOR"]}
    try:
        if (source / exporter.MARKER).is_file():
            media_dir = current_app.config["MEDIA_DIR"]
            result = importer.import_site(db.session, source, media_dir=media_dir, **options)
        else:
            result = importer.import_posts(db.session, source, **options)
    except OSError as error:
        raise click.ClickException(f"nothing was imported: {error}") from error
    except importer.ImportProblemsError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        raise click.ClickException(f"nothing was imported; problems: {len(error.problems)}") from error
    db.session.commit()
    counts = result.counts
    if ignored := counts["ignored"]:
        click.echo(f"Ignored: {ignored} files, such as {', '.join(result.ignored_files)}.", err=True)
    message = "Posts and pages " + ", ".join(f"{name}: {count}" for name, count in counts.items()) + "."
    changed = any(counts.get(name) for name in ("created", "updated", "comments", "media"))
    _done(message, changed=changed, **counts, ignored_files=result.ignored_files)


@click.command(cls=_Command)
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@with_appcontext
def export(directory: Path) -> None:
    """Write the whole site into DIR: posts, pages, comments and pictures, for `flask import`.

    DIR is new, empty, or holds an earlier export, which is brought up to date. Users and messages are
    left out.
    """
    try:
        written, removed = exporter.export_site(db.session, directory, current_app.config["MEDIA_DIR"])
    except exporter.ExportError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"the export is not complete: {error}") from error
    message = f"Files written to {directory}: {written}, removed: {removed}."
    _done(message, changed=bool(written or removed), written=written, removed=removed)


@click.command("rerender", cls=_Command)
@with_appcontext
def rerender_() -> None:
    """Render every post and page again, as this release renders them."""
    changed, total = rerender.rerender(db.session)
    db.session.commit()
    message = f"Posts and pages rendered: {total}, changed: {changed}."
    _done(message, changed=bool(changed), rerendered=changed, total=total)


@click.command("check-config")
@with_appcontext
def check_config() -> None:
    """Check every setting, and that pictures can be stored, without asking the database.

    A setting that is missing or wrong ends every command with its name; this one does nothing else.
    """
    folder: Path = current_app.config["MEDIA_DIR"]
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise click.ClickException(
            f"MEDIA_DIR: {folder} is no directory that uid {os.getuid()} can write to. Make it, or mount it."
        )
    _done("The settings are good.", changed=False, base_url=current_app.config["BASE_URL"])


@click.command("static-export", cls=_Command)
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@with_appcontext
def static_export(directory: Path) -> None:
    """Copy the static files into DIR under their hashed names, for a web server in front.

    Files of other releases in DIR stay.
    """
    try:
        written = assets.export(directory)
    except OSError as error:
        raise click.ClickException(f"cannot write to {directory}: {error.strerror}") from error
    _done(f"Files written to {directory}: {len(written)}.", changed=bool(written), written=written)


commands = (migrate, user, import_, export, rerender_, check_config, static_export)
