"""Every kind of page is accessible, is valid HTML, and has the highest scores of Lighthouse."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from blog.models import Comment, Page, Post, Tag, db

from .browser import CHROMIUM_ARGUMENTS, assert_accessible, assert_valid_html, chromium, from_npm, get
from .pictures import picture

PICTURE = "0123456789abcdef01234567-1200x480.jpg"
TEXT = f"""
A rope has two ends[^1], and somebody *has* to hold at least one of them[^2]. Press <kbd>Ctrl</kbd> and call
`pull()`, or read [the manual](/about "About ropes")[^1].

![A rope in teal](/media/{PICTURE})

## Which rope? {{#which}}

| Rope  | Length |
|:------|-------:|
| short |      5 |

1. Coil it.
2. ~~Cut it.~~ Keep it.

> Never let go.

```python
@check
def pull(rope: str = "long") -> int:
    # Pull twice.
    return 2 * len(rope) + 0x10
```

```diff
- old
+ new
```

### Summary

---

[^1]: The bitter end and the working end, see [the manual](/about).
[^2]: Or both.

    In two paragraphs.
"""
KINDS = {
    "home": "/",
    "post": "/posts/everything",
    "page": "/about",
    "tag": "/tags/harbour",
    "tags": "/tags/",
    "archive": "/archive/",
    "search": "/search",
    "results": "/search?q=rope",
    "nothing found": "/search?q=unicorn",
    "comment": "/posts/everything/comment",
    "contact": "/contact",
    "sign-in": "/login",
    "not found": "/none",
}
NOT_INDEXED = ("search", "results", "nothing found", "comment", "sign-in", "not found")
# Audits of Lighthouse to skip: pages with `noindex` fail the first two, and a 404 page fails two more.
INTENDED = {kind: ["is-crawlable", "meta-description"] for kind in NOT_INDEXED}
INTENDED["not found"] += ["http-status-code", "errors-in-console"]
CATEGORIES = ("performance", "accessibility", "best-practices", "seo")
RUNS = 3  # at most: other work on this machine makes some runs slower


@pytest.fixture
def url(live, app, tmp_path) -> str:
    """Run a blog that has every kind of page and, in a post and a page, everything that a text can have."""
    (tmp_path / PICTURE).write_bytes(picture("JPEG", size=(1200, 480), colour="teal"))
    with app.app_context():
        post = Post(
            slug="everything", title="Everything", summary="About ropes.", author="Ada Quay", body=TEXT
        )
        post.published_at = "2025-05-01T00:00Z"
        post.tags = [db.session.query(Tag).filter_by(slug="harbour").one(), Tag(slug="rope", name="Rope")]
        post.comments = [Comment(author="Ben", body="Well said.\n\nAll of it.", state="approved")]
        db.session.add_all([post, Page(slug="about", title="About", body=TEXT)])
        db.session.commit()
    return live.url


def test_every_page_is_accessible_in_light_and_dark(url, page):
    for kind, path in KINDS.items():
        if kind == "not found":  # the console reports this status as an error
            continue
        page.goto(url + path)
        assert_accessible(page, kind)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_of_an_error_is_accessible_in_light_and_dark(url, page, scheme):
    other = page.context.browser.new_page(color_scheme=scheme)
    assert other.goto(url + KINDS["not found"]).status == 404
    assert_accessible(other, scheme)


def test_every_page_is_valid_html(url, tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    for number, path in enumerate(KINDS.values()):
        (folder / f"{number}.html").write_text(get(url + path)[1])
    assert_valid_html(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_every_page_has_100_points_in_each_category_of_lighthouse(url, kind, tmp_path):
    runs = []
    while len(runs) < RUNS and not (runs and all(score == 100 for score in runs[-1][0].values())):
        runs.append(lighthouse(url + KINDS[kind], kind, tmp_path / "lighthouse.json"))
    best = {category: max(scores[category] for scores, _faults in runs) for category in CATEGORIES}
    assert best == dict.fromkeys(CATEGORIES, 100), runs[-1][1]


def lighthouse(address: str, kind: str, output: Path) -> tuple[dict[str, int], list[str]]:
    """Return the points of a page in each category, and the audits without full points.

    The network is the slow one of a phone, which Lighthouse simulates. The processor is that of this machine.
    """
    command = ["node", str(from_npm("lighthouse/cli/index.js")), address, "--quiet", "--ignore-status-code"]
    command += [f"--only-categories={','.join(CATEGORIES)}", "--throttling.cpuSlowdownMultiplier=1"]
    command += ["--output=json", f"--output-path={output}", "--max-wait-for-load=60000"]
    command += [f"--chrome-flags={' '.join(['--headless=new', *CHROMIUM_ARGUMENTS])}"]
    if kind in INTENDED:
        command.append(f"--skip-audits={','.join(INTENDED[kind])}")
    environment = os.environ | {"CHROME_PATH": chromium()}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(output.read_text())
    assert "runtimeError" not in report, report["runtimeError"]
    scores = {name: round(100 * category["score"]) for name, category in report["categories"].items()}
    counted = {
        audit["id"]
        for category in report["categories"].values()
        for audit in category["auditRefs"]
        if audit["weight"]
    }
    faults = [
        f"{audit['title']}: {audit.get('displayValue', audit['score'])}"
        for name, audit in report["audits"].items()
        if name in counted and audit["score"] is not None and audit["score"] < 1
    ]
    return scores, faults
