"""Fixtures for a running blog and a browser, and checks of accessibility and HTML."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

APP = Path(__file__).parent.parent
POSTS = Path(__file__).parent / "posts"
NODE_MODULES = Path(__file__).parent / "node_modules"
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


def from_npm(path: str) -> Path:
    """Return a file of the npm packages that check pages. If the file is missing, fail the test."""
    file = NODE_MODULES / path
    if not file.is_file():
        pytest.fail(f"{path} of npm is missing: run `npm ci --ignore-scripts` in app/tests.", pytrace=False)
    return file


def chromium() -> str:
    """Return the path of the browser."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "neither `chromium` nor `google-chrome` in PATH: install the package `chromium`"
    return path


def assert_accessible(page, what: str) -> None:
    """Assert that axe finds no accessibility problem on a page of the browser."""
    page.evaluate(from_npm("axe-core/axe.min.js").read_text())
    result = page.evaluate("axe.run()")
    assert result["passes"], f"axe has checked nothing: {what}"
    assert [(found["id"], found["nodes"][0]["html"]) for found in result["violations"]] == [], what


def assert_valid_html(folder: Path) -> None:
    """Assert that every .html file below the folder is valid HTML."""
    jar = from_npm("vnu-jar/build/dist/vnu.jar")
    if not shutil.which("java"):
        pytest.fail("`java` is missing: install the package `default-jre-headless`.", pytrace=False)
    command = ["java", "-jar", str(jar), "--errors-only", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.returncode == 0


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@dataclass(frozen=True)
class Live:
    """A running blog: its URL, the URL of its metrics, its process, and its log file."""

    url: str
    metrics: str
    process: subprocess.Popen
    log: Path


@pytest.fixture
def live(runner, settings, tmp_path):
    """Run a blog with posts in gunicorn."""
    assert runner.invoke(args=["import", str(POSTS)]).exit_code == 0
    port, metrics_port = _free_ports(2)
    url = f"http://127.0.0.1:{port}"
    env = os.environ | settings | {"BASE_URL": url, "METRICS_PORT": str(metrics_port)}
    env |= {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"), "MEDIA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "gunicorn"]
    command += ["--bind", f"127.0.0.1:{port}", "--bind", f"127.0.0.1:{metrics_port}"]
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
        yield Live(url, f"http://127.0.0.1:{metrics_port}", process, log)
    finally:
        process.kill()
        process.wait()


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(params=[("light", 1280), ("light", 375), ("dark", 1280), ("dark", 375)], ids=str)
def page(request, live):
    """Open a page of a browser, in each colour scheme and width. The browser's console must stay empty.

    While the page is open, Playwright runs an event loop in this thread. Then Flask-SQLAlchemy-Lite cannot
    end an app context, so a test cannot use the app in this process.
    """
    scheme, width = request.param
    complaints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # Replace images of other sites by an empty picture, so that the tests need no network.
        page.route(re.compile(r"^https:"), lambda route: route.fulfill(body=PICTURE, content_type=SVG))
        yield page
        browser.close()
    assert complaints == [], "the console shows an error, or something that the policy blocks"


@pytest.fixture
def screenshot(request, tmp_path):
    """Return a function that saves a screenshot, whose name contains the colour scheme and the width."""
    folder = Path(os.environ.get("SCREENSHOT_DIR") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    scheme, width = request.node.callspec.params["page"]

    def save(page, path: str) -> None:
        name = re.sub("[^a-z]+", "-", path).strip("-") or "home"
        page.screenshot(path=folder / f"{name}-{scheme}-{width}.png", full_page=True)

    return save
