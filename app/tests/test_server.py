"""The blog as its image runs it: gunicorn with our settings, seen by a browser."""

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from blog.logs import JsonFormatter

from .conftest import APP, BASE_URL

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
SVG = "image/svg+xml"
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="1600" height="400"/>'


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def live(runner, settings, tmp_path):
    """A running blog with posts: its URL, its process, and the file of its log."""
    assert runner.invoke(args=["import", str(Path(__file__).parent / "posts")]).exit_code == 0
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = os.environ | settings | {"BASE_URL": url}
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=APP, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                assert get(f"{url}/readyz")[0] == 200
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield url, process, log
    finally:
        process.kill()
        process.wait()


def test_gunicorn_logs_json_and_stops_gracefully(live):
    url, process, log = live
    assert get(f"{url}/?token=secret", **{"X-Request-ID": "abc-123"})[0] == 200
    assert get(f"{url}/none", **{"X-Request-ID": 'x" injected'})[0] == 404
    assert get(url, Host="evil.test")[0] == 400
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0

    text = log.read_text()
    assert "secret" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(line.keys() >= {"ts", "level", "logger", "message"} for line in lines)
    assert {line["level"] for line in lines} == {"INFO"}
    access = [line for line in lines if line["logger"] == "gunicorn.access" and line["path"] != "/readyz"]
    assert [(line["method"], line["path"], line["status"], line["request_id"]) for line in access] == [
        ("GET", "/", 200, "abc-123"),
        ("GET", "/none", 404, None),
        ("GET", "/", 400, None),
    ]
    assert all(isinstance(line["duration_ms"], int) for line in access)


def test_a_browser_reads_it_in_light_and_dark_on_every_screen(live, tmp_path):
    url, _, _ = live
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "neither `chromium` nor `google-chrome` in PATH: install the package `chromium`"
    screenshots = Path(os.environ.get("SCREENSHOT_DIR") or tmp_path)
    screenshots.mkdir(parents=True, exist_ok=True)
    complaints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        for scheme in ("light", "dark"):
            for width in (1280, 375):
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                page.on("console", lambda message: complaints.append(message.text))
                page.on("pageerror", lambda error: complaints.append(str(error)))
                # The images of other sites are not ours to test: they load, as one empty picture.
                page.route(
                    re.compile(r"^https:"), lambda route: route.fulfill(body=PICTURE, content_type=SVG)
                )
                for path in ("/", "/posts/moving-a-boat", "/posts/ropes-a-table"):
                    assert page.goto(url + path).status == 200
                    assert page.evaluate("document.styleSheets.length") == 1
                    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
                    if path == "/":
                        page.screenshot(path=screenshots / f"home-{scheme}-{width}.png", full_page=True)
                    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
                    assert (min(map(int, re.findall(r"\d+", ground))) > 128) == (scheme == "light")
                page.close()
        browser.close()
    assert complaints == [], "the console is empty: no error, and nothing that the policy blocks"


def test_the_log_of_a_failure_names_its_request(app):
    record = logging.makeLogRecord({"msg": "failed", "levelname": "ERROR", "name": "blog"})
    with app.test_request_context(base_url=BASE_URL, headers={"X-Request-ID": "abc-123"}):
        assert json.loads(JsonFormatter().format(record))["request_id"] == "abc-123"
