"""The blog in gunicorn, with the settings of the image, and its pages in a browser."""

import json
import logging
import re
import signal

from sqlalchemy import text

from blog.logs import AccessFormatter, JsonFormatter
from blog.models import Media, db

from .browser import get
from .conftest import BASE_URL

READER_PATHS = (
    "/",
    "/posts/moving-a-boat",
    "/posts/ropes-a-table",
    "/archive/",
    "/tags/",
    "/tags/harbour",
    "/search",
    "/search?q=rope",
    "/posts/moving-a-boat/comment",
    "/contact",
    "/login",
)


def test_gunicorn_logs_json_and_stops_gracefully(live):
    url, process, log = live.url, live.process, live.log
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
    # Two workers write, each after its answer.
    assert sorted((line["method"], line["path"], line["status"], line["request_id"]) for line in access) == [
        ("GET", "/", 200, "abc-123"),
        ("GET", "/", 400, None),
        ("GET", "/none", 404, None),
    ]
    assert all(isinstance(line["duration_ms"], int) for line in access)


def test_metrics_of_all_workers_are_on_a_separate_port(live):
    url = live.url
    metrics = live.metrics
    for _ in range(20):
        assert get(f"{url}/posts/ropes-a-table")[0] == 200
    assert get(f"{url}/{'x' * 50}")[0] == 404
    assert get(f"{url}/metrics")[0] == 404
    status, text = get(f"{metrics}/metrics")
    assert status == 200
    assert 'blog_http_requests_total{endpoint="pages.post",method="GET",status="200"} 20.0' in text
    assert 'blog_http_request_seconds_count{endpoint="pages.post"} 20.0' in text
    assert "xxx" not in text, "requested paths create no labels"
    assert get(f"{metrics}/")[0] == 404
    assert get(f"{metrics}/posts/ropes-a-table", Host="evil.test")[0] == 404


def test_metrics_count_the_pictures_that_are_not_in_the_database(app, live):
    assert "\nblog_pictures_without_content 0.0\n" in get(f"{live.metrics}/metrics")[1]
    with app.app_context():
        size = {"width": 1, "height": 1, "size_bytes": 1}
        db.session.add(Media(name="a", mime="image/png", original_name="", **size))
        db.session.commit()
    assert "\nblog_pictures_without_content 1.0\n" in get(f"{live.metrics}/metrics")[1]


def test_metrics_are_available_while_the_database_is_away(make_app, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    app = make_app(DATABASE_URL="postgresql://blog@127.0.0.1:1/blog")
    response = app.test_client().get("/metrics", base_url="http://blog.test:9100")
    assert response.status_code == 200
    assert "blog_pictures_without_content" not in response.text


def test_pages_fit_every_screen_in_light_and_dark(request, live, page, screenshot):
    url = live.url
    scheme, _ = request.node.callspec.params["page"]
    for path in READER_PATHS:
        assert page.goto(url + path).status == 200
        assert page.evaluate("document.styleSheets.length") == 1
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        screenshot(page, path)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (min(map(int, re.findall(r"\d+", ground))) > 128) == (scheme == "light")


def test_reader_searches_reads_and_comments(live, page, server, migrated):
    url = live.url
    page.goto(url)
    page.get_by_role("link", name="Search").click()
    page.get_by_label("Words to find").fill("hold rope")
    page.get_by_role("button", name="Search").click()
    page.locator("mark").first.wait_for()
    page.get_by_role("link", name="Ropes: a table").click()
    page.get_by_role("link", name="Write a comment").click()
    page.get_by_label("Name").fill("Grace Mole")
    page.get_by_label("Comment").fill("Two ends <b>indeed</b>.\n\nAlways.")
    assert page.get_by_label("Leave this empty").bounding_box()["x"] < -300, "people do not see the trap"
    page.get_by_role("button", name="Send the comment").click()
    page.get_by_role("heading", name="Thank you").wait_for()
    with server.connect(migrated) as connection:
        connection.execute(text("UPDATE comment SET state = 'approved'"))
    page.get_by_role("link", name="Back to the post").click()
    page.get_by_text("Two ends <b>indeed</b>.").wait_for()


def test_access_log_cuts_a_long_path():
    atoms = {"m": "GET", "U": "/" + 4000 * "\x01", "s": "404", "M": 3, "{x-request-id}i": "-"}
    record = logging.makeLogRecord(
        {"msg": "%(m)s %(U)s %(s)s", "args": atoms, "levelname": "INFO", "name": "gunicorn.access"}
    )
    line = json.loads(AccessFormatter().format(record))
    assert line["path"] == "/" + 263 * "\x01"
    assert line["message"] == f"GET {line['path']} 404"


def test_log_record_contains_the_request_id(app):
    record = logging.makeLogRecord({"msg": "failed", "levelname": "ERROR", "name": "blog"})
    with app.test_request_context(base_url=BASE_URL, headers={"X-Request-ID": "abc-123"}):
        assert json.loads(JsonFormatter().format(record))["request_id"] == "abc-123"
