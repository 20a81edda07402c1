"""Hooks and the webhook get the data of a release. They cannot harm a release that is in service."""

import json
import re
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from outside import wait_until

PLACE = "/run/slipway-test"
# A hook that saves its environment. Then the hook fails, hangs or passes: the file in PLACE with the name of
# the hook's argument says which.
HOOK = f"""
env > {PLACE}/$1.told
case "$(cat {PLACE}/$1)" in
    fail) echo the moon is full; exit 3 ;;
    hang) sleep infinity & echo $$ $! > {PLACE}/processes; wait ;;
esac
"""
TIMEOUT = 3
TOKEN = f"a token for tests {secrets.token_hex(8)}"


@pytest.fixture(scope="module")
def receiver(machine):
    """A server that receives the webhook's requests. Set `answer` to a status, or to "slowly"."""
    state = SimpleNamespace(got=[], answer=200, hung_up=None)
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.got.append((self.path, self.headers["Authorization"], json.loads(body)))
            if state.answer == "slowly":
                self.drip()
            else:
                self.send_response(state.answer)
                self.end_headers()

        def drip(self):
            """Send header lines until the client closes the connection."""
            began = time.monotonic()
            self.close_connection = True
            try:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while not over.wait(0.2):
                    self.wfile.write(b"Patience: a virtue\r\n")
            except OSError:
                state.hung_up = time.monotonic() - began

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer((machine.gateways[0], 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    state.url = f"http://{machine.gateways[0]}:{server.server_port}/hook"
    yield state
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def set_hooks(host):
    """Set whether hooks will pass, fail or hang from now on, as in set_hooks(before="fail")."""
    return lambda **moments: [
        host.check_output("echo %s > %s/%s", how, PLACE, moment) for moment, how in moments.items()
    ]


@pytest.fixture(scope="module")
def image(variant):
    """The image that these tests release."""
    return variant()


@pytest.fixture(scope="module")
def refused_release(host, deploy, receiver, set_hooks, image, inspect):
    """Configure the hooks, and try a release whose hook `before` fails. Yield the Outcome of the play."""
    files = {"/opt/slipway/release.json": f"{PLACE}/release.json"}
    host.check_output("mkdir %s && echo %s > %s/hook", PLACE, HOOK, PLACE)
    for file, kept in files.items():
        host.check_output("cp --preserve %s %s", file, kept)
    set_hooks(before="fail", after="pass", failed="pass")
    ids = {service.partition("_")[0]: c["Image"] for service, c in inspect().items()}
    yield deploy(
        "site.yml",
        *("--tags", "secrets,release"),
        "--extra-vars",
        json.dumps(
            {
                "images_ids": {"nginx": ids["nginx"], "db": ids["db"], "flask_blog": image},
                "blog_version": "3.0",
                "release_hooks": {
                    moment: f"sh {PLACE}/hook {moment}" for moment in ("before", "after", "failed")
                },
                "release_hook_timeout": TIMEOUT,
                "release_webhook_url": receiver.url,
                "secrets_vault": {"webhook_token": TOKEN},
            }
        ),
    )
    for file, kept in files.items():
        host.check_output("mv %s %s", kept, file)
    host.check_output("rm --recursive %s /etc/slipway/secrets/webhook_token", PLACE)


@pytest.fixture
def hook_variables(host):
    """Return the variables that a hook, such as `before`, got last, without their prefix SLIPWAY_."""

    def hook_variables(moment):
        lines = host.check_output("cat %s/%s.told && rm %s/%s.told", PLACE, moment, PLACE, moment)
        return dict(re.findall(r"^SLIPWAY_(\w+)=(.*)$", lines, re.MULTILINE))

    return hook_variables


def expected_variables(entry, **more):
    """Return the variables that a hook must get for an entry of the ledger."""
    same = {key.upper(): entry[key] for key in ("image", "version", "revision", "by", "outcome")}
    return same | {"RELEASE": entry["id"], "REASON": "", "INSTEAD_OF": ""} | more


@pytest.fixture(autouse=True)
def webhook_requests(receiver, refused_release):
    """Return the webhook's requests during a test. The first test also gets those of `refused_release`."""
    yield lambda: receiver.got
    receiver.got.clear()
    receiver.answer = 200


def test_failed_before_hook_refuses_the_release(
    refused_release, hook_variables, webhook_requests, ledger, image, inspect, site
):
    entry = ledger()[-1]
    assert entry["image"] == image
    assert entry["outcome"] == "failed"
    assert entry["version"] == "3.0"
    assert image not in [c["Image"] for c in inspect().values()]
    assert refused_release.status == 2
    for words in (
        f"The hook `before` (sh {PLACE}/hook before) failed (3):",
        "the moon is full",
        "serves as before",
    ):
        assert words in " ".join(refused_release.output.split())
    assert hook_variables("before") == expected_variables(entry, OUTCOME="under way")
    reason = entry["reason"].splitlines()[0]
    assert hook_variables("failed") == expected_variables(entry, REASON=reason)
    assert webhook_requests() == [("/hook", f"Bearer {TOKEN}", {"host": site, "release": entry})]
    assert TOKEN not in refused_release.output


def test_hanging_hook_is_killed_after_its_timeout(set_hooks, host, hook_variables, ledger, image, receiver):
    set_hooks(before="hang")
    receiver.answer = 500
    done = host.run("slipway release %s", image)
    output = done.stdout + done.stderr
    assert done.rc == 1, output
    assert f"did not end within {TIMEOUT} s" in output, output
    assert "The webhook request failed: HTTP Error 500" in output
    processes = host.check_output("cat %s/processes", PLACE).split()
    assert len(processes) == 2, "the hook did not hang"
    wait_until(
        lambda: host.run("kill -0 %s || kill -0 %s", *processes).rc != 0, 10, "the hook's processes end"
    )
    assert hook_variables("failed")["RELEASE"] == ledger()[-1]["id"]


def test_failed_after_hook_leaves_the_release_in_service(
    set_hooks, host, hook_variables, webhook_requests, ledger, image, status, site
):
    set_hooks(before="pass", after="fail")
    output = host.check_output("slipway release --version=3.1 %s", image)
    entry = ledger()[-1]
    assert "The hook `after`" in output
    assert "the moon is full" in output
    assert "This does not affect the release." in output
    now = status()
    assert now["release"] == entry
    assert now["image"] == image
    assert now["drift"] == []
    assert hook_variables("before") == expected_variables(entry, OUTCOME="under way")
    assert hook_variables("after") == expected_variables(entry, OUTCOME="in service")
    # The webhook is called after the switch, but before the last stages.
    late = {"drain", "tidy", "pictures"}
    by_then = {stage: seconds for stage, seconds in entry["stages"].items() if stage not in late}
    assert webhook_requests() == [
        ("/hook", f"Bearer {TOKEN}", {"host": site, "release": entry | {"stages": by_then}})
    ]
    assert late | {"switch"} < entry["stages"].keys()


def test_slow_webhook_is_abandoned_after_five_seconds(
    set_hooks, host, hook_variables, webhook_requests, ledger, receiver
):
    set_hooks(after="pass")
    receiver.answer, instead_of = "slowly", ledger()[-1]["id"]
    output = host.check_output("slipway rollback")
    entry = ledger()[-1]
    assert "The webhook did not answer within 5 s. This does not affect the release." in output
    wait_until(lambda: receiver.hung_up, 10, "slipway has closed the connection")
    # slipway closes the connection when it ends. Subtract the time of its last stages.
    last = sum(entry["stages"][stage] for stage in ("drain", "tidy", "pictures"))
    assert 4 < receiver.hung_up - last < 9
    assert hook_variables("after") == expected_variables(entry, OUTCOME="in service", INSTEAD_OF=instead_of)
    assert len(webhook_requests()) == 1


def test_history_shows_how_each_release_ended(host, ledger):
    """The earlier tests left two failed releases, a blocked one, and the rollback that is in service."""
    *_, refused_release, hung, blocked, serves = ledger()
    lines = host.check_output("slipway history --lines 4").splitlines()
    shown = [
        rf"{refused_release['id']}  3\.0 +failed +{re.escape(refused_release['by'])}",
        r"    The hook `before` \(.*\) failed \(3\): … the moon is full",
        rf"{hung['id']}  - +failed +ops",
        rf"    The hook `before` \(.*\) did not end within {TIMEOUT} s and was killed\.",
        rf"{blocked['id']}  3\.1 +blocked since {blocked['blocked']['since']} +ops",
        rf"{serves['id']}  {re.escape(serves['version'] or '-')} +serves +ops \(instead of {blocked['id']}\)",
    ]
    assert [bool(re.fullmatch(form, line)) for form, line in zip(shown, lines, strict=True)] == [True] * 6, (
        lines
    )
    assert json.loads(host.check_output("slipway history --json -n 2")) == [blocked, serves]
