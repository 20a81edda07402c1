"""Which images, dumps and static files are kept."""

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
    # Leftovers of releases in the new ledger are removed as usual.
    assert "sha256:4" not in engine.stored
    assert not (stack.static / "style.4.css").exists()


def test_tidy_removes_an_incomplete_dump(stack, engine):
    stack.dumps.mkdir()
    (stack.dumps / "20260101T000000Z.new").touch()
    (stack.dumps / "by-hand.dump").touch()
    release(stack, NEW, "", "", "anna")
    assert [path.name for path in stack.dumps.iterdir()] == ["by-hand.dump"]


def test_link_in_the_static_files_fails_the_release(stack, engine, tmp_path):
    """nginx would follow the link, for example to its key."""
    (tmp_path / "secret").write_text("a key")

    def copied(*command, **options):
        if command[:2] == ("docker", "cp"):
            (Path(command[-1]) / "fonts").mkdir()
            (Path(command[-1]) / "fonts/a.woff2").symlink_to(tmp_path / "secret")
            (Path(command[-1]) / "more").symlink_to(tmp_path)
            return ""
        return run(*command, **options)

    run, engine.run = engine.run, copied
    with pytest.raises(Failure, match=r"links or special files: more, fonts/a\.woff2"):
        release(stack, NEW, "", "", "anna")
    assert stack.active() == "blue"
    assert engine.images == {"blue": OLD}
    assert [*stack.static.parent.rglob("*")] == [stack.static]
    assert (tmp_path / "secret").read_text() == "a key"


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
