"""nginx's log under a flood from one client: real requests to nginx with the rendered configuration."""

import base64
import json
import re
from dataclasses import dataclass

import pytest
import yaml
from project import ROOT

IMAGE = ROOT / "roles/images/files/nginx"
DAY_S = 86_400
# The longest line of a request, as the engine stores it. docs/security.md has this number too.
LINE_BYTES = 1_200
# The lines of one client per second: pages (stack_rate_pages in roles/stack/defaults/main.yml), refusals, and
# one in 4,096 of 20,000 other requests.
LINES_PER_S = 30 + 1 + 5
# Make a certificate, for the cases with TLS, and give the container the slots' addresses, so that connections
# to the slots are refused. Send each line of the standard input, which is base64, over a new connection.
SCRIPT = r"""
mkdir -p /etc/slipway/tls
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj /CN=blog -days 1 \
  -keyout /tmp/key -out /tmp/certificate 2>/dev/null
cat /tmp/key /tmp/certificate >/etc/slipway/tls/blog.pem
ip link set lo up
ip address add 10.83.2.11/32 dev lo
ip address add 10.83.2.12/32 dev lo
nginx -g 'daemon off; worker_processes 1;' >/tmp/log 2>/tmp/errors &
until (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null; do
  kill -0 $! 2>/dev/null || { cat /tmp/errors >&2; exit 1; }
done
begun=$SECONDS
while read -r sent; do
  exec 3<>/dev/tcp/127.0.0.1/80
  base64 -d <<<"$sent" >&3
  [ "$1" = leave ] || cat <&3 >>/tmp/answers || true
  exec 3>&-
done
took=$((SECONDS - begun + 1))
kill -QUIT $!
wait
printf '%s\n' "$took" "$(base64 -w0 /tmp/log)" "$(base64 -w0 /tmp/errors)"
grep -ao 'HTTP/1.1 [0-9]*' /tmp/answers | cut -d' ' -f2 | sort | uniq -c || true
"""


@dataclass(frozen=True)
class Result:
    """What nginx logged and answered, and how many seconds the requests took."""

    took: int
    log: list[bytes]
    errors: str
    statuses: dict[str, int]


@pytest.fixture(scope="session")
def send(rendered_cases, check):
    """A function that sends texts, each over a new connection, and returns a Result.

    If `leave` is true, it does not wait for answers. The blog does not run, so a page has the status 503.
    """

    def send(*texts, case="plain_http", leave=False):
        compose = yaml.safe_load((rendered_cases / case / "compose.yml").read_text())
        done = check(
            "--cap-add=NET_ADMIN",
            *(f"--tmpfs={mount.partition(':')[0]}" for mount in compose["services"]["nginx"]["tmpfs"]),
            f"--volume={IMAGE}/nginx.conf:/etc/nginx/nginx.conf:ro",
            f"--volume={IMAGE}/errors:/usr/share/nginx/errors:ro",
            f"--volume={rendered_cases}/{case}/blog.conf:/etc/nginx/conf.d/blog.conf:ro",
            command=["bash", "-euc", SCRIPT, "bash", "leave" if leave else "wait"],
            stdin="".join(f"{base64.b64encode(text).decode()}\n" for text in texts),
        )
        assert done.returncode == 0, done.stderr
        took, log, errors, *statuses = done.stdout.splitlines()
        return Result(
            int(took),
            base64.b64decode(log).splitlines(),
            base64.b64decode(errors).decode(),
            {status: int(count) for count, status in map(str.split, statuses)},
        )

    return send


def request(path=b"/nosuch", method=b"GET", host=b"blog.example.org", **headers):
    """Return an HTTP request. Write a header like User_Agent=b"x"."""
    lines = [b"%s %s HTTP/1.1" % (method, path), b"Host: " + host]
    lines += [name.replace("_", "-").encode() + b": " + value for name, value in headers.items()]
    return b"\r\n".join([*lines, b"", b""])


def in_one_connection(count, **arguments):
    """Return requests that arrive together, the last of which ends the connection."""
    return (count - 1) * request(**arguments) + request(Connection=b"close", **arguments)


def stored_bytes(line):
    """Return the size of a line as the engine stores it: JSON, in which <, > and & are escaped too."""
    text = re.sub("[<>&\ufffd]", r"\\u003c", json.dumps(line.decode(errors="replace"), ensure_ascii=False))
    return len(f'{{"log":{text}\\n,"stream":"stdout","time":"2026-11-29T10:00:00.123456789Z"}}\n'.encode())


# Each flood, and the lines that it may add: at once, and per second (the burst and the rate in blog.conf.j2).
FLOODS = {
    "pages": (5 * [in_one_connection(900)], {}, 121, 30),
    "missing pictures": (
        5 * [in_one_connection(900, path=b"/media/0123456789abcdef01234567-1x1.png")],
        {},
        121,
        30,
    ),
    "refused methods": (5 * [in_one_connection(900, method=b"BREW")], {}, 601, 1),
    "unknown names": (1200 * [request(host=b"evil")], {}, 601, 1),
    "files": (5 * [in_one_connection(900, path=b"/errors/errors.css")], {}, 0, 0),
    "unfinished requests": (900 * [b"GET / HTTP/1.1\r\nX"], {"leave": True}, 0, 0),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_flood_of_one_client_adds_few_lines_to_the_log(send, flood):
    texts, how, at_once, per_second = FLOODS[flood]
    result = send(*texts, **how)
    # nginx logs one in 4,096 of the other requests.
    assert len(result.log) <= at_once + per_second * result.took + 8


def test_requests_within_the_limits_are_all_logged(send):
    result = send(in_one_connection(100))
    assert result.statuses == {"503": 100}
    assert len(result.log) == 100


@pytest.mark.parametrize(
    ("path", "agent"),
    [
        (b"", 7800 * b"\x01"),
        (7000 * b"<", 7000 * b"&"),
        (7000 * b"\xff", 7000 * b"\xff"),
        (7000 * b'"', 7000 * b"\\"),
        (240 * b"a" + 6000 * b"\\", 160 * b"a" + 6000 * b"\x01"),
    ],
    ids=["control", "escaped by the engine", "not UTF-8", "quotes", "longest"],
)
def test_line_of_a_request_is_short_whatever_the_client_sends(send, path, agent):
    [line] = send(request(path=b"/" + path, User_Agent=agent, Connection=b"close")).log
    assert stored_bytes(line) <= LINE_BYTES
    json.loads(line.decode(errors="replace"))


def test_usual_path_and_user_agent_are_logged_whole(send):
    path, agent = (
        b"/tags/a-tag/%C3%A4/b",
        b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    )
    [line] = send(request(path=path + b"?q=secret", User_Agent=agent, Connection=b"close")).log
    found = json.loads(line)
    assert {name: found[name] for name in ("host", "method", "path", "status", "user_agent")} == {
        "host": "blog.example.org",
        "method": "GET",
        "path": path.decode(),
        "status": 503,
        "user_agent": agent.decode(),
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": b"/", "method": b"POST", "Content_Length": b"99999999"},
        {"path": b"/media/0123456789abcdef01234567-1x1.png"},
        {"path": b"/nosuch"},
    ],
    ids=["body too large", "no such picture", "blog is down"],
)
def test_request_that_fails_has_one_line_in_the_log(send, arguments):
    result = send(request(Connection=b"close", **arguments))
    assert (len(result.log), result.errors) == (1, "")


def test_log_of_nginx_keeps_a_day_of_a_flood_of_one_client(rendered_cases):
    compose = yaml.safe_load((rendered_cases / "defaults/compose.yml").read_text())
    options = compose["services"]["nginx"]["logging"]["options"]
    size, files = int(options["max-size"].removesuffix("m")) * 1_000_000, int(options["max-file"])
    # The engine removes the oldest file when the newest is full.
    assert size * (files - 1) >= LINES_PER_S * LINE_BYTES * DAY_S


def test_requests_to_the_plain_port_of_a_blog_with_tls_are_limited(send):
    statuses = send(in_one_connection(200, host=b"old.example.org"), case="everything_else").statuses
    assert statuses["429"] > 100
    assert statuses["308"] >= 7 * 4
