"""The module host_files: entries that are trees, each version in a directory of its own."""

import sys
from pathlib import Path

import pytest
from host_file_sets import modes, unchanged_paths


def tree(version, **more):
    """Return an entry: a version of a tree with two files."""
    texts = {"pack/one.py": f"one of {version}\n", "pack/deep/two.py": "two\n"}
    return {"tree": "tree", "version": version, "contents": texts} | more


def modes_of_tree(version, current=None):
    """Return the modes that `modes` must return for one version of the tree."""
    below = {f"{version}{name}": "0755" for name in ("", "/pack", "/pack/deep")}
    below |= {f"{version}/pack/one.py": "0644", f"{version}/pack/deep/two.py": "0644"}
    made = {f"tree/{name}": mode for name, mode in below.items()}
    return made | ({"tree": "0755", "tree/current": current} if current else {})


def test_tree_is_written_once(host_files):
    assert host_files(tree("a"), check=True)["written"] == ["tree"]
    assert modes(host_files.place) == {}
    assert host_files(tree("a"))["written"] == ["tree"]
    assert modes(host_files.place) == modes_of_tree("a", current="a")
    again = host_files(tree("a"))
    assert again["written"] == []
    assert again["diff"] == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda top: (top / "a/pack/one.py").write_text("corrupt"),
        lambda top: (top / "a/pack/one.py").chmod(0o666),
        lambda top: (top / "a/pack/one.py").unlink(),
        lambda top: (top / "a/pack/deep").chmod(0o777),
        lambda top: (top / "a/pack/deep/json.py").touch(),
        lambda top: (top / "a/json").mkdir(),
        lambda top: (top / "current").unlink(),
        lambda top: ((top / "current").unlink(), (top / "current").symlink_to("/tmp")),
    ],
    ids=["content", "mode", "gone", "mode of a directory", "more", "a directory more", "link gone", "link"],
)
def test_tree_that_differs_is_written_again(host_files, harm):
    host_files(tree("a"))
    harm(host_files.place / "tree")
    assert host_files(tree("a"), check=True)["written"] == ["tree"]
    assert host_files(tree("a"))["written"] == ["tree"]
    assert modes(host_files.place) == modes_of_tree("a", current="a")
    assert (host_files.place / "tree/a/pack/one.py").read_text() == "one of a\n"


def test_previous_version_is_kept_and_older_ones_are_removed(host_files):
    for version, before in (
        ("a", {}),
        ("b", modes_of_tree("a")),
        ("c", modes_of_tree("b")),
        ("b", modes_of_tree("c")),
    ):
        began = (host_files.place / "tree/current/pack/one.py") if before else None
        resolved = began.resolve() if began else None
        for _ in range(2):
            host_files(tree(version))
            assert modes(host_files.place) == modes_of_tree(version, current=version) | before
        assert not resolved or resolved.exists(), "a program that runs must still find its version"


def test_version_becomes_current_when_it_is_complete(host_files, monkeypatch):
    host_files(tree("a"))
    replace = Path.replace

    def killed(path, target):
        if target.name == "two.py":
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    host_files(tree("b", contents={"pack/one.py": "", "pack/two.py": ""}), fails=True)
    assert (host_files.place / "tree/current").readlink() == Path("a")
    monkeypatch.undo()
    host_files(tree("b"))
    assert modes(host_files.place) == modes_of_tree("b", current="b") | modes_of_tree("a")


def test_invalid_tree_is_not_written(host_files):
    checked = {"validate": f"{sys.executable} -m compileall -q %s"}
    message = host_files(tree("a", **checked), fails=True)
    assert message.startswith(f"{host_files.place}/tree failed to validate, so nothing was written")
    assert modes(host_files.place) == {}
    assert host_files(tree("a", contents={"pack/one.py": "x = 1\n"}, **checked))["written"] == ["tree"]


def test_diff_compares_a_new_version_with_the_previous_one(host_files):
    host_files(tree("a"))
    shown = [part for part in host_files(tree("b"), check=True)["diff"] if part["before"] != part["after"]]
    texts = [(part["before"], part["after"]) for part in shown if isinstance(part["before"], str)]
    assert texts == [("one of a\n", "one of b\n")]


def test_additional_file_in_a_tree_counts_as_a_change(host_files):
    host_files(tree("a"))
    assert unchanged_paths(host_files) == ["tree"]
    (host_files.place / "tree/current/pack/more.py").write_text("")
    assert unchanged_paths(host_files) == []
