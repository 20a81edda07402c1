"""The `flask` commands. On success, each writes one JSON object to stdout. Other output goes to stderr."""

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

from . import assets, exporter, importer, media_content, rerender, schema, sessions, sign_in_limits
from .accounts import MIN_PASSWORD_CHARACTERS
from .models import User, db


class _Command(click.Command):
    """A command that reports a database error in one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
        except (IntegrityError, StaleDataError) as error:
            raise click.ClickException(
                "another process changed the same rows at the same time: run the command again"
            ) from error
        except DBAPIError as error:
            advice = " Run `flask migrate` first." if isinstance(error.orig, UndefinedTable) else ""
            reason = str(error.orig).strip().partition("\n")[0]
            raise click.ClickException(f"the database refused the command: {reason}.{advice}") from error


def _done(message: str, *, changed: bool, **facts: object) -> None:
    click.echo(message, err=True)
    click.echo(json.dumps({"changed": changed, **facts}))


@click.command(cls=_Command)
@click.option("--check", is_flag=True, help="Report pending migrations and change nothing.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 86_400),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="The time to wait for another migration to end.",
)
@with_appcontext
def migrate(check: bool, wait_s: float) -> None:
    """Migrate the database's schema to this release.

    Only one process migrates at a time. One transaction applies all migrations, or none of them.
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
    """Manage the users who can sign in."""


@user.command("ensure-admin", cls=_Command)
@click.option("--email", required=True, help="The user's email address. Upper and lower case do not matter.")
@click.option("--name", default="", help="The author name of a new user. An existing user keeps its name.")
@click.option(
    "--password-file",
    type=click.File("rb"),
    required=True,
    help="The file with the password of a new user, at least 12 characters. `-` means standard input.",
)
@with_appcontext
def ensure_admin(email: str, name: str, password_file: BinaryIO) -> None:
    """Create an administrator, or make an existing user an administrator.

    An existing user keeps the name and the password.
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
    message = f"{person.email} {'is now' if changed else 'was already'} an administrator."
    _done(message, changed=changed, created=created, email=person.email)


@user.command("set-password", cls=_Command)
@click.option("--email", required=True, help="The user's email address. Upper and lower case do not matter.")
@click.option(
    "--password-file",
    type=click.File("rb"),
    required=True,
    help="The file with the new password, at least 12 characters. `-` means standard input.",
)
@with_appcontext
def set_password(email: str, password_file: BinaryIO) -> None:
    """Set the password of a user, and end the user's sessions.

    If the user has this password already, the sessions stay valid. If the password is new, the command also
    deletes the user's known places (sign_in_limits.py). In both cases, it resets the account's count of
    attempts from all unknown places; the count per client stays.
    """
    email = email.lower().replace("\0", "")
    person = db.session.scalar(select(User).where(User.email == email))
    if person is None:
        raise click.ClickException(
            f"no user has the email address {email!r}: correct the address, or create the user with "
            "`flask user ensure-admin`"
        )
    password = _password(password_file)
    changed = not person.check_password(password)
    if changed:
        person.set_password(password)
        db.session.commit()
        sessions.end_all(person)
        sign_in_limits.forget_places(person)
    sign_in_limits.forget_tries(person)
    _done(
        f"The password of {email} {'is changed' if changed else 'was already the same'}.",
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
    help="If the blog has a post with this slug but other content: refuse the import, skip the file, "
    "or update the post.",
)
@with_appcontext
def import_(source: Path, existing: str) -> None:
    """Import one Markdown file, all Markdown files below a directory, or an export of `flask export`.

    A file begins with YAML front matter (--- lines) or Pelican's header lines. The field title is required.
    The field date, or publishDate, is required too, unless the file is a draft. The fields slug, aliases,
    summary, lang, author, tags, category, updated and guid are optional.
    A file is a draft if it has a field such as `status: draft`, `status: private`, `draft: true`,
    `private: true` or `published: false`, or if it is in a folder named _drafts, drafts or Drafts.
    The command imports all files, or it imports none and lists all problems. It skips
    other files, counts them, and names some. It skips all hidden files, and counts those with Markdown.
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
    message = f"Posts and pages {', '.join(f'{name}: {counts[name]}' for name in importer.OUTCOMES)}"
    if "comments" in counts:
        message += f"; comments added: {counts['comments']}, pictures added: {counts['media']}"
    message += f"; files ignored: {ignored}."
    changed = any(counts.get(name) for name in ("created", "updated", "comments", "media"))
    _done(message, changed=changed, **counts, ignored_files=result.ignored_files)


@click.command(cls=_Command)
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@with_appcontext
def export(directory: Path) -> None:
    """Write the posts, pages, comments and pictures into DIR. `flask import` can read them.

    DIR is a new directory, an empty directory, or an earlier export, which the command updates. The
    export contains no users and no messages.
    """
    try:
        written, removed = exporter.export_site(db.session, directory, current_app.config["MEDIA_DIR"])
    except exporter.ExportError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"the export is not complete: {error}") from error
    message = f"Files written to {directory}: {written}, removed: {removed}."
    _done(message, changed=bool(written or removed), written=written, removed=removed)


@click.group()
def media() -> None:
    """Manage the contents of pictures in the database, and the files in MEDIA_DIR."""


@media.command(cls=_Command)
@with_appcontext
def adopt() -> None:
    """Store the pictures of older releases, which are only files in MEDIA_DIR, in the database.

    The command first verifies each file, and removes none, so older releases still work. It names the
    pictures whose file is missing, or damaged, or cannot be read.
    """
    result = media_content.adopt(db.session, current_app.config["MEDIA_DIR"])
    counts = f"missing: {len(result.missing)}, damaged: {len(result.damaged)}"
    _done(f"Pictures adopted: {result.adopted}, {counts}.", changed=bool(result.adopted), **asdict(result))


@media.command(cls=_Command)
@with_appcontext
def fill() -> None:
    """Write the file of each picture in the database that MEDIA_DIR lacks, or has with another size.

    Only releases that do not read pictures from the database need this.
    """
    try:
        filled = media_content.fill(db.session, current_app.config["MEDIA_DIR"])
    except OSError as error:
        raise click.ClickException(f"MEDIA_DIR cannot be written: {error}") from error
    _done(f"Files written: {filled}.", changed=bool(filled), filled=filled)


@click.command("rerender", cls=_Command)
@with_appcontext
def rerender_() -> None:
    """Render every post and page again with this release.

    The command also counts the words of the posts, and makes the summary of a post that has none.
    """
    result = rerender.rerender(db.session)
    db.session.commit()
    for line in result.refused:
        click.echo(line, err=True)
    message = f"Posts and pages rendered: {result.total}, changed: {result.changed}."
    refused = len(result.refused)
    _done(
        message, changed=bool(result.changed), rerendered=result.changed, total=result.total, refused=refused
    )


@click.command("check-config")
@with_appcontext
def check_config() -> None:
    """Check every setting, and the access to MEDIA_DIR. Do not connect to the database.

    A missing or wrong setting ends every command with an error that names the setting.
    """
    folder: Path = current_app.config["MEDIA_DIR"]
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise click.ClickException(
            f"MEDIA_DIR: uid {os.getuid()} cannot write to the directory {folder}. "
            "Create it or mount it, and let this uid write to it."
        )
    _done("All settings are valid.", changed=False, base_url=current_app.config["BASE_URL"])


@click.command("static-export", cls=_Command)
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@with_appcontext
def static_export(directory: Path) -> None:
    """Copy the static files into DIR under their hashed names, for the web server.

    The command keeps the files of other releases in DIR.
    """
    try:
        written = assets.export(directory)
    except OSError as error:
        raise click.ClickException(
            f"cannot write to {directory} ({error.strerror}): "
            "name another directory, or correct its permissions"
        ) from error
    _done(f"Files written to {directory}: {len(written)}.", changed=bool(written), written=written)


commands = (migrate, user, import_, export, media, rerender_, check_config, static_export)
