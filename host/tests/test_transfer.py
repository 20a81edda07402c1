"""Import and export."""

import os
import types
from pathlib import Path

import pytest

from slipway.settings import Settings
from slipway.shell import CommandFailure, Failure


def test_import_requires_a_release(main, stack, engine, capsys):
    stack.set_slots({})
    engine.images.clear()
    assert main("import", "posts") == 1
    assert "run the playbook deploy.yml first" in capsys.readouterr().err


def test_failed_import_names_each_file(main, engine, monkeypatch, capsys, tmp_path):
    def refuse(*command):
        inside = command[command.index("import") + 1]
        raise CommandFailure(["docker"], 1, f"{inside}/a.md: line 2 has no date\n{inside}/b/c.md: no title\n")

    engine.blog = refuse
    monkeypatch.chdir(tmp_path)
    Path("posts").mkdir()
    assert main("import", "posts") == 1
    told = capsys.readouterr().err
    assert told == "slipway: the import failed:\na.md: line 2 has no date\nb/c.md: no title\n"


@pytest.fixture
def flask(engine):
    """Fakes of the blog's import and export: they record what they find and write what the test sets."""
    blog = types.SimpleNamespace(writes={}, links={}, fails=None, found={}, owners=set())

    def run(*command):
        place = Path(command[command.index("--volume") + 1].split(":")[0])
        files = [path for path in place.rglob("*") if path.is_file()]
        blog.found = {str(path.relative_to(place)): path.read_text() for path in files}
        blog.owners = {path.lstat().st_uid for path in (place, *place.rglob("*"))}
        for name, content in blog.writes.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(content)
        for name, to in blog.links.items():
            (place / name).symlink_to(to)
        if blog.fails:
            raise blog.fails
        return {"changed": True}

    engine.blog = run
    return blog


def owners(*paths):
    return {path.lstat().st_uid for path in paths}


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@AS_ROOT
def test_export_refuses_a_directory_with_other_files(main, engine, flask, tmp_path, monkeypatch, capsys):
    """An example is `slipway export .` in a home: sshd refuses a user whose home belongs to another user."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    for path in (home, home / ".ssh"):
        os.chown(path, 1234, 1234)
    monkeypatch.chdir(home)
    assert main("export", ".") == 1
    assert f"slipway: {home} contains other files: use a new directory" in capsys.readouterr().err
    assert owners(home, *home.rglob("*")) == {1234}
    assert [*home.iterdir()] == [home / ".ssh"]


@AS_ROOT
@pytest.mark.parametrize("given", ["empty", "new", "new/below"])
def test_export_belongs_to_the_owner_of_the_directory_or_to_the_caller_of_sudo(
    main, engine, flask, tmp_path, monkeypatch, given
):
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1234")
    (tmp_path / "empty").mkdir(mode=0o755)
    os.chown(tmp_path / "empty", 4321, 4321)
    directory, owner = tmp_path / given, 4321 if given == "empty" else 1234
    flask.writes = {"export.json": "{}", "posts/a.md": "one"}
    assert main("export", str(directory)) == 0
    assert flask.owners == {Settings().blog_uid}
    assert sorted(path.name for path in directory.rglob("*")) == ["a.md", "export.json", "posts"]
    assert owners(tmp_path / given.split("/")[0], directory, *directory.rglob("*")) == {owner}


@AS_ROOT
def test_export_updates_an_earlier_export(main, engine, flask, tmp_path):
    """This includes an export that a kill or a failed blog left incomplete; other files stay."""
    directory = tmp_path / "blog"
    flask.writes = {"export.json": "{}", "posts/a.md": "one"}
    assert main("export", str(directory)) == 0
    (directory / ".git").mkdir()
    os.chown(directory / ".git", 1234, 1234)
    flask.writes = {"posts/b.md": "two"}
    assert main("export", str(directory)) == 0
    assert flask.found == {"export.json": "{}", "posts/a.md": "one"}
    assert owners(directory / ".git") == {1234}

    (directory / ".slipway-export").mkdir()
    (directory / "posts").rename(directory / ".slipway-export/posts")
    (directory / "export.json").rename(directory / ".slipway-export/export.json")
    flask.fails = Failure("the disk is full")
    assert main("export", str(directory)) == 1
    flask.fails = None
    assert main("export", str(directory)) == 0
    assert flask.found == {"export.json": "{}", "posts/a.md": "one", "posts/b.md": "two"}
    assert sorted(path.name for path in directory.iterdir()) == [".git", "export.json", "posts"]


def test_export_refuses_a_directory_with_links(main, engine, flask, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "blog").mkdir()
    (tmp_path / "blog/export.json").touch()
    (tmp_path / "blog/media").symlink_to(tmp_path / "pictures")
    assert main("export", str(tmp_path / "blog")) == 1
    assert "contains links instead of an export: media" in capsys.readouterr().err
    assert (tmp_path / "blog/media").is_symlink()


def test_export_removes_links(main, engine, flask, tmp_path, capsys):
    """A compromised blog could make root give it a file of the host, or make an operator copy one."""
    secret = tmp_path / "secret"
    secret.write_text("a key")
    before = secret.stat()
    flask.writes = {"export.json": "{}", "posts/a.md": "one"}
    flask.links = {"posts/b.md": secret, "media": tmp_path}
    assert main("export", str(tmp_path / "blog")) == 1
    assert "links or special files, which were removed: media, posts/b.md" in capsys.readouterr().err
    assert secret.stat().st_uid == before.st_uid
    assert secret.read_text() == "a key"
    assert sorted(path.name for path in (tmp_path / "blog").rglob("*")) == ["a.md", "export.json", "posts"]


def test_import_gives_the_blog_a_readable_copy_without_hidden_files(
    main, engine, flask, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("a key")
    (home / "posts").mkdir(mode=0o700)
    (home / "posts/a.md").write_text("one")
    (home / "posts/a.md").chmod(0o600)
    before = owners(home, *home.rglob("*"))
    monkeypatch.chdir(home)
    assert main("import", ".") == 0
    # The copy has the whole path, so that posts in a drafts folder stay drafts.
    assert flask.found == {f"{home}/posts/a.md".removeprefix("/"): "one"}
    if os.geteuid() == 0:
        assert flask.owners == {Settings().blog_uid}
    assert owners(home, *home.rglob("*")) == before


def test_import_of_a_missing_directory_fails(main, engine, flask, tmp_path, capsys):
    assert main("import", str(tmp_path / "nowhere")) == 1
    assert f"slipway: {tmp_path}/nowhere cannot be read: " in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
