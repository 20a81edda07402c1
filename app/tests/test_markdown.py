import re
from pathlib import Path

import pytest

from blog.markdown import absolute_urls, render


def html(text: str) -> str:
    return render(text).html


def headings(text: str) -> list[tuple[str, str]]:
    """Return the (tag, id) of each heading."""
    return re.findall(r'<(h\d) id="([^"]*)"', html(text))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "<a href='javascript:alert(1)'>x</a>",
        "![x](javascript:alert(1))",
        "[x](data:text/html,1)",
        "[x](https://a.test){onclick=alert(1) style=color:red}",
        "<p style='position:fixed'>x</p>",
        "<iframe src=https://a.test></iframe>",
        "<form action=/x><input></form>",
        "<svg onload=alert(1)>",
        "```{=html}\n<script>alert(1)</script>\n```",
        "# x {#id onclick=alert(1)}",
        "<style>p{}</style>",
        "```<script>\nx\n```",
    ],
)
def test_render_removes_scripts_and_styles(text):
    result = html(text)
    for pattern in (
        r"<\s*(script|style|iframe|form|input|svg)",
        r"<[^>]*\son\w+\s*=",
        r"<[^>]*\sstyle\s*=",
        r"(href|src)\s*=\s*[\"']?\s*(javascript|data):",
    ):
        assert not re.search(pattern, result, re.IGNORECASE), result


def test_render_supports_tables_footnotes_and_links():
    result = html(
        "A ~~b~~ https://a.test and `main.py` main.py.[^1]\n\n[^1]: Note.\n\n|a|b|\n|-|-:|\n|1|2|\n"
    )
    assert "<s>b</s>" in result
    assert '<a href="https://a.test" rel="noopener">https://a.test</a>' in result
    assert result.count("main.py") == 2
    assert "http://main.py" not in result
    assert '<sup class="footnote-ref"><a href="#fn1" id="fnref1">' in result
    assert '<td align="right">2</td>' in result
    assert '<div class="scroll"><table>' in result


def test_links_within_the_site_have_no_rel():
    assert html("[x](/posts/y)") == '<p><a href="/posts/y">x</a></p>\n'


def test_images_load_lazily_and_keep_their_size():
    assert html("![A boat](/b.png){width=50% .wide}") == (
        '<figure><img src="/b.png" alt="A boat" width="50%" loading="lazy"></figure>\n'
    )


def test_paragraph_with_only_images_is_a_figure():
    assert html("[![a](b)](c)\n![d](e)").startswith("<figure><a href")
    assert html("Press ![a](b) now.").startswith("<p>Press <img")
    assert "figure" not in html("[a](b)\n\n- ![c](d)")


@pytest.mark.parametrize(
    "text",
    ["## Parts {#p .x}", "Parts {#p .x}\n-----", '## Parts {#p key="a b" -}'],
)
def test_heading_attributes_are_applied(text):
    result = html(text)
    assert re.sub(r"<a class=\"anchor\".*</a>", "", result) == '<h2 id="p">Parts</h2>\n'


@pytest.mark.parametrize("text", ["## A set {1, 2}", "## Empty {}", "## Open {#a", "## Code `{#a}`"])
def test_braces_that_are_not_attributes_are_kept(text):
    assert "{" in html(text).partition("<a ")[0]


@pytest.mark.parametrize("text", ["`x`{.a}", "[x](/y){#b .c}", "![x](/y){.a .b}"])
def test_inline_attributes_are_removed(text):
    assert "{" not in html(text)


def test_braces_in_text_are_kept():
    assert html("a {.b} c") == "<p>a {.b} c</p>\n"


def test_headings_begin_at_h2_and_skip_no_level():
    assert headings("# A\n#### B\n# C\n### D\n## E\n#### F") == [
        ("h2", "a"),
        ("h3", "b"),
        ("h2", "c"),
        ("h3", "d"),
        ("h3", "e"),
        ("h4", "f"),
    ]
    assert headings("##### Deep\n## Higher") == [("h2", "deep"), ("h2", "higher")]


def test_heading_ids_are_unique_and_explicit_ids_are_kept():
    assert [name for _, name in headings("# A\n# A\n# A {#a-2}\n# B {#a-2}\n# 水\n# Fn1")] == [
        "a",
        "a-3",
        "a-2",
        "b",
        "shui",
        "fn1",
    ]


def test_heading_links_to_itself():
    assert '<a class="anchor" href="#ropes" aria-label="Link to “Ropes”"></a></h2>' in html("# Ropes")


def test_list_of_one_heading_becomes_the_heading():
    assert html("1.  ### Winch {#w}").startswith('<h2 id="w">Winch')
    assert "<li>" in html("1.  ### Winch\n2.  ### Brake")
    assert "<li>" in html("1.  ### Winch\n\n    Text.")


@pytest.mark.parametrize("info", ["python", "{.python}", "{#id .python .numberLines}", "python {.x}"])
def test_code_is_highlighted(info):
    assert '<span class="k">def</span>' in html(f"```{info}\ndef f(): pass\n```")


@pytest.mark.parametrize("info", ["", "nonsense", "{.nonsense}", "{}"])
def test_code_of_an_unknown_language_is_not_highlighted(info):
    assert html(f"```{info}\nx < y\n```") == (
        '<div class="highlight"><pre><code>x &lt; y\n</code></pre></div>\n'
    )


def test_pandoc_export_is_rendered_without_leftovers():
    body = Path(__file__).with_name("posts").joinpath("pandoc-export.md").read_text().partition("\n\n")[2]
    result = html(body)
    assert headings(body) == [
        ("h2", "heading-why-a-trailer"),
        ("h3", "heading-short-answer"),
        ("h3", "heading-parts"),
        ("h4", "heading-the-winch"),
        ("h4", "heading-the-brake"),
    ]
    for leftover in ("{", "<!--", "textbf", "mx-auto", "<ol"):
        assert leftover not in result
    assert (
        '<img src="https://img.example.org/trailer.png?auto=compress&amp;format=webp" alt="A trailer"'
        in result
    )
    assert "<pre><code>winch --pull 400   --cable steel" in result


def test_summary_is_the_first_paragraph_of_prose():
    assert render(
        "![x](/y)\n\nSee - https://a.test\n\nTen words " + "are *quite* `enough` to be one " * 3
    ).summary == (
        "Ten words are quite enough to be one are quite enough to be one are quite enough to be one"
    )
    assert render("Short.\n\n# H").summary == "Short."
    assert render("").summary == ""
    long = render("word " * 100).summary
    assert len(long) <= 220
    assert long.endswith("word …")


def test_words_are_counted_without_markup():
    assert render("# One two\n\nthree **four** [five](https://a.test)").word_count == 5


def test_feed_urls_are_absolute():
    result = absolute_urls(
        html("[a](/x) [b](#c) ![d](e.png) [f](https://g.test)"), "https://blog.test/posts/p"
    )
    assert re.findall(r'(?:href|src)="([^"]*)"', result) == [
        "https://blog.test/x",
        "https://blog.test/posts/p#c",
        "https://blog.test/posts/e.png",
        "https://g.test",
    ]
