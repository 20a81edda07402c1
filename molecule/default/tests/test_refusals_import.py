"""An import with invalid posts is refused before anything changes. The error lists every problem."""

from refusals import Case, each, extra

POST = "---\ntitle: A\n{}---\n\nText.\n"
POSTS = {
    "plain.md": b"# Hello\n",
    "deep/date.md": POST.format("date: soon\n").encode(),
    "one.md": POST.format("date: 2025-01-01\nslug: ropes-a-table\n").encode(),
    "two.md": POST.format("date: 2025-01-01\nslug: ropes-a-table\n").encode(),
    "latin.md": POST.format("date: 2025-01-01\n").replace("Text", "Été").encode("latin-1"),
    **{f"same/{number}.md": b"# Hello\n" for number in range(20)},
}
PROBLEMS = [
    "plain.md:1: has no front matter; begin it with",
    "deep/date.md:3: has a date that is not valid in the field date: 'soon'; write it like 2026-01-31",
    "two.md:4: has the same slug as one.md, 'ropes-a-table'; change one slug",
    "latin.md:6: is not UTF-8 (byte 35 of the file); save it as UTF-8",
    f"huge.md:1: has {50 * 10**6} bytes, over the limit of 1114112; split it",
    *(f"same/{number}.md:1: has no front matter" for number in range(20)),
    "nothing was imported; problems: 25",
]


def import_bad_posts(context):
    """Import a directory of invalid posts."""
    for name, content in POSTS.items():
        file = context.tmp / "posts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with (context.tmp / "posts/huge.md").open("wb") as file:
        file.truncate(50 * 10**6)
    return context.deploy("playbooks/import.yml", *extra(import_directory=str(context.tmp / "posts")))


CASES = [
    Case("invalid posts", PROBLEMS, run=import_bad_posts),
    Case(
        "empty name of a directory",
        ['import_directory is ""', "Set it to a directory of Markdown files"],
        run=lambda context: context.deploy("playbooks/import.yml", *extra(import_directory="")),
    ),
    Case(
        "missing directory",
        [
            'import_directory is "/nowhere", which is not a directory',
            "Set it to a directory of Markdown files",
        ],
        run=lambda context: context.deploy("playbooks/import.yml", *extra(import_directory="/nowhere")),
    ),
]


@each(CASES)
def test_wrong_import_is_refused(case, assert_refused):
    assert_refused(case)
