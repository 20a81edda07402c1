"""The deployed blog in a browser: readers and authors, in light and dark, at phone and desktop width."""

import io
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from articles import FRESH_SECONDS
from outside import ROOT, wait_until
from PIL import Image
from playwright.sync_api import sync_playwright

SCREENSHOTS = Path(os.environ.get("SCREENSHOT_DIR") or ROOT / ".screenshots/deployed")
AXE = ROOT / "app/tests/node_modules/axe-core/axe.min.js"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
# The name of the person who comments in these tests, and the slug of the page that the tests add.
NAME = "Grace of the browser test"
PAGE = "about-the-browser-test"

TELL_WHAT_THE_POLICY_BLOCKS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`the policy blocks: ${event.violatedDirective} ${event.blockedURI}`);
});
"""
EMPTY_PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="1600" height="400"/>'


class Visitor:
    """A user with a separate browser context: colour scheme, screen width and cookies."""

    def __init__(self, browser, base_url, who, scheme, width, axe):
        self.base_url, self.scheme, self.axe = base_url, scheme, axe
        self.pictures = f"{scheme}-{width}-{who}"
        self.looked, self.complaints = 0, []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.context.set_default_timeout(15_000)
        self.context.add_init_script(TELL_WHAT_THE_POLICY_BLOCKS)
        # Pictures of other sites are not under test: each loads as an empty picture.
        self.context.route(
            re.compile(f"^https:(?!{re.escape(base_url.removeprefix('https:'))}/)"),
            lambda route: route.fulfill(body=EMPTY_PICTURE, content_type="image/svg+xml"),
        )
        self.context.on("console", lambda message: self.complain(message.type, message.text))
        self.context.on("weberror", lambda error: self.complain("exception", error.error))
        self.page = self.context.new_page()

    def complain(self, kind, what):
        """Record a message of the browser's console, or an exception. There must be none."""
        self.complaints.append(f"{self.page.url}: {kind}: {what}")

    def go(self, path):
        """Open an address of the blog."""
        assert self.page.goto(f"{self.base_url}{path}").status == 200

    def look(self, heading):
        """Wait for the page with this heading, take a screenshot, and assert that the page has no fault."""
        shown = self.page.get_by_role("heading", name=heading, level=1, exact=True)
        shown.wait_for()
        self.page.wait_for_load_state()
        self.looked += 1
        name = re.sub("[^a-z0-9]+", "-", shown.inner_text().lower()).strip("-")
        picture = SCREENSHOTS / f"{self.pictures}-{self.looked:02}-{name}.png"
        self.page.screenshot(path=picture, full_page=True)

        where = picture.stem
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"too wide: {where}"
        ground = self.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (min(map(int, re.findall(r"\d+", ground))) > 128) == (self.scheme == "light"), where
        self.page.evaluate(self.axe)
        result = self.page.evaluate("axe.run()")
        assert result["passes"], f"axe checked nothing: {where}"
        faults = [(found["id"], found["nodes"][0]["html"]) for found in result["violations"]]
        assert faults == [], where
        assert self.complaints == [], where

    def send(self, button, **fields):
        """Type into the fields as a person does, and press the button."""
        for label, words in fields.items():
            self.page.get_by_label(label, exact=True).press_sequentially(words)
        self.page.get_by_role("button", name=button, exact=True).click()

    def follow(self, link, within="main"):
        """Follow a link of the page."""
        self.page.locator(within).get_by_role("link", name=link, exact=True).first.click()


@pytest.fixture(scope="module")
def address_arguments(host, base_url):
    """Arguments that tell the browser the address of the blog's name, and which public key to accept."""
    if base_url.scheme == "http":
        return []
    key = "openssl x509 -in /etc/slipway/tls/blog.pem -noout -pubkey | openssl pkey -pubin -outform der"
    pin = host.check_output(f"{key} | openssl dgst -sha256 -binary | base64")
    return [
        f"--host-resolver-rules=MAP {base_url.hostname} 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={pin}",
    ]


@pytest.fixture(scope="module")
def browser(address_arguments):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.fail(
            "`chromium` and `google-chrome` are not in PATH: install the package `chromium`.", pytrace=False
        )
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*CHROMIUM_ARGUMENTS, *address_arguments]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visitor(browser, variables):
    """Make a Visitor for a `with` block. Any complaint of the browser fails the test."""
    if not AXE.is_file():
        pytest.fail("axe-core of npm is missing: run `npm ci --ignore-scripts` in app/tests.", pytrace=False)
    axe = AXE.read_text()

    @contextmanager
    def come(*who):
        visitor = Visitor(browser, variables["stack_base_url"], *who, axe)
        try:
            yield visitor
        finally:
            visitor.context.close()
        assert visitor.complaints == []

    return come


@pytest.fixture(scope="module", autouse=True)
def content_of_the_tests(sql, host):
    """Add a page to the blog. Before and after these tests, remove everything that they write."""

    def clear():
        sql(f"DELETE FROM comment WHERE author = '{NAME}'")
        sql(f"DELETE FROM contact_message WHERE name = '{NAME}'")
        sql("DELETE FROM post WHERE slug LIKE 'a-boat-of-the-browser-test-%'")
        sql(f"DELETE FROM page WHERE slug = '{PAGE}'")
        names = [
            name
            for [name] in sql("DELETE FROM media WHERE original_name LIKE 'browser-test-%' RETURNING name")
        ]
        volume = host.check_output("docker volume inspect media_volume --format '{{ .Mountpoint }}'")
        for name in names:
            host.check_output("rm --force %s", f"{volume}/{name}")

    clear()
    sql(
        "INSERT INTO page (slug, title, body, body_html) "
        f"VALUES ('{PAGE}', 'About the test', 'We float.', '<p>We <em>float</em>.</p>')"
    )
    yield
    clear()


@pytest.fixture(autouse=True)
def without_rate_limits(sql):
    """Reset the blog's counters of requests, because all visitors of these tests have one address."""
    sql("DELETE FROM throttle")
    yield
    sql("DELETE FROM throttle")


SCREENS = [("light", 1280), ("light", 375), ("dark", 1280), ("dark", 375)]


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
def test_reader_searches_reads_comments_and_sends_a_message(visitor, variables, scheme, width):
    with visitor("reader", scheme, width) as reader:
        reader.go("/")
        reader.look(variables["stack_site_title"])
        reader.follow("Ropes: a table")
        reader.look("Ropes: a table")
        reader.follow("Harbour")
        reader.look("Posts about Harbour")
        reader.follow("Moving a boat with Pandoc")
        reader.look("Moving a boat with Pandoc")
        reader.follow("Archive", within="header")
        reader.look(re.compile(r"Posts of \d{4}"))
        reader.follow("Tags", within="header")
        reader.look("Tags")
        reader.go(f"/{PAGE}")
        reader.look("About the test")

        reader.follow("Search", within="header")
        reader.look("Search")
        reader.send("Search", **{"Words to find": "hold rope"})
        reader.page.locator("mark").first.wait_for()
        reader.look("Search")
        reader.follow("Ropes: a table")

        assert reader.context.cookies() == [], "readers get no cookie"
        reader.follow("Write a comment")
        reader.look("Write a comment")
        reader.send("Send the comment", Name=NAME, Comment="The short one, <b>always</b>.")
        reader.look("Thank you")
        reader.follow("Back to the post")
        reader.look("Ropes: a table")
        assert reader.page.get_by_text("The short one").count() == 0, "comments wait for approval"

        reader.follow("Contact", within="footer")
        reader.look("Contact")
        fields = {"Name": NAME, "Email": "grace@example.org", "Message": "Is it for sale?"}
        reader.send("Send the message", **fields)
        reader.look("Thank you")


def png(colour):
    """Return a PNG of one colour."""
    output = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(output, "PNG")
    return output.getvalue()


def assert_shows_picture(page, colour):
    """Assert that a page, or a part of a page, shows the picture that has this colour."""
    picture = page.get_by_role("img", name=f"A boat in {colour}")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 300


def sign_in(author, email, secrets):
    """Sign in as the blog's admin."""
    author.go("/author/")
    author.look("Sign in")
    author.page.get_by_label("Email address").fill(email)
    author.page.get_by_label("Password").fill(secrets["admin_password"])
    author.page.get_by_role("button", name="Sign in").click()
    author.look("Posts")


def upload_picture(author, colour):
    """Upload a picture on the page that edits a post, and check the headers that nginx sends with it."""
    with author.page.expect_response("**/media/*") as answer:
        file = {"name": f"browser-test-{colour}.png", "mimeType": "image/png", "buffer": png(colour)}
        author.page.set_input_files("[data-file]", file)
    headers = answer.value.headers
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["content-type"] == "image/png"


def write_draft(author, title, colour):
    """Write a draft with a picture, check the preview, and return the picture's path."""
    author.follow("New post")
    author.look("New post")
    author.page.get_by_label("Title").press_sequentially(title)
    body = author.page.get_by_label("Text", exact=True)
    body.press_sequentially("## At sea\n\n")
    preview = author.page.locator("[data-preview-body]")
    preview.get_by_role("heading", name="At sea").wait_for()
    upload_picture(author, colour)
    author.page.get_by_text("Describe the picture").wait_for()
    author.page.keyboard.type(f"A boat in {colour}")
    assert_shows_picture(preview, colour)
    [picture] = re.findall(r"\((/media/[0-9a-f]{24}-300x200\.png)\)", body.input_value())
    author.look("New post")
    author.send("Save")
    author.page.get_by_text("The draft is saved.").wait_for()
    author.look("Edit post")
    return picture


def publish(author, title):
    """Publish the draft that is open, with a tag, and view the post."""
    author.page.get_by_label("Published").check()
    author.page.get_by_label("Tags").press_sequentially("Harbour")
    author.send("Save")
    author.page.get_by_text("Readers can see it.").wait_for()
    author.look("Edit post")
    author.follow("View")
    author.look(title)


def write_comment(reader, path, title, colour, comment):
    """Read a post with a picture, and write a comment."""
    reader.go(path)
    reader.look(title)
    assert_shows_picture(reader.page, colour)
    reader.follow("Write a comment")
    reader.send("Send the comment", Name=NAME, Comment=comment)
    reader.look("Thank you")


def approve_comment(author, comment):
    """Approve a comment on the page "Comments" of the pages for authors."""
    author.follow("Write", within="header")
    author.page.get_by_role("navigation", name="Your desk").get_by_role("link", name="Comments").click()
    author.look("Comments")
    waiting = author.page.locator(".queue li", has_text=comment)
    waiting.get_by_role("button", name="Approve").click()
    author.page.get_by_text("1 comment approved.").wait_for()
    author.look("Comments")


def look_at_rest_of_desk(author):
    """Check the remaining pages for authors."""
    for path, heading in (
        ("/author/comments?state=approved", "Comments"),
        ("/author/tags", "Tags"),
        ("/author/media", "Pictures"),
        ("/author/pages", "Pages"),
        ("/author/pages/new", "New page"),
        ("/author/messages", "Messages"),
        ("/account", "Your account"),
    ):
        author.go(path)
        author.look(heading)


def delete_post(author, title):
    """Delete a post, after a confirmation."""
    author.go("/author/")
    author.follow(title)
    author.follow("Delete…")
    author.look("Delete this post?")
    author.send("Delete the post")
    author.page.get_by_text(f"“{title}” is deleted.").wait_for()
    author.look("Posts")


def delete_picture(author, picture):
    """Delete a picture, after a confirmation."""
    author.go("/author/media")
    shown = author.page.locator(".pictures li").filter(has=author.page.locator(f"img[src='{picture}']"))
    shown.get_by_role("link", name="Delete").click()
    author.look("Delete this picture?")
    author.send("Delete the picture")
    author.page.get_by_text("The picture is deleted.").wait_for()


@pytest.mark.parametrize(("scheme", "width", "colour"), [("light", 1280, "teal"), ("dark", 375, "orchid")])
def test_author_publishes_a_post_and_approves_a_comment_on_it(
    visitor, variables, secrets, get, scheme, width, colour
):
    title = f"A boat of the browser test, {colour}"
    post = f"/posts/a-boat-of-the-browser-test-{colour}"
    comment = f"What a boat, in {colour}!"
    with visitor("author", scheme, width) as author, visitor("answer", scheme, width) as reader:
        sign_in(author, variables["release_admin_email"], secrets)
        picture = write_draft(author, title, colour)
        assert get(post).status == 404
        publish(author, title)
        wait_until(lambda: get(post).status == 200, FRESH_SECONDS, "readers see the post")

        write_comment(reader, post, title, colour, comment)
        approve_comment(author, comment)
        wait_until(lambda: comment in get(post).text, FRESH_SECONDS, "readers see the comment")
        reader.go(post)
        reader.page.get_by_text(comment).wait_for()
        reader.look(title)

        look_at_rest_of_desk(author)
        delete_post(author, title)
        assert get(post).status == 404
        delete_picture(author, picture)
        assert get(picture).status == 404
        author.send("Sign out")
        author.look(variables["stack_site_title"])
        assert author.page.get_by_role("link", name="Write", exact=True).count() == 0
