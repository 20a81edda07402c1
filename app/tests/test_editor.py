"""The desk (the authors' pages below /author) in a browser."""

import io
import re

import pytest
from playwright.sync_api import expect
from sqlalchemy import text

from .browser import assert_accessible, assert_valid_html
from .conftest import PASSWORD, PASSWORD_HASH
from .pictures import picture

DESK = (
    "/author/",
    "/author/posts/new",
    "/author/media",
    "/author/comments",
    "/author/comments?state=approved",
    "/author/pages",
    "/author/pages/new",
    "/author/messages",
    "/account",
)
JPEG = picture("JPEG", size=(300, 200), colour="teal")
PASTE = """
([selector, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], "boat.jpg", {type: "image/jpeg"}));
  const options = {clipboardData: transfer, bubbles: true, cancelable: true};
  document.querySelector(selector).dispatchEvent(new ClipboardEvent("paste", options));
}
"""


@pytest.fixture
def filled(server, migrated, live):
    """Run a blog with an administrator, Grace, and with at least one entry in each list of the desk."""
    with server.connect(migrated) as connection:
        for statement in (
            "INSERT INTO user_account (email, name, password_hash, is_admin) "
            "VALUES ('grace@blog.test', 'Grace', :hash, true)",
            "INSERT INTO comment (post_id, author, body) SELECT id, 'Ben', 'Well said.' FROM post",
            "INSERT INTO contact_message (name, email, body) VALUES ('Cleo', 'c@d.test', 'Hello')",
            "INSERT INTO page (slug, title, body, body_html) VALUES ('about', 'About', 'We.', '<p>We.</p>')",
            "INSERT INTO media (name, mime, width, height, size_bytes, original_name) "
            "VALUES ('0123456789abcdef01234567-300x200.jpg', 'image/jpeg', 300, 200, 9, 'boat.jpg')",
        ):
            connection.execute(text(statement), {"hash": PASSWORD_HASH} if ":hash" in statement else {})
    return live.url


def sign_in(page, url: str) -> None:
    page.goto(f"{url}/author/")
    expect(page.get_by_label("Email address")).to_be_focused()
    page.get_by_label("Email address").fill("grace@blog.test")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Posts").wait_for()


def test_author_writes_a_post_with_a_picture(filled, page):
    sign_in(page, filled)
    page.get_by_role("link", name="New post").click()
    expect(page.get_by_label("Title")).to_be_focused()
    page.get_by_label("Title").fill("A boat in teal")
    body = page.get_by_label("Text", exact=True)
    body.fill("## At sea\n\n")
    page.get_by_role("heading", name="At sea").wait_for()
    body.focus()
    page.evaluate(PASTE, ["#body", list(JPEG)])
    page.get_by_text("Describe the picture").wait_for()
    page.keyboard.type("A teal boat")
    assert re.fullmatch(
        r"## At sea\n\n!\[A teal boat\]\(/media/[0-9a-f]{24}-300x200\.jpg\)\n", body.input_value()
    )
    picture = page.locator("[data-preview-body] img[alt='A teal boat']")
    picture.wait_for()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 300
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.get_by_label("Published").check()
    page.keyboard.press("Control+s")
    page.get_by_text("Readers can see it.").wait_for()
    page.get_by_role("link", name="View").click()
    page.get_by_role("heading", name="A boat in teal").wait_for()
    assert page.locator(".prose img").get_attribute("width") == "300"

    page.get_by_role("link", name="Edit", exact=True).click()
    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("button", name="Delete the post").click()
    page.get_by_text("is deleted").wait_for()


def test_editor_reports_a_file_that_is_not_a_picture(filled, page):
    page = page.context.browser.new_page()  # the console of this page may contain an error
    sign_in(page, filled)
    page.goto(f"{filled}/author/posts/new")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": b"not a picture"}
    page.set_input_files("[data-file]", file)
    page.get_by_text("a.png: This is not a supported picture").wait_for()
    assert page.get_by_label("Text", exact=True).input_value() == ""


def test_editor_works_without_its_script(filled, page):
    context = page.context.browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    sign_in(plain, filled)
    plain.get_by_role("link", name="New post").click()
    plain.get_by_label("Title").fill("Plain")
    plain.get_by_label("Text", exact=True).fill("Some *text*.")
    assert not plain.get_by_text("Add a picture").is_visible()
    with context.expect_page() as preview:
        plain.get_by_role("button", name="Preview").click()
    preview.value.get_by_text("Nothing is saved yet.").wait_for()
    plain.get_by_role("button", name="Save").click()
    plain.get_by_text("The draft is saved.").wait_for()
    context.close()


def test_editor_merges_the_changes_of_two_authors(request, filled, page, screenshot):
    scheme, width = request.node.callspec.params["page"]
    size = {"width": width, "height": 900}
    other = page.context.browser.new_page(viewport=size, color_scheme=scheme, java_script_enabled=False)
    for tab in (page, other):
        sign_in(tab, filled)
        tab.get_by_role("link", name="Moving a boat").click()
    page.get_by_label("Tags").fill("Hers")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Readers can see it.").wait_for()

    other.get_by_label("Summary").fill("His.")
    other.get_by_role("button", name="Save").click()
    other.get_by_text("Somebody saved another version").wait_for()
    terms = other.get_by_label("Differences", exact=True).get_by_role("term")
    assert terms.all_text_contents() == ["Summary: changed by you", "Tags: changed by somebody else"]
    assert other.get_by_label("Tags").input_value() == "Hers"
    assert other.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screenshot(other, "conflict")
    other.get_by_role("button", name="Save").click()
    other.get_by_text("Readers can see it.").wait_for()
    assert other.get_by_label("Tags").input_value() == "Hers"
    assert other.get_by_label("Summary").input_value() == "His."


def test_conflict_page_is_accessible_and_warns_before_the_author_leaves(filled, page):
    other = page.context.browser.new_page()  # the console of this page may contain an error
    for tab in (page, other):
        sign_in(tab, filled)
        tab.get_by_role("link", name="Moving a boat").click()
        tab.get_by_label("Title").fill("Another title")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Readers can see it.").wait_for()
    other.get_by_label("Text", exact=True).fill("One line.\n" * 99)
    other.keyboard.press("Control+s")
    other.get_by_text("Somebody saved another version").wait_for()
    other.locator("[data-preview-body]", has_text="One line.").wait_for()
    assert_accessible(other, "the editor with differences")
    asked = []
    other.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    other.get_by_label("Title").click()  # browsers ask only after an interaction
    other.goto(f"{filled}/author/")
    assert asked == ["beforeunload"]


def test_desk_fits_every_screen_in_light_and_dark_and_is_accessible(filled, page, screenshot):
    page.route("**/media/*", lambda route: route.fulfill(body=JPEG, content_type="image/jpeg"))
    for one in (page.context.browser.new_page(), page):  # sign in twice, so that /account shows two sessions
        sign_in(one, filled)
    page.locator(".rows a").first.click()
    page.get_by_role("heading", name="Edit post").wait_for()
    for path in (page.url.removeprefix(filled), *DESK):
        assert page.goto(filled + path).status == 200
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        screenshot(page, path)
        assert_accessible(page, path)


def test_desk_is_valid_html(signed_in, add_posts, tmp_path):
    add_posts(2)
    grace = signed_in("Grace", is_admin=True)
    other = grace.application.test_client()
    assert other.send("/login", email="grace@blog.test", password=PASSWORD).status_code == 303
    grace.send("/author/media", file=(io.BytesIO(JPEG), "boat.jpg"))
    post = re.search(r'href="(/author/posts/\d+)"', grace.get("/author/").text)[1]
    grace.send("/author/pages/new", title="About", body="We.", position="0")
    conflict = grace.send(post, title="A", body="B", status="draft", tags="<a>", version="0")
    assert conflict.text.count("<dt>") == 7, "the page shows a difference in each field"
    (tmp_path / "conflict.html").write_text(conflict.text)
    for number, path in enumerate((*DESK, post, f"{post}/delete")):
        (tmp_path / f"{number}.html").write_text(grace.get(path).text)
    assert_valid_html(tmp_path)
