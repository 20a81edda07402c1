"""Helpers for the tests of the desk (the authors' pages below /author), which read the editor's page."""

import re
from html import unescape

MINE = {"title": "A post", "body": "Some *text*.", "status": "published"}


def value(page, name: str) -> str:
    return unescape(re.search(rf'<input[^>]* name="{name}"[^>]* value="([^"]*)"', page.text)[1])


def action(page) -> str:
    """Return the `action` of the editor's form. Fails if the form has none, and is sent to its own page."""
    return re.search(r'<form class="form editor"[^>]* action="([^"]+)"', page.text)[1]


def fields(page, **changes: object) -> dict[str, object]:
    """Return the fields that the editor's form would send, without its `guid` and its CSRF token."""
    texts = re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>\r?\n?(.*?)</textarea>', page.text, re.DOTALL)
    names = [
        "title",
        "slug",
        "version",
        "base",
        *(["tags", "published_at", "language"] if 'name="tags"' in page.text else ["position"]),
    ]
    status = re.search(r'<input checked[^>]*value="(\w+)"', page.text)
    return (
        {name: value(page, name) for name in names}
        | {name: unescape(text) for name, text in texts}
        | {"status": status and status[1]}
        | changes
    )


def differences(page) -> dict[str, tuple[str, list[str]]]:
    """Return what the editor shows in a conflict: for each field's label, who changed it, and its diff."""
    found = re.findall(r"<dt>(.*?)<span>: (.*?)</span></dt>\s*<dd><pre>(.*?)</pre>", page.text, re.DOTALL)
    lines = {name: re.findall(r"<(?:ins|del)>(.*?)</", text) for name, _, text in found}
    return {name: (changed_by, lines[name]) for name, changed_by, _ in found}
