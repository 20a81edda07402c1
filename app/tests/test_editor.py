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
    "/author/tags",
    "/author/media",
    "/author/comments",
    "/author/comments?state=approved",
    "/author/pages",
    "/author/pages/new",
    "/author/messages",
    "/author/messages?show=spam",
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

# Tell whether the author sees the line with the caret: nothing covers it, and it is inside the window.
SEES_CARET = """
() => {
  const field = document.activeElement, style = getComputedStyle(field), box = field.getBoundingClientRect();
  const above = field.value.slice(0, field.selectionEnd).split("\\n").length - 1;
  const beside = parseFloat(style.borderTopWidth) + parseFloat(style.paddingTop) - field.scrollTop;
  const height = parseFloat(style.lineHeight), half = parseFloat(style.fontSize) / 2 - 1;
  const inside = field.tagName === "TEXTAREA" ? beside + (above + 0.5) * height : box.height / 2;
  const middle = box.top + inside;
  return [middle - half, middle + half].every(y => document.elementFromPoint(box.left + 20, y) === field);
}
"""
BAR_SHARE = """
() => {
  const bar = document.querySelector(".editor-actions").getBoundingClientRect();
  return Math.max(0, Math.min(innerHeight, bar.bottom) - Math.max(0, bar.top)) / innerHeight;
}
"""
# The sizes of windows: desktops, a phone without and with its keyboard, desktops at a zoom of 200 and 400 %.
WINDOWS = ((1280, 900), (1280, 720), (390, 844), (390, 450), (640, 450), (640, 360), (320, 256))


@pytest.fixture
def filled(server, migrated, live):
    """Run a blog with an administrator, Grace, and with at least one entry in each list of the desk."""
    with server.connect(migrated) as connection:
        for statement in (
            "INSERT INTO user_account (email, name, password_hash, is_admin) "
            "VALUES ('grace@blog.test', 'Grace', :hash, true)",
            "INSERT INTO comment (post_id, author, body) SELECT id, 'Ben', 'Well said.' FROM post",
            "INSERT INTO contact_message (name, email, body) VALUES ('Cleo', 'c@d.test', 'Hello')",
            "INSERT INTO contact_message (name, email, body, is_spam) VALUES ('Bot', 'b@x.y', 'Buy', true)",
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


def open_new_post(page, url: str) -> None:
    """Sign in, and open the editor of a new post."""
    sign_in(page, url)
    page.goto(f"{url}/author/posts/new")


def test_author_writes_a_post_with_a_picture(filled, page):
    sign_in(page, filled)
    page.get_by_role("link", name="New post").click()
    expect(page.get_by_label("Title")).to_be_focused()
    page.get_by_label("Title").fill("A boat in teal")
    body = page.get_by_label("Text", exact=True)
    body.fill("## At sea\n\n")
    page.get_by_role("heading", name="At sea").wait_for()
    body.focus()
    page.evaluate(PASTE, ["#blog_body", list(JPEG)])
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


@pytest.fixture
def editors(filled, page):
    """Return a function that opens the editor of a new post in a window of each size, one after the other."""

    def windows():
        sign_in(page, filled)
        cookies = page.context.storage_state()
        for width, height in WINDOWS:
            size = {"width": width, "height": height}
            window = page.context.browser.new_page(viewport=size, storage_state=cookies)
            window.goto(f"{filled}/author/posts/new")
            window.locator("[data-preview-body] .hint").wait_for()
            yield f"{width}x{height}", window
            window.close()

    return windows


@pytest.mark.parametrize("page", [("light", 1280)], ids=str, indirect=True)
def test_nothing_covers_the_line_that_the_author_types(editors):
    unseen = []
    for size, window in editors():
        if not window.evaluate(SEES_CARET):
            unseen.append((size, "title"))
        for label in ("Text", "Summary"):
            field = window.get_by_label(label, exact=True)
            field.fill("One line.\n" * 99)
            window.evaluate("scrollTo(0, 0)")
            field.evaluate("field => field.focus({preventScroll: true})")
            window.keyboard.type("The end")
            if not window.evaluate(SEES_CARET):
                unseen.append((size, label))
    assert unseen == []


@pytest.mark.parametrize("page", [("light", 1280)], ids=str, indirect=True)
def test_save_is_in_view_unless_a_low_window_has_no_room(editors):
    shares = {}
    for size, window in editors():
        shares[size] = window.evaluate(BAR_SHARE)
        if window.viewport_size["height"] >= 480:
            expect(window.get_by_role("button", name="Save")).to_be_in_viewport(ratio=1)
    assert [size for size, share in shares.items() if share > 1 / 3] == []


def test_editor_reports_a_file_that_is_not_a_picture(filled, page):
    page = page.context.browser.new_page()  # the console of this page may contain an error
    open_new_post(page, filled)
    file = {"name": "a.png", "mimeType": "image/png", "buffer": b"not a picture"}
    page.set_input_files("[data-file]", file)
    page.get_by_text("a.png: This is not a supported picture").wait_for()
    assert page.get_by_label("Text", exact=True).input_value() == ""


PHONE = pytest.mark.parametrize("page", [("light", 375)], ids=str, indirect=True)
UPLOADS = re.compile(r"/author/media$")
LINE = r"\(/media/[0-9a-f]{24}-300x200\.jpg\)\n"


def photo(name: str, colour: str) -> dict[str, object]:
    buffer = picture("JPEG", size=(300, 200), colour=colour)
    return {"name": name, "mimeType": "image/jpeg", "buffer": buffer}


@pytest.fixture
def slow(page):
    """Hold the uploads of the page, and return a function that lets them go on."""
    held = []
    page.route(UPLOADS, lambda route: held.append(route))

    def go_on() -> None:
        page.unroute(UPLOADS)
        while held:
            held.pop().continue_()

    return go_on


@PHONE
def test_author_adds_two_pictures_at_once(filled, page):
    open_new_post(page, filled)
    page.set_input_files("[data-file]", [photo("a.jpg", "teal"), photo("b.jpg", "navy")])
    page.get_by_text("Describe the picture").wait_for()
    page.keyboard.type("One")
    assert re.fullmatch(rf"!\[One\]{LINE}!\[\]{LINE}", page.get_by_label("Text", exact=True).input_value())


@PHONE
def test_editor_adds_a_picture_without_moving_the_caret_of_the_author_who_types(filled, page, slow):
    open_new_post(page, filled)
    page.set_input_files("[data-file]", photo("a.jpg", "teal"))
    page.get_by_label("Text", exact=True).focus()
    page.keyboard.type("Before ")
    slow()
    page.get_by_text("Describe the picture").wait_for()
    page.keyboard.type("and after")
    assert re.fullmatch(rf"!\[\]{LINE}Before and after", page.get_by_label("Text", exact=True).input_value())


@PHONE
def test_editor_saves_after_the_pictures_are_uploaded(filled, page, slow):
    open_new_post(page, filled)
    page.get_by_label("Title").fill("A boat")
    page.set_input_files("[data-file]", photo("a.jpg", "teal"))
    page.get_by_role("button", name="Save").click()
    page.get_by_text("saved as soon as the pictures are uploaded").wait_for()
    slow()
    page.get_by_text("The draft is saved.").wait_for()
    assert re.fullmatch(
        rf"!\[\]{LINE}".removesuffix(r"\n"), page.get_by_label("Text", exact=True).input_value()
    )


@PHONE
def test_editor_reports_each_picture_that_is_not_uploaded_and_adds_the_others(filled, page):
    page = page.context.browser.new_page()  # the console of this page may contain an error
    open_new_post(page, filled)
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"not a picture"}
    page.set_input_files("[data-file]", [broken, photo("a.jpg", "teal")])
    expect(page.get_by_label("Text", exact=True)).to_have_value(re.compile(rf"^!\[\]{LINE}$"))
    assert page.get_by_text("broken.png: This is not a supported picture").is_visible()


@PHONE
def test_editor_still_says_that_a_picture_is_missing_after_the_preview_fails_too(filled, page):
    page = page.context.browser.new_page()  # the console of this page contains errors
    open_new_post(page, filled)
    page.locator("[data-preview-body] .hint").wait_for()
    page.context.clear_cookies()
    page.set_input_files("[data-file]", photo("a.jpg", "teal"))
    page.get_by_text("The preview is out of date").wait_for()
    assert page.get_by_text("a.jpg was not uploaded").is_visible()


def test_editor_removes_the_warning_after_the_next_preview(filled, page):
    page = page.context.browser.new_page()  # the console of this page contains errors
    open_new_post(page, filled)
    page.route("**/preview*", lambda route: route.abort())
    page.get_by_label("Text", exact=True).fill("First")
    page.get_by_text("The preview is out of date").wait_for()
    page.unroute("**/preview*")
    page.get_by_label("Text", exact=True).fill("Second")
    expect(page.locator("[data-preview-body]")).to_contain_text("Second")
    expect(page.get_by_text("The preview is out of date")).not_to_be_visible()


@pytest.fixture
def two_tabs(page):
    """Open two tabs of one browser, whose consoles may contain errors."""
    with page.context.browser.new_context(viewport=page.viewport_size) as context:
        yield context.new_page(), context.new_page()


def write(tab, title: str) -> None:
    tab.get_by_label("Title").fill(title)
    tab.get_by_label("Text", exact=True).fill(f"The text of {title}.")


def expect_text(tab, text: str) -> None:
    expect(tab.get_by_label("Text", exact=True)).to_have_value(text)


def test_unsaved_text_is_back_after_a_reload(filled, page):
    open_new_post(page, filled)
    write(page, "Mine")
    page.get_by_label("Published").check()
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    expect_text(page, "The text of Mine.")
    expect(page.get_by_label("Published")).to_be_checked()
    page.get_by_role("heading", name="Preview").wait_for()
    expect(page.locator("[data-preview-body]")).to_contain_text("The text of Mine.")
    assert_accessible(page, "the editor with restored text")
    page.get_by_role("button", name="Discard it").click()
    expect_text(page, "")


def test_unsaved_text_is_back_without_the_marker_of_a_picture_whose_upload_was_aborted(filled, page, slow):
    open_new_post(page, filled)
    page.set_input_files("[data-file]", photo("a.jpg", "teal"))
    expect_text(page, "![Uploading picture 1 …]()\n")
    page.get_by_label("Text", exact=True).press_sequentially("Mine")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    expect_text(page, "Mine")


def test_text_is_back_after_a_save_without_a_connection(filled, page):
    tab = page.context.browser.new_page()  # the console of this page contains an error
    sign_in(tab, filled)
    tab.goto(f"{filled}/author/posts/new")
    write(tab, "Mine")
    tab.context.set_offline(True)
    tab.get_by_role("button", name="Save").click()
    tab.wait_for_url("chrome-error:**")
    tab.context.set_offline(False)
    tab.goto(f"{filled}/author/posts/new")
    expect_text(tab, "The text of Mine.")
    tab.get_by_role("button", name="Save").click()
    tab.get_by_text("The draft is saved.").wait_for()
    tab.goto(f"{filled}/author/posts/new")
    expect_text(tab, "")


def test_restored_text_does_not_replace_a_version_that_was_saved_meanwhile(filled, two_tabs):
    one, other = two_tabs
    sign_in(one, filled)
    one.get_by_role("link", name="Moving a boat").click()
    one.get_by_role("heading", name="Edit post").wait_for()
    address = one.url
    write(one, "Mine")
    one.on("dialog", lambda dialog: dialog.accept())
    one.goto(f"{filled}/author/")
    other.goto(address)
    write(other, "Hers")
    other.get_by_role("button", name="Save").click()
    other.get_by_text("Readers can see it.").wait_for()
    one.goto(address)
    expect_text(one, "The text of Mine.")
    one.get_by_role("button", name="Save").click()
    one.get_by_text("Somebody saved another version").wait_for()


def test_author_signs_in_again_in_another_tab_and_saves(filled, two_tabs):
    tab, other = two_tabs
    sign_in(tab, filled)
    tab.goto(f"{filled}/author/posts/new")
    write(tab, "Mine")
    other.goto(f"{filled}/author/")
    other.get_by_role("button", name="Sign out").click()
    other.get_by_role("link", name="Archive").wait_for()
    tab.get_by_role("button", name="Save").click()
    tab.get_by_text("Your session has ended").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sign_in(other, filled)
    tab.get_by_role("button", name="Save").click()
    tab.get_by_text("The draft is saved.").wait_for()
    expect_text(tab, "The text of Mine.")


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
    post = page.url.removeprefix(filled)
    page.goto(f"{filled}/author/tags")
    page.locator(".rows a").first.click()
    page.get_by_role("heading", name="Edit tag").wait_for()
    for path in (post, page.url.removeprefix(filled), *DESK):
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
    assert conflict.text.count("<dt>") == 7, "each field but the language differs"
    (tmp_path / "conflict.html").write_text(conflict.text)
    tag, other_tag = re.findall(r'href="(/author/tags/\d+)"', grace.get("/author/tags").text)[:2]
    merge = f"{tag}/merge?into={other_tag.rpartition('/')[2]}"
    for number, path in enumerate((*DESK, post, f"{post}/delete", tag, merge, f"{tag}/remove")):
        (tmp_path / f"{number}.html").write_text(grace.get(path).text)
    assert_valid_html(tmp_path)
