#!/usr/bin/env python3
"""Take the screenshots in README from the blog of `make up`, with chromium or google-chrome."""

import shutil
import subprocess
from pathlib import Path

from playwright.sync_api import sync_playwright

SITE = "http://127.0.0.1:8080"
IMAGES = Path(__file__).parent / "images"
PASSWORD = ["docker", "exec", "slipway-sandbox", "cat", "/etc/slipway/secrets/admin_password"]
PAGES = {"home": "/", "post": "/posts/hello-from-the-slipway", "search": "/search?q=release+schema"}


def main():
    password = subprocess.run(PASSWORD, capture_output=True, text=True, check=True).stdout
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1100, "height": 720}, color_scheme=scheme)
            for name, path in PAGES.items():
                page.goto(SITE + path)
                page.screenshot(path=IMAGES / f"{name}-{scheme}.png")
            page.goto(f"{SITE}/login")
            page.get_by_label("Email address").fill("admin@example.org")
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Sign in").click()
            page.goto(f"{SITE}/author/")
            page.get_by_role("link", name="How to read a Compose file").first.click()
            page.wait_for_load_state("networkidle")
            page.screenshot(path=IMAGES / f"editor-{scheme}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
