"""Which images, dumps and static files are kept."""

import os
from pathlib import Path

import pytest
from fakes import NEW, OLD, THIRD, damage_ledger

from slipway.release import release
from slipway.shell import Failure


def test_tidy_removes_images_dumps_and_static_files_of_old_releases(stack, engine, released):
    stack.config["keep"] = 2
    for image in ("4", "5"):
        engine.static = [f"style.{image}.css"]
        (stack.dumps.mkdir(exist_ok=True), (stack.dumps / f"{released[0].id}.dump").touch())
        engine.stored.add(f"sha256:{image}")
        release(stack, f"sha256:{image}", "", "", "anna")
    assert engine.stored == {"sha256:4", "sha256:5"}
    assert list(stack.dumps.iterdir()) == []
    assert {path.name for path in stack.static.iterdir()} == {"style.4.css", "style.5.css"}


def test_new_ledger_removes_nothing_of_earlier_releases(main, stack, engine, released, capsys):
    (stack.static / "of-a-release-without-a-list.css").touch()
    stack.config |= {"keep": 2}
    kept = damage_ledger(stack, engine)
    before = kept()
    assert main("release", "--in-unit", NEW) == 1
    told = capsys.readouterr().err
    assert f"move {stack.ledger.path} away" in told
    assert "are removed" in told
    stack.ledger.path.rename(stack.ledger.path.with_name("moved-away"))
    for image in ("4", "5", "6"):
        engine.static = [f"style.{image}.css"]
        engine.stored.add(f"sha256:{image}")
        assert main("release", "--in-unit", f"sha256:{image}") == 0
    for past, present in zip(before, kept(), strict=True):
        assert past <= present
    # Images and static files of old releases in the new ledger are removed as usual.
    assert "sha256:4" not in engine.stored
    assert not (stack.static / "style.4.css").exists()


def test_tidy_removes_an_incomplete_dump(stack, engine):
    stack.dumps.mkdir()
    (stack.dumps / "20260101T000000Z.new").touch()
    (stack.dumps / "by-hand.dump").touch()
    release(stack, NEW, "", "", "anna")
    assert [path.name for path in stack.dumps.iterdir()] == ["by-hand.dump"]


@pytest.fixture
def odd_files(engine, tmp_path):
    """Static files with links to a key of this host, special files and names with a line break."""
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls/blog.pem").write_text("a key")

    def copied(*command, **options):
        if command[:2] == ("docker", "cp"):
            place = Path(command[-1])
            (place / "fonts").mkdir()
            (place / "fonts/a.woff2").write_text("a font")
            (place / "x.css").symlink_to(tmp_path / "tls/blog.pem")
            (place / "up.css").symlink_to("../../../tls/blog.pem")
            (place / "fonts/more").symlink_to(tmp_path / "tls")
            (place / "gone.css").symlink_to("nothing")
            os.mkfifo(place / "fifo.css")
            (place / "two\nlines.css").write_text("a")
            (place / os.fsdecode(b"\xff.css")).write_text("a")
        return run(*command, **options)

    run, engine.run = engine.run, copied


@pytest.mark.usefixtures("odd_files")
def test_links_and_special_files_among_the_static_files_are_left_to_the_slot(stack, engine, tmp_path, capsys):
    """nginx would follow a link, for example to its key."""
    entry = release(stack, NEW, "", "", "anna")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Links, special files")]
    names = r"\udcff.css, fifo.css, fonts/more, gone.css, two\nlines.css, up.css, x.css"
    assert {name for line in told for name in line.partition(": ")[2].split(", ")} == set(names.split(", "))
    here = {str(path.relative_to(stack.static)) for path in stack.static.rglob("*")}
    assert here == {"fonts", "fonts/a.woff2", "style.1.css"}
    listed = (stack.manifests / f"{entry.id}.txt").read_text().splitlines()
    assert listed == ["fonts/a.woff2", "style.1.css"]
    assert [path.name for path in stack.static.parent.iterdir()] == ["static"]
    assert (tmp_path / "tls/blog.pem").read_text() == "a key"


def test_tidy_removes_no_images_of_other_projects(stack, engine, released):
    stack.config["keep"] = 2
    engine.labels[OLD] = "slipway/nginx:of-a-test"
    engine.stored |= {"sha256:4", "sha256:5", "of somebody else"}
    for image in ("sha256:4", "sha256:5"):
        release(stack, image, "", "", "anna")
    assert engine.stored == {OLD, "sha256:4", "sha256:5", "of somebody else"}


def test_blocked_image_is_kept_until_another_image_is_released(main, stack, engine, released):
    stack.config |= {"keep": 2}
    for _ in range(2):
        main("rollback", "--in-unit")
    assert THIRD in engine.stored, "a rebuild would be another image, which is not blocked"


def test_dump_is_kept_with_releases_from_before_its_migration(stack, engine, released):
    """This includes the dump of a release that migrated and then failed."""
    stack.config["keep"] = 2
    engine.plan["pending"], engine.wrong["smoke"] = ["0007"], 500
    with pytest.raises(Failure):
        release(stack, "sha256:4", "", "", "anna")
    [dump] = stack.dumps.glob("*.dump")
    engine.plan["pending"] = []
    engine.wrong.clear()
    for image, stays in (("sha256:5", True), ("sha256:6", False)):
        release(stack, image, "", "", "anna")
        assert dump.exists() is stays


def test_after_many_releases_only_the_last_five_images_are_left(stack, engine, released):
    stack.config["keep"] = 5
    for number in range(4, 14):
        engine.static = [f"style.{number}.css"]
        engine.stored.add(f"sha256:{number}")
        release(stack, f"sha256:{number}", "", "", "anna")
    assert engine.stored == {f"sha256:{number}" for number in range(9, 14)}
    assert {path.name for path in stack.static.iterdir()} == {
        f"style.{number}.css" for number in range(9, 14)
    }


def test_dump_is_kept_although_the_clock_was_set_back(stack, engine, released):
    """The id of a release is its time, so the ids are not in the order of the releases."""
    stack.config["keep"] = 2
    engine.new_id = lambda taken: "20250101T000000Z"
    engine.plan["pending"], engine.wrong["smoke"] = ["0007"], 500
    with pytest.raises(Failure):
        release(stack, "sha256:4", "", "", "anna")
    engine.new_id = lambda taken: "20250102T000000Z"
    engine.plan["pending"] = []
    engine.wrong.clear()
    release(stack, "sha256:5", "", "", "anna")
    assert [path.stem for path in stack.dumps.glob("*.dump")] == ["20250101T000000Z"]
