#!/usr/bin/env python3
"""Takes the pictures of README from the blog of `make up`, in light and dark, with Debian's chromium."""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"


def main():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1100, "height": 720}, color_scheme=scheme)
            page.goto("http://127.0.0.1:8080/")
            page.screenshot(path=IMAGES / f"home-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
