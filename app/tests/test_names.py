import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blog.models import Page, db
from blog.names import SLUG, is_slug, slugify

from .conftest import clear
from .desk import MINE

# Pages may have these names, although addresses such as /posts/SLUG begin with them.
PREFIXES = ["media", "page", "post", "posts", "sitemap", "static"]
UNUSUAL = ["my-nginx.conf", "systemd.log", "draft~", "dump.sql.gz"]


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("  Ünïcode & More! ", "unicode-more"),
        ("Straße nach Łódź", "strasse-nach-lodz"),
        ("Привет, мир", "privet-mir"),
        ("ελληνικά", "ellenika"),
        ("北京欢迎你", "bei-jing-huan-ying-ni"),
        ("한국어 블로그", "hangugeo-beulrogeu"),
        ("1,000 &amp; &#65; files", "1-000-amp-65-files"),
        ("🚢", ""),
    ],
)
def test_slugify_transliterates_any_script(text, slug):
    assert slugify(text) == slug


@given(text=st.text(st.characters(max_codepoint=0x7F), max_size=60))
def test_ascii_text_keeps_the_slug_that_older_releases_made(text):
    assert slugify(text) == "-".join(re.findall(r"[a-z0-9]+", text.lower()))


@given(text=st.text(max_size=60))
def test_slugify_returns_a_valid_slug_or_nothing(text):
    slug = slugify(text)[:200]
    assert slug == "" or is_slug(slug)


@pytest.mark.parametrize("name", PREFIXES + UNUSUAL)
def test_editor_accepts_a_page_and_readers_see_it(admin, client, name):
    admin.send("/author/pages/new", title="A", body="The text.", position="0", slug=name)
    assert "The text." in client.get(f"/{name}").text


@pytest.mark.parametrize("name", UNUSUAL)
def test_editor_accepts_a_post_and_readers_see_it(ada, client, name):
    ada.send("/author/posts/new", **MINE, slug=name)
    assert client.get(f"/posts/{name}").status_code == 200


@pytest.mark.parametrize("name", PREFIXES + UNUSUAL)
def test_export_with_any_page_that_the_editor_accepts_can_be_imported(
    app, admin, client, runner, tmp_path, name
):
    admin.send("/author/pages/new", title="A", body="The text.", position="0", slug=name)
    assert runner.invoke(args=["export", str(tmp_path / "site")]).exit_code == 0
    clear(app)
    assert runner.invoke(args=["import", str(tmp_path / "site")]).exit_code == 0
    assert "The text." in client.get(f"/{name}").text


@given(name=st.from_regex(SLUG, fullmatch=True) | st.sampled_from(["login", "feed.xml", "author", "tags"]))
def test_editor_and_importer_accept_the_same_page_names(app, admin, runner, tmp_path, name):
    fields = {"title": "A", "body": "B", "position": "0", "slug": name}
    by_editor = admin.send("/author/pages/new", **fields).status_code == 303
    clear(app)
    (tmp_path / "pages").mkdir(exist_ok=True)
    (tmp_path / "pages" / "a.md").write_text(f"---\ntitle: A\nslug: '{name}'\n---\n\nB\n")
    (tmp_path / "export.json").write_text('{"format": 1, "media": []}')
    by_importer = runner.invoke(args=["import", str(tmp_path)]).exit_code == 0
    clear(app)
    assert by_editor == by_importer


@pytest.fixture
def texts(app, add_posts):
    """Add the posts post-1 and post-2, and the page about."""
    add_posts(2)
    with app.app_context():
        db.session.add(Page(slug="about", title="About", body="Text."))
        db.session.commit()


@pytest.mark.parametrize(
    "path", ["/posts/post-1", "/about", "/archive/2025", "/tags/harbour", "/search", "/posts/post-1/comment"]
)
def test_address_with_a_slash_at_the_end_redirects_permanently(client, texts, path):
    response = client.get(f"{path}/")
    assert response.status_code == 301
    assert response.location == path
    assert client.get(response.location).status_code == 200


def test_redirect_to_the_address_without_a_slash_keeps_the_query(client, texts):
    response = client.get("/search/?q=caf%C3%A9+%26+%22a%22&page=2&q=\xff")
    assert response.location == "/search?q=caf%C3%A9+%26+%22a%22&page=2&q=%C3%BF"


def test_caches_may_keep_the_redirect_to_the_address_without_a_slash(client, texts):
    response = client.get("/about/")
    assert response.headers["Cache-Control"] == "public, max-age=0, s-maxage=1, stale-while-revalidate=1"
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize(
    "path",
    ["//evil.test/", "///evil.test/", "/%2Fevil.test/", "/%5Cevil.test/", "//evil.test/..", "/a%0d%0a/"],
)
def test_redirect_never_leads_to_another_site(client, path):
    location = client.get(path).location or "/"
    assert re.match(r"/(?![/\\])|http://blog\.test:8080/", location)
    assert not re.search(r"[\r\n]", location)


@pytest.mark.parametrize("path", ["/tags/", "/archive/", "/"])
def test_address_that_ends_with_a_slash_does_not_redirect(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/posts/a/b/", "/posts//", "/about//", "/archive/x/"])
def test_unknown_address_with_a_slash_at_the_end_is_not_found(client, texts, path):
    response = client.get(path, follow_redirects=True)
    assert response.status_code == 404


def test_form_that_is_sent_to_an_address_with_a_slash_is_not_redirected(client, texts):
    assert client.post("/contact/").status_code == 404
