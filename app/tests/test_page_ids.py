"""The ids inside a text, mostly those of its headings, differ from all ids of the page around the text.

All ids of the templates and of form fields begin with `blog_`, except those of comments. So a new id in a
template cannot clash with a heading.
"""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlalchemy import select

import blog
from blog.forms import Form
from blog.markdown import render
from blog.models import Comment, Post, User, db
from renderer.html import PAGE_ID

from .conftest import BASE_URL

TEMPLATES = Path(blog.__file__).parent / "templates"
FIELD_ID = re.compile(r"\{\{ field\.id \}\}-\w+")  # derived from the id of a form field
# Headings of published posts. Their ids, such as page-main, were ids of the page itself in earlier releases.
FORMER = ("Page main", "Comments", "Editor", "Title", "Slug", "Body", "Summary", "Tags", "Status", "Position")
FORMER += ("Name", "Email", "Website", "Q", "Version", "Base", "Preview title", "Body hint", "Summary hint")


def headings(text: str) -> list[str]:
    """Return the ids of the headings of a text."""
    return re.findall(r'<h\d id="([^"]*)"', render(text).html)


class Ids(HTMLParser):
    """A parser that counts the ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.feed(html)

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.update(value for name, value in attributes if name == "id")


def all_forms(parent: type[Form] = Form) -> list[type[Form]]:
    return [form for child in parent.__subclasses__() for form in (child, *all_forms(child))]


def template_ids() -> set[str]:
    """Return every id in the source of the templates, with the expressions of Jinja."""
    return {
        found
        for path in TEMPLATES.rglob("*")
        if path.is_file()
        for found in re.findall(r'\bid="([^"]+)"', path.read_text())
    }


def test_every_id_of_the_templates_is_one_that_headings_never_have():
    ids = template_ids()
    assert len(ids) > 5
    assert [
        found
        for found in ids
        if not PAGE_ID.fullmatch(found.replace("{{ comment.id }}", "1")) and not FIELD_ID.fullmatch(found)
    ] == []


def test_every_id_of_a_form_field_is_one_that_headings_never_have(app):
    forms = all_forms()
    assert len(forms) > 5
    with app.test_request_context(base_url=BASE_URL):
        ids = [field.id for form in forms for field in form()]
    assert [found for found in ids if not PAGE_ID.fullmatch(found)] == []


def test_anchors_of_published_headings_with_the_names_of_earlier_ids_stay():
    text = "\n\n".join(f"## {name}" for name in FORMER)
    assert headings(text) == [name.lower().replace(" ", "-") for name in FORMER]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("# A {#blog_main}", ["a"]),
        ("# Comment 1\n# B {#comment-2}", ["comment-1-2", "b"]),
        ("# Comment one", ["comment-one"]),
        (
            "A.[^1] B.[^1]\n\n[^1]: N.\n\n# Fn1\n# Fnref1\n# A {#fn1}\n# B {#fnref1:1}",
            ["fn1-2", "fnref1-2", "a", "b"],
        ),
        ("A.^[N.]\n# Fn1\n# Fn2", ["fn1-2", "fn2"]),
        ("# Fn1", ["fn1"]),
        ("<a id='ropes'></a>\n\n# Ropes\n# Ropes", ["ropes-2", "ropes-3"]),
        ("Some <a id=ropes></a> text.\n\n# A {#ropes}", ["a"]),
        ("<h2 id=fn1>Raw</h2>\n\nA.^[N.]", []),
        ("<h2 id=blog_main>Raw</h2>\n\n<h2 id='comment-3'>Raw</h2>", []),
        ("# Ropes\n\n<h2 id=ropes>Raw</h2>", ["ropes"]),
        ("## <a id='ropes'></a>Ropes", ["ropes"]),
        ("# A {#a-2}\n# A\n# A", ["a-2", "a", "a-3"]),
        ("# A {#b}\n# B {#b}\n# B", ["b", "b-2", "b-3"]),
        ("# A {#b}\n# B\n# C {#b-2}", ["b", "b-3", "b-2"]),
    ],
)
def test_heading_gets_an_id_that_nothing_else_has(text, ids):
    assert headings(text) == ids
    assert [found for found, number in Ids(render(text).html).found.items() if number > 1] == []


@pytest.mark.parametrize("path", ["/posts/a", "/contact", "/about", "/author/preview"])
def test_page_has_no_id_twice_whatever_its_text_contains(app, admin, path):
    with app.test_request_context(base_url=BASE_URL):
        fields = {field.id for form in all_forms() for field in form()}
    ids = [*fields, *(found.replace("{{ comment.id }}", "1") for found in template_ids())]
    words = [*FORMER, *ids, *(f"{field}-hint" for field in fields), "Comment 1", "Fn1", "Fnref1"]
    shape = "# {0}\n\n# Explicit {{#{1}}}\n\n<a id='{1}'></a>\n\n<h2 id={1}>Raw</h2>"
    text = "\n\n".join(shape.format(word, word.lower()) for word in words)
    text += "\n\nA note[^1], again[^1].\n\n[^1]: The note."
    admin.send("/author/posts/new", title="A", body=text, status="published")
    for title in ("Contact", "About"):
        admin.send("/author/pages/new", title=title, body=text, position="0")
    with app.app_context():
        assert db.session.scalar(select(User.id))
        post = db.session.scalars(select(Post)).one()
        db.session.add(Comment(id=1, post_id=post.id, author="Ben", body="Yes.", state="approved"))
        db.session.commit()
    page = admin.send(path, body=text) if path == "/author/preview" else admin.get(path)
    assert page.status_code == 200
    found = Ids(page.text).found
    assert {"summary", "comments", "fn1", "fnref1:1", "blog_main"} <= found.keys()
    assert [name for name, number in found.items() if number > 1] == []


def test_editor_and_its_preview_have_no_common_id(ada):
    text = "\n\n".join(f"# {name}" for name in FORMER)
    editor = Ids(ada.get("/author/posts/new").text).found
    preview = Ids(ada.send("/author/preview?part=body", body=text).text).found
    assert len(preview) == len(FORMER)
    assert editor.keys() & preview.keys() == set()
