import io
import json

import pytest
from sqlalchemy import select

from blog import create_app
from blog.models import User, db

from .conftest import PASSWORD


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return str(path)


def user(app) -> User:
    with app.app_context():
        return db.session.scalars(select(User)).one()


def test_ensure_admin_creates_the_administrator_once(app, runner, password_file):
    command = ["user", "ensure-admin", "--email", "Ada@Example.com", "--name", "Ada"]
    result = runner.invoke(args=[*command, "--password-file", password_file])
    assert json.loads(result.stdout) == {"changed": True, "created": True, "email": "ada@example.com"}
    ada = user(app)
    assert ada.name == "Ada"
    assert ada.is_admin
    assert ada.check_password(PASSWORD)
    assert ada.password_hash.startswith("scrypt:")

    again = runner.invoke(args=[*command, "--password-file", "-"], input=io.BytesIO(b"another password"))
    assert json.loads(again.stdout) == {"changed": False, "created": False, "email": "ada@example.com"}
    assert user(app).check_password(PASSWORD)


def test_ensure_admin_makes_an_existing_user_an_administrator(app, runner, password_file):
    with app.app_context():
        db.session.add(User(email="ada@example.com", name="", password_hash="x"))
        db.session.commit()
    result = runner.invoke(
        args=["user", "ensure-admin", "--email", "ada@example.com", "--password-file", password_file]
    )
    assert json.loads(result.stdout) == {"changed": True, "created": False, "email": "ada@example.com"}
    assert user(app).password_hash == "x"


@pytest.mark.parametrize(
    ("email", "password", "words"),
    [
        ("ada", PASSWORD.encode(), "not an email address"),
        ("a b@c.test", PASSWORD.encode(), "not an email address"),
        ("ada@example.com", b"short\n", "5 characters: use at least 12"),
        ("ada@example.com", b"\xff" * 20, "not UTF-8"),
    ],
)
def test_ensure_admin_refuses_an_invalid_address_or_password(runner, email, password, words):
    arguments = ["user", "ensure-admin", "--email", email, "--password-file", "-"]
    result = runner.invoke(args=arguments, input=io.BytesIO(password))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert words in result.stderr


def test_usage_error_has_exit_status_2(runner):
    assert runner.invoke(args=["user", "ensure-admin"]).exit_code == 2
    assert runner.invoke(args=["import", "x", "--existing", "maybe"]).exit_code == 2


def test_unreachable_database_is_reported_in_one_line(settings):
    app = create_app(settings | {"DATABASE_URL": "postgresql://blog@127.0.0.1:1/blog"})
    result = app.test_cli_runner().invoke(args=["migrate"])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "Connection refused" in result.stderr


def test_error_on_an_empty_database_recommends_flask_migrate(empty_settings, tmp_path):
    (tmp_path / "a.md").write_text("---\ntitle: A\ndate: 2025-01-01\n---\nText.\n")
    result = create_app(empty_settings).test_cli_runner().invoke(args=["import", str(tmp_path)])
    assert result.exit_code == 1
    assert "flask migrate" in result.stderr


def test_static_export_is_idempotent_and_keeps_other_files(runner, tmp_path):
    (tmp_path / "style.0000000000.css").write_text("of another release")
    first = json.loads(runner.invoke(args=["static-export", str(tmp_path)]).stdout)
    assert first["changed"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*first["written"], "style.0000000000.css"]
    )
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in tmp_path.iterdir())
    again = json.loads(runner.invoke(args=["static-export", str(tmp_path)]).stdout)
    assert again == {"changed": False, "written": []}


def test_static_export_reports_a_directory_that_cannot_be_created(runner):
    result = runner.invoke(args=["static-export", "/dev/null/x"])
    assert result.exit_code == 1
    assert "cannot write to /dev/null/x" in result.stderr
