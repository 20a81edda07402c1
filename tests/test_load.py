"""The load generator of the Molecule tests, against a server that fails on demand."""

import http.server
import threading

import pytest
from project import ROOT

READ, WRITE = 0, 3  # turns in which a lane, which is one client, reads a page or writes a post


@pytest.fixture
def load(monkeypatch):
    """The module `load`, with a short timeout."""
    monkeypatch.syspath_prepend(ROOT / "molecule/default/tests")
    import load

    monkeypatch.setattr(load, "TIMEOUT", 0.3)
    return load


@pytest.fixture
def server():
    """A server whose `ways` lists how it answers each request, and whose `received` lists the requests."""
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.received.append((self.command, self.client_address[1]))
            way = server.ways.pop(0)
            if way == "hang":
                over.wait(10)
            if way in ("hang", "drop"):
                self.close_connection = True
                return
            body = b"no page" if way == "other" else b"<html></html>\n"
            self.send_response(502 if way == "502" else 303 if self.command == "POST" else 200)
            self.send_header("Location", "/author/posts/7")
            self.send_header("Content-Length", len(body) + (way == "short"))
            if way in ("last", "short"):
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *arguments):
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.ways, server.received, server.daemon_threads = [], [], True
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lanes(load, server):
    """The lanes of a load that was not started: the first keeps its connection, the second does not."""
    words = {
        "name": "load-x",
        "cookie": "s=1",
        "token": "t",
        "posts": ["/posts/a"],
        "style": "/static/a.css",
        "rate": 220,
    }
    where = {"address": "127.0.0.1", "port": server.server_port, "host": "blog.test", "ca": None}
    tally = load.Tally(words | where | {"base_url": "http://blog.test"})
    yield tally.lanes
    for lane in tally.lanes:
        lane.reader.close()


@pytest.mark.parametrize(
    ("way", "says", "posted"),
    [
        ("502", "status 502", "refused"),
        ("drop", "RemoteDisconnected", "unanswered"),
        ("hang", "TimeoutError", "unanswered"),
        ("short", "IncompleteRead", "unanswered"),
        ("other", "the body ends with b'no page'", "done"),
    ],
)
def test_failed_request_is_reported_and_not_sent_again(way, says, posted, server, lanes):
    kept, new = lanes[:2]
    for lane in (kept, new):
        server.ways += ["good", way, "good"]
        for _ in range(3):
            lane.send(READ - lane.number, 0)
    server.ways += [way]
    kept.send(WRITE, 0)

    report = kept.tally.report
    told = [str(failure) for failure in report.failures]
    assert len(server.received) == 7
    assert [says in failure for failure in told] == [True] * (2 if posted == "done" else 3), told
    assert {said: len(titles) for said, titles in report.posts.items() if titles} == {posted: 1}
    # A kept connection is reused until it fails; the others are never reused.
    ports = [port for _, port in server.received]
    assert ports[0] == ports[1]
    assert len(set(ports[3:6])) == 3


def test_client_reconnects_after_an_answer_with_connection_close(server, lanes):
    server.ways += ["good", "last", "good", "good"]
    for turn in [READ] * 4:
        lanes[0].send(turn, 0)
    report = lanes[0].tally.report
    assert report.failures == []
    assert report.kept == 4
    assert report.reused == 2
    ports = [port for _, port in server.received]
    assert ports[0] == ports[1]
    assert ports[1] != ports[2]
    assert ports[2] == ports[3]


def test_lost_doubled_and_refused_posts_are_reported(load):
    posts = {"done": ["a", "b", "c"], "refused": ["d", "e"], "unanswered": ["f", "g"]}
    assert load.wrong_posts(posts, ["a", "c", "c", "e", "f"]) == [
        "lost: the blog accepted the POST of “b”, but the post is not in the database",
        "doubled: “c” is in the database 2 times",
        "stored, although the blog refused it: “e”",
    ]


def test_load_that_was_too_slow_reports_no_measurement(load):
    slow = load.Load({}, least=200)
    slow.report = load.Report(seconds=10, kept=1000, fresh=999, posts={"done": [], "refused": []})
    assert slow.problems == ["no measurement: 199.9 requests/s are fewer than 200"]
    slow.report.fresh += 1
    assert slow.problems == []
