"""The time to render a text is proportional to its length. A text over the limits is refused, but not lost.

Times are CPU times, so that a busy machine changes nothing.
"""

import gc
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from blog import markdown
from blog.author.editor import MAX_COMPARED_LINES, _changed_lines
from blog.models import MAX_BYTES, Page, Post, db
from renderer.markdown import convert
from renderer.words import slugify

from .conftest import count
from .desk import fields

SMALL, LARGE = 10_000, 40_000
MOST_GROWTH = 9  # if the time is linear, the large text takes 4 times as long; if it is quadratic, 16 times
LINEAR = {
    "attributes without an end": "`x`{a=",
    "attributes in quotes without an end": "`x`{a='",
    "attributes of an image": "![](a){width=",
    "headings with the same text": "# a\n",
    "headings with numbers": "# a-2\n# a\n",
    "headings with attributes": "# a {#a\n",
    "headings in lists": "1. # a\n\n\n<b>\n\n",
    "empty headings": "\n#",
    "raw ids": "<a id=a></a>\n\n",
    "raw attributes": "<a id = ",
    "references to footnotes": "[^1]",
    "footnotes in the text": "^[a]",
    "definitions of footnotes": "[^a]: b\n\n",
    "emphasis": "*a _b ",
    "strong emphasis": "**a b** *c",
    "brackets": "[",
    "links": "[a](",
    "images": "![",
    "quotes": "> ",
    "lists": "- a\n",
    "nested lists": "- ",
    "tables": "|a|b|\n|-|-|\n|1|2|\n\n",
    "cells": "|a",
    "tags": "<b>",
    "entities": "&amp;",
    "code": "`",
    "blocks of code": "```\na\n```\n",
    "blocks of code in unknown languages": "```{.a}\na\n```\n",
    "lines": "a\n",
    "words": "a-b ",
}
TOO_LARGE = "[a]: /" + "x" * 30_000 + "\n\n" + "[a]" * 10_000  # the address would occur 10,000 times
TOO_SLOW = "ahttp://" * 20_000  # the library searches all text before each colon
SLOW_CODE = "\n" * 40_000 + "x"  # the lexer of AutoIt tries each line to the end of the text


@pytest.fixture(autouse=True, scope="module")
def _warm():
    """Render a text, because the first one also loads modules, which no measurement should include.

    Let the garbage collector ignore the objects of other tests: it would visit them during each rendering.
    """
    convert("# a {#b}\n\n```python\na\n```\n\n<b id=c>\n\n|a|\n|-|\n", 1)
    gc.freeze()
    yield
    gc.unfreeze()


def cpu_s(text: str) -> float:
    """Return the CPU time of a rendering, the smaller one of two."""
    times = []
    for _again in range(2):
        began = time.process_time()
        convert(text, 0)
        times.append(time.process_time() - began)
    return min(times)


def children_cpu_s() -> float:
    """Return the CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def ended_cpu_s():
    """Return a function that ends the process that renders, and returns its CPU time."""
    markdown._process._end()
    before = children_cpu_s()

    def measure() -> float:
        markdown._process._end()
        return children_cpu_s() - before

    return measure


@pytest.mark.parametrize("unit", LINEAR.values(), ids=LINEAR.keys())
def test_time_of_rendering_grows_like_the_text(unit):
    small, large = (unit * (length // len(unit)) for length in (SMALL, LARGE))
    assert cpu_s(large) < MOST_GROWTH * max(cpu_s(small), 0.03)


@pytest.mark.parametrize(
    ("text", "reason"), [(TOO_SLOW, "takes too long"), (TOO_LARGE, "needs too much memory")]
)
def test_text_over_the_limits_is_refused_with_the_reason_and_advice(text, reason, ended_cpu_s):
    with pytest.raises(markdown.RenderError, match=rf"{reason} to render\. Split it into several texts, or"):
        markdown.render(text)
    assert ended_cpu_s() < 5
    assert markdown.render("The next text.").html == "<p>The next text.</p>\n"


def test_longest_text_is_rendered():
    text = (
        "The quick brown *fox* jumps over the `lazy` dog, and [links](https://a.test) to it.\n\n" * 13_000
    )[:MAX_BYTES]
    assert markdown.render(text).word_count > 150_000


def test_code_that_takes_too_long_to_highlight_stays_plain(ended_cpu_s):
    html = markdown.render(f"# Code\n\n```autoit\n{SLOW_CODE}\n```\n").html
    assert html.endswith(f'<div class="highlight"><pre><code>{SLOW_CODE}\n</code></pre></div>\n')
    assert ended_cpu_s() < 3


def test_kernel_ends_the_renderer_first_if_memory_runs_out():
    markdown.render("One.")
    process, _connection = markdown._process._running
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"


def test_renderer_that_was_killed_is_started_again():
    markdown.render("One.")
    process, _connection = markdown._process._running
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert markdown.render("Two.").html == "<p>Two.</p>\n"


def test_text_does_not_wait_long_for_another_text(monkeypatch):
    monkeypatch.setattr(markdown, "_WAIT_S", 0.01)
    with markdown._process._lock, pytest.raises(markdown.RenderError, match=r"busy .* Try again in a minute"):
        markdown.render("Another text.")


def test_texts_of_several_threads_are_not_mixed_up():
    answers = {}

    def render(number: int) -> None:
        answers[number] = markdown.render(f"Text {number}.").html

    threads = [threading.Thread(target=render, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"<p>Text {number}.</p>\n" for number in range(8)}


@pytest.mark.parametrize("path", ["/author/posts/new", "/author/pages/new"], ids=["a post", "a page"])
def test_author_of_a_refused_text_gets_the_reason_and_keeps_the_text(app, admin, path):
    answer = admin.send(path, title="A title", body=TOO_LARGE, status="published", position="0")
    assert answer.status_code == 422
    assert "This text needs too much memory to render. Split it" in answer.text
    assert TOO_LARGE in answer.text
    assert count(app, Post) + count(app, Page) == 0


def test_refused_change_of_a_post_keeps_the_stored_post(app, ada, post):
    fields = {"title": "A title", "body": "Before.", "status": "published"}
    address = ada.send("/author/posts/new", **fields).location
    answer = ada.send(address, **fields | {"body": TOO_LARGE, "title": "Another", "version": "1"})
    assert answer.status_code == 422
    assert TOO_LARGE in answer.text
    assert (post()["title"], post()["body"]) == ("A title", "Before.")


@pytest.mark.parametrize("part", ["", "?part=body"])
def test_preview_of_a_refused_text_shows_the_reason(ada, part):
    answer = ada.send(f"/author/preview{part}", title="A title", body=TOO_LARGE)
    assert answer.status_code == 422
    assert 'role="alert">This text needs too much memory to render. Split it' in answer.text


def test_import_lists_every_text_that_cannot_be_rendered_and_imports_nothing(app, run_import, tmp_path):
    for name, body in (("a", TOO_LARGE), ("b", "Fine."), ("c", TOO_LARGE)):
        (tmp_path / f"{name}.md").write_text(
            f"---\ntitle: T\ndate: 2025-01-01\nslug: {name}\n---\n\n{body}\n"
        )
    problems = run_import(tmp_path)
    assert [problem.partition(": ")[0] for problem in problems] == [
        f"{tmp_path}/a.md:4",
        f"{tmp_path}/c.md:4",
    ]
    assert all("needs too much memory to render. Split it" in problem for problem in problems)
    assert count(app, Post) == 0


@pytest.fixture
def published(app, add_posts):
    """Add a post whose text this release cannot render, as an earlier release stored it."""
    add_posts(1)
    with app.app_context():
        values = {"body": TOO_LARGE, "body_html": "<p>Former HTML</p>"}
        db.session.execute(Post.__table__.update().values(values))
        db.session.commit()
    return "/posts/post-1"


def test_published_text_that_cannot_be_rendered_any_more_stays_published(runner, client, published):
    result = runner.invoke(args=["rerender"])
    assert result.exit_code == 0
    assert "The post 'post-1' keeps its HTML. This text needs too much memory" in result.stderr
    assert '"rerendered": 0, "total": 1, "refused": 1' in result.stdout
    assert "Former HTML" in client.get(published).text
    assert "Former HTML" in client.get("/feed.xml").text


def test_author_can_edit_a_text_that_cannot_be_rendered_any_more(app, admin, published, post):
    editor = f"/author/posts/{post()['id']}"
    assert TOO_LARGE in admin.get(editor).text
    saved = admin.send(editor, title="T", body="Short.", status="published", version="1")
    assert saved.status_code == 303
    assert post()["body_html"] == "<p>Short.</p>\n"


def test_author_can_change_the_tags_of_a_text_that_cannot_be_rendered_any_more(admin, published, post):
    editor = f"/author/posts/{post()['id']}"
    assert admin.send(editor, **fields(admin.get(editor), tags="ropes")).status_code == 303
    assert post()["body_html"] == "<p>Former HTML</p>"


def test_text_that_cannot_be_rendered_any_more_is_exported(runner, tmp_path, published):
    assert runner.invoke(args=["export", str(tmp_path / "export")]).exit_code == 0
    assert TOO_LARGE in (tmp_path / "export/posts/post-1.md").read_text()


def test_long_versions_of_a_text_are_not_compared_line_by_line():
    lines = [str(number % 150) for number in range(MAX_COMPARED_LINES)]
    began = time.process_time()
    assert _changed_lines("\n".join(lines), "z".join(lines)) == ["The text has too many lines to compare."]
    half = lines[: MAX_COMPARED_LINES // 2]
    mixed = [line if number % 3 else f"z{line}" for number, line in enumerate(half)]
    assert "-0" in _changed_lines("\n".join(half), "\n".join(mixed))
    assert time.process_time() - began < 5


def test_slug_of_a_long_text_is_found_in_linear_time():
    small, large = "é-" * SMALL, "é-" * LARGE
    times = []
    for text in (small, large):
        began = time.process_time()
        slugify(text)
        times.append(time.process_time() - began)
    assert times[1] < MOST_GROWTH * max(times[0], 0.03)
