"""Constant load by simulated readers and authors, which records failed requests and lost POSTs.

The class Load runs this file as a program: a separate process, which the tests do not slow down. Requests
follow a schedule, whatever the results of earlier requests. Half of the requests use kept connections, and
each of the others uses a new connection. With TLS, half of each kind use HTTP/2. No request is sent again,
except one over HTTP/2 that the server reports as not processed. A client with a kept connection opens another
one only after a failure, or after an answer that announced the end of the connection, as any client does.
"""

import contextlib
import http.client
import itertools
import json
import re
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from urllib.parse import urlencode

from outside import Http2Reader, Reader

# The number of lanes (threads that send requests). Half of them keep their connection. After a late answer, a
# lane sends its overdue requests at once.
LANES = 44
# Two more lanes for each number: they keep their connection, and send a request every 2, 5 or 9 seconds.
PAUSES = (2, 5, 9)
# How many seconds an answer may take, including the time to connect.
TIMEOUT = 10

WRITE = "/author/posts/new"
# The requests that each lane sends in turn, and the text at the end of a complete answer. {mark} is sent as a
# session cookie, because nginx does not answer a request with a session from its cache.
TURNS = [
    ("/", "</html>"),
    ("{post}?session={mark}", "</html>"),
    ("{style}", "}"),
    (WRITE, ""),
    ("{post}", "</html>"),
    ("/feed.xml", "</feed>"),
    ("/account", "</html>"),
    ("/", "</html>"),
    ("/?session={mark}", "</html>"),
    ("{post}", "</html>"),
]


@dataclass(frozen=True)
class Failed:
    """A request that failed."""

    at: float  # when it was sent, in seconds since 1970
    request: str
    connection: str
    what: str

    def __str__(self):
        clock = time.strftime("%H:%M:%S", time.gmtime(self.at))
        return f"{clock} {self.request} over a {self.connection} connection: {self.what}"


@dataclass
class Report:
    """The results of the load's requests since it began."""

    seconds: float = 0
    kept: int = 0  # requests on kept connections
    reused: int = 0  # of these, requests that were not the first on their connection
    fresh: int = 0  # requests on new connections
    http2: int = 0  # of both kinds, requests over HTTP/2
    written: int = 0  # POSTs
    slowest: float = 0  # the longest time from a request to its answer, in seconds
    behind: float = 0  # the longest delay of a request after its scheduled time, in seconds
    behind_at: float = 0  # when that was, in seconds since 1970
    cpu: float = 0  # the share of one core that the load's process used
    failures: list = field(default_factory=list)
    # The titles of the POSTs, by result. Only the last report has them.
    posts: dict = field(default_factory=dict)

    @property
    def requests(self):
        """The number of requests that have ended."""
        return self.kept + self.fresh

    @property
    def rate(self):
        """The average number of requests in a second."""
        return self.requests / self.seconds

    def __str__(self):
        return (
            f"{self.requests} requests in {self.seconds:.0f} s ({self.rate:.0f}/s), "
            f"{len(self.failures)} failed; {self.written} POSTs; {self.fresh} requests on new connections, "
            f"{self.kept} on kept ones ({self.reused} not the first there); {self.http2} over HTTP/2; "
            f"slowest {self.slowest:.2f} s, {self.behind:.2f} s behind the schedule at most "
            f"({time.strftime('%H:%M:%S', time.gmtime(self.behind_at))}); "
            f"the load took {self.cpu:.0%} of a core"
        )


def wrong_posts(posts, titles):
    """Return a sentence for each post that is lost, stored twice, or stored although the blog refused it.

    Args:
        posts: the titles of the POSTs by their result: "done", "refused" or "unanswered".
        titles: the titles in the database.
    """
    there = Counter(titles)
    return [
        *(
            f"lost: the blog accepted the POST of “{title}”, but the post is not in the database"
            for title in posts["done"]
            if not there[title]
        ),
        *(
            f"doubled: “{title}” is in the database {times} times"
            for title, times in there.items()
            if times > 1
        ),
        *(f"stored, although the blog refused it: “{title}”" for title in posts["refused"] if there[title]),
    ]


# --- The program, which sends the requests ------------------------------------------------------------------


class Lane(threading.Thread):
    """A thread that sends requests at scheduled times: all over one connection, or each over a new one."""

    def __init__(self, tally, number, interval, is_kept, is_http2):
        super().__init__(daemon=True)
        self.tally, self.number, self.interval, self.is_kept = tally, number, interval, is_kept
        plan = tally.plan
        where = plan["address"], plan["port"], plan["host"]
        self.is_http2 = is_http2 and bool(plan["ca"])
        if self.is_http2:
            self.reader = Http2Reader(*where, plan["ca"], TIMEOUT)
        else:
            context = ssl.create_default_context(cadata=plan["ca"]) if plan["ca"] else None
            self.reader = Reader(*where, context, TIMEOUT)
        self.carried = 0  # the number of requests on the latest connection
        self.since = None  # when the current request was sent; None between requests
        self.post, self.style = itertools.cycle(plan["posts"]), plan["style"]

    def run(self):
        tally = self.tally
        first = tally.began + self.interval * self.number / LANES
        for turn in itertools.count():
            due = first + turn * self.interval
            if tally.over.wait(max(0, due - time.monotonic())):
                break
            self.since = time.monotonic()
            self.send(turn, self.since - due)
            self.since = None
        self.reader.close()

    def send(self, turn, behind):
        """Send one request, and count its result."""
        at, began, dialled = time.time(), time.monotonic(), self.reader.dialled
        path, end = TURNS[(turn + self.number) % len(TURNS)]
        mark = f"{self.tally.plan['name']}-{self.number}-{turn}"
        words = {"mark": mark, "post": next(self.post), "style": self.style}
        shown = f"POST {mark}" if path == WRITE else f"GET {path.format(**words)}"
        said = "unanswered"
        try:
            answer = self.write(mark) if path == WRITE else self.read(path.format(**words))
            wrong = self.judge(path, answer, end)
            said = "refused" if wrong else "done"
        except (OSError, http.client.HTTPException) as error:
            wrong = repr(error)
            self.reader.close()
        seconds = time.monotonic() - began
        if seconds > TIMEOUT:
            wrong = wrong or f"answered after {seconds:.1f} s"
        if not self.is_kept:
            self.reader.close()
        reused = self.reader.dialled == dialled
        self.carried = self.carried + 1 if reused else 1
        kind = f"kept (request {self.carried})" if self.is_kept else "new"
        self.tally.count(
            reused=reused,
            is_kept=self.is_kept,
            is_http2=self.is_http2,
            seconds=seconds,
            behind=behind,
            failed=Failed(at, shown, f"{kind} HTTP/2" if self.is_http2 else kind, wrong) if wrong else None,
            post=(said, mark) if path == WRITE else None,
        )

    def read(self, path):
        """Request a page. If the page is for authors only, send the author's cookie."""
        cookie = self.tally.plan["cookie"] if path == "/account" else path.partition("?")[2]
        return self.reader.request(path, **({"Cookie": cookie} if cookie else {}))

    def write(self, title):
        """Write a draft."""
        plan = self.tally.plan
        form = {"title": title, "body": "Written under load.", "status": "draft", "csrf_token": plan["token"]}
        return self.reader.request(
            WRITE,
            "POST",
            urlencode(form),
            Cookie=plan["cookie"],
            Referer=f"{plan['base_url']}{WRITE}",
            Content_Type="application/x-www-form-urlencoded",
        )

    def judge(self, path, answer, end):
        """Return what is wrong with an answer, or None."""
        if path == WRITE:
            saved = re.search(r"/author/posts/\d+$", answer.headers.get("location", ""))
            return None if answer.status == 303 and saved else f"status {answer.status}"
        if answer.status != 200:
            return f"status {answer.status}"
        if not answer.body.rstrip().endswith(end.encode()):
            return f"the body ends with {answer.body[-40:]!r}"
        # Request the stylesheet that this page names, as a browser does: after a release it may be another.
        if path == "/" and (named := re.search(rb'href="(/static/[^"]+\.css)"', answer.body)):
            self.style = named[1].decode()
        return None


class Tally:
    """The lanes, and the sum of their results."""

    def __init__(self, plan):
        self.plan, self.over, self.lock = plan, threading.Event(), threading.Lock()
        self.report = Report(posts={"done": [], "refused": [], "unanswered": []})
        self.began = time.monotonic()
        # The arguments of each Lane: number, interval, is_kept, is_http2. Every second pair uses HTTP/2.
        lanes = [(n, LANES / plan["rate"], n % 2 == 0, n % 4 > 1) for n in range(LANES)]
        paused = itertools.product(PAUSES, (False, True))
        lanes += [(n, pause, True, is_http2) for n, (pause, is_http2) in enumerate(paused, LANES)]
        self.lanes = [Lane(self, *lane) for lane in lanes]

    def count(self, *, reused, is_kept, is_http2, seconds, behind, failed, post):
        """Add the result of one request to the report."""
        report = self.report
        with self.lock:
            report.kept += is_kept
            report.reused += reused
            report.fresh += not is_kept
            report.http2 += is_http2
            report.slowest = max(report.slowest, seconds)
            if behind > report.behind:
                report.behind, report.behind_at = behind, time.time()
            if failed:
                report.failures.append(asdict(failed))
            if post:
                said, title = post
                report.written += 1
                report.posts[said].append(title)

    def tell(self, **without):
        """Wait for the answers to all requests that were sent so far, and print a report."""
        now = time.monotonic()
        for lane in self.lanes:
            while (since := lane.since) and since <= now:
                time.sleep(0.005)
        with self.lock:
            self.report.seconds = time.monotonic() - self.began
            self.report.cpu = time.process_time() / self.report.seconds
            print(json.dumps(asdict(self.report) | without), flush=True)


def main():
    """Read the plan from the first line of stdin. Print a report for each further line, and at EOF."""
    tally = Tally(json.loads(sys.stdin.readline()))
    for lane in tally.lanes:
        lane.start()
    for _ in sys.stdin:
        tally.tell(posts={})
    tally.over.set()
    for lane in tally.lanes:
        lane.join()
    tally.tell()


# --- The classes that the tests use -------------------------------------------------------------------------


@dataclass
class Step:
    """The results of the requests that were sent during one step of a test."""

    name: str
    seconds: float = 0
    requests: int = 0
    failures: list = field(default_factory=list)
    tolerated: list = field(default_factory=list)  # failures that the test permits during the step

    def __str__(self):
        rate = self.requests / self.seconds if self.seconds else 0  # 0 if the step was interrupted
        line = f"{self.requests:7} requests {rate:5.0f}/s {len(self.failures):4} failed   {self.name}"
        return f"{line}, {len(self.tolerated)} tolerated" if self.tolerated else line


class Load:
    """A context manager that runs the load and has its results.

    plan: the blog's address, the pages to request, and the number of requests per second ("rate"), which
        fixtures_load.py chooses.
    least: the smallest average rate with which the load counts as a measurement.
    titles: the titles of the load's posts in the database. The caller sets them after the load.
    """

    def __init__(self, plan, least):
        self.plan, self.least = plan, least
        self.steps, self.report, self.titles = [], Report(), []

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.say(json.dumps(self.plan))
        return self

    def __exit__(self, *exception):
        with self.process:
            self.process.stdin.close()
            self.hear()

    def say(self, line):
        """Send a line to the program."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self):
        """Read the program's next report."""
        self.report = Report(**json.loads(self.process.stdout.readline()))
        self.report.failures = [Failed(**failed) for failed in self.report.failures]

    def look(self):
        """Request a report of all requests up to now, and return it."""
        self.say("report")
        self.hear()
        return self.report

    @contextlib.contextmanager
    def step(self, name, tolerate=None):
        """Record the requests of one step of a test in a Step, which is complete when the `with` block ends.

        tolerate: the text of failures that are permitted during this step, such as "status 503".
        """
        before, step = self.look(), Step(name)
        self.steps.append(step)
        try:
            yield step
        finally:
            after = self.look()
            step.seconds = after.seconds - before.seconds
            step.requests = after.requests - before.requests
            failed = after.failures[len(before.failures) :]
            step.tolerated = [one for one in failed if one.what == tolerate]
            step.failures = [str(one) for one in failed if one.what != tolerate]

    @property
    def problems(self):
        """A sentence for each problem. Use it after the load has ended."""
        report, slow = self.report, []
        tolerated = {failed for step in self.steps for failed in step.tolerated}
        failures = [str(failed) for failed in report.failures if failed not in tolerated]
        # If a POST failed because the database stopped, it is unknown whether the database has the post.
        unknown = {failed.request.removeprefix("POST ") for failed in tolerated}
        posts = report.posts | {"refused": [t for t in report.posts["refused"] if t not in unknown]}
        if report.rate < self.least:
            slow = [f"no measurement: {report.rate:.1f} requests/s are fewer than {self.least}"]
        return [*slow, *failures, *wrong_posts(posts, self.titles)]


if __name__ == "__main__":
    main()
