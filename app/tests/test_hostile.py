"""Input of an attacker must cause no server error, and no page may run such input as code."""

import re
from html.parser import HTMLParser
from urllib.parse import quote
from xml.etree import ElementTree

from hypothesis import example, given, settings
from hypothesis import strategies as st

from blog import markdown
from blog.models import CONTROL_CHARACTER, Comment, Post, db

from .conftest import clear

EVIL = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "![x](data:text/html,1)",
    "```{=html}\n<script>1</script>\n```",
    "`x`{onclick=alert(1)}",
    '# x {#"><script> onclick=1}',
    "<a href=' javascript:1'>",
    "]]>--><!--",
    "{{ 7 * 7 }}",
    "\u2028\u202e\ufeff",
    "|a|\n|-|\n|<b|",
    "[^1]\n\n[^1]: <p style=x>",
    '<img src="//[x">',
)
HOSTILE = st.lists(st.sampled_from(EVIL) | st.text(max_size=40), max_size=6).map("".join)
CLEAN = HOSTILE.filter(lambda written: not CONTROL_CHARACTER.search(written))


ACTIVE = ("script", "style", "iframe", "object", "embed", "base")


class Checker(HTMLParser):
    """A parser that collects markup that a browser would run as code, except the blog's own scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in ACTIVE and not (tag == "script" and (values.get("src") or "").startswith("/static/")):
            self.found.append(tag)
        for name, value in values.items():
            scheme = re.sub(r"[\x00-\x20]", "", value or "").lower()
            if (
                name.startswith("on")
                or name == "style"
                or scheme.startswith(("javascript:", "data:", "vbscript:"))
            ):
                self.found.append(f"{tag} {name}={value}")


def what_runs(html: str) -> list[str]:
    checker = Checker()
    checker.feed(html)
    return checker.found


@given(HOSTILE)
@settings(max_examples=300)
@example("".join(EVIL))
@example("`x`{.a}[`x`{.a}")  # after a bracket, the parser calls the inline rules with silent=True
def test_rendered_markdown_contains_no_active_html(written):
    rendered = markdown.render(written)
    assert what_runs(rendered.html) == []
    assert what_runs(markdown.absolute_urls(rendered.html, "https://a.test/b")) == []
    assert len(rendered.summary) <= markdown.SUMMARY_CHARACTERS


@given(title=CLEAN, summary=CLEAN, body=CLEAN, author=CLEAN, said=CLEAN)
def test_hostile_post_and_comment_do_not_break_pages_and_feed(
    app, client, title, summary, body, author, said
):
    clear(app)
    with app.app_context():
        post = Post(slug="x", title=title, summary=summary, body=body, author=author)
        post.published_at = "2025-01-01T00:00Z"
        post.comments = [Comment(author=author, body=said, state="approved")]
        db.session.add(post)
        db.session.commit()
    for path in ("/", "/posts/x", "/archive/2025", "/posts/x/comment"):
        page = client.get(path)
        assert page.status_code == 200
        assert what_runs(page.text) == []
    ElementTree.fromstring(client.get("/feed.xml").data)


ADDRESS = st.builds(
    "{}{}".format,
    st.sampled_from(["", "//", "http://", "HTTPS:/", "mailto:", "\\\\", "&#10;//"]),
    st.text("/[]:@?#%\\.&; x1℀\u3002\u200b", max_size=8),
)
SHAPES = (
    '<img src="{}">',
    '<a href="{}">x</a>',
    "![]({})",
    "![](<{}>)",
    "[x]({})",
    "<{}>",
    "[x]\n\n[x]: {}\n\n",
)


@given(addresses=st.lists(ADDRESS, min_size=1, max_size=4))
@example(["//[x"])
@example(["//[x]/", "//a℀b"])
def test_invalid_address_in_a_text_does_not_break_pages_and_feed(app, ada, capfd, addresses):
    body = "".join(shape.format(address) for address in addresses for shape in SHAPES)
    clear(app)
    saved = ada.send("/author/posts/new", title="X", body=body, tags="x", status="published")
    assert saved.status_code == 303
    for path in ("/posts/x", "/feed.xml", "/tags/x/feed.xml", "/", "/tags/x", saved.location):
        assert ada.get(path).status_code == 200
    assert ada.send("/author/preview", body=body).status_code == 200
    ElementTree.fromstring(ada.get("/feed.xml").data)
    assert "Traceback" not in capfd.readouterr().err


@given(
    path=st.sampled_from(["/posts/post-1/comment", "/contact"]),
    fields=st.fixed_dictionaries(dict.fromkeys(("name", "email", "subject", "body"), HOSTILE)),
)
def test_hostile_reader_form_does_not_break_the_page(app, client, add_posts, path, fields):
    clear(app)
    add_posts(1)
    response = client.send(path, **{name: value.encode("utf-8", "replace") for name, value in fields.items()})
    assert response.status_code in (303, 422)
    assert what_runs(response.text) == []


@given(path=st.text(max_size=60), query=st.text(max_size=30))
@example("post/" + "9" * 400, "")
@example("archive/0001", "9")
def test_hostile_url_causes_no_server_error(client, path, query):
    words = query.encode("utf-8", "replace")
    response = client.get("/" + quote(path, errors="replace"), query_string={"q": words, "page": words})
    assert response.status_code in (200, 301, 302, 308, 400, 404, 405)
