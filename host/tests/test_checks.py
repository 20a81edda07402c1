"""The wait for a slot to become ready, with a real HTTP server as the slot."""

import http.server
import json
import threading
import types
from pathlib import Path

import pytest
from fakes import NEW

from slipway.checks import wait_until_ready
from slipway.host import Host
from slipway.release import release
from slipway.shell import CommandFailure, Failure


class Blue(Host):
    """A host whose blue slot listens on a local port."""

    def __init__(self, settings, state, port):
        super().__init__(settings)
        self.state, self.port = state, port

    def get(self, address, path, host, timeout=5, tls=False, cookie=""):
        assert address == "10.0.0.11:8000"
        return super().get(f"127.0.0.1:{self.port}", path, host, timeout)

    def run(self, *command, **options):
        if command[:2] == ("docker", "ps"):
            return "id-blue\n" if self.state.container else ""
        return self.state.memory if command[1] == "events" else json.dumps([self.state.container])


@pytest.fixture
def blue(stack):
    """The blue slot as a real HTTP server: it answers with `statuses` in turn, and repeats the last."""
    state = types.SimpleNamespace(statuses=[200], requests=[], memory="")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests.append((self.path, self.headers["Host"]))
            status = state.statuses.pop(0) if len(state.statuses) > 1 else state.statuses[0]
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stack.host = Blue(stack.host.settings, state, server.server_port)
    created = {"Id": "id-blue", "Created": "2026-01-01T00:00:00Z"}
    state.container = created | {"State": {"Status": "running"}, "RestartCount": 0}
    state.stop = lambda: (server.shutdown(), server.server_close())
    yield state
    state.stop()
    thread.join()


def test_wait_ends_at_once_if_the_slot_is_ready(stack, blue):
    wait_until_ready(stack, "blue")
    assert blue.requests == [("/readyz", "blog.example.org")]


def test_wait_ends_when_the_slot_becomes_ready(stack, blue):
    stack.config["ready_timeout"] = 10
    blue.statuses = [503, 503, 200]
    wait_until_ready(stack, "blue")
    assert len(blue.requests) == 3


def test_slot_that_never_becomes_ready_fails_with_its_status_and_the_timeout_to_raise(stack, blue):
    blue.statuses = [503]
    with pytest.raises(Failure, match=r"within 0\.5 s: /readyz answered 503.*release_ready_timeout"):
        wait_until_ready(stack, "blue")


def test_slot_that_never_answers_fails_with_the_connection_error(stack, blue):
    blue.stop()
    with pytest.raises(Failure, match=r"did not answer \(.*refused\).*release_ready_timeout"):
        wait_until_ready(stack, "blue")


@pytest.mark.parametrize("change", [None, {"State": {"Status": "exited"}}, {"RestartCount": 1}])
@pytest.mark.parametrize("memory", ["", '{"name": "slipway-flask_blog_blue-1"}\n'])
def test_stopped_container_fails_at_once(stack, blue, change, memory):
    stack.config["ready_timeout"] = 60
    blue.statuses, blue.container = [503], change and blue.container | change
    blue.memory = memory
    with pytest.raises(Failure, match="stopped instead of becoming ready") as failure:
        wait_until_ready(stack, "blue")
    assert ("stack_flask_blog_memory_mb" in str(failure.value)) == bool(memory and change)
    assert len(blue.requests) == 1


def test_if_not_ready_is_called_once_for_a_slot_that_is_not_ready(stack, blue):
    stack.config["ready_timeout"] = 10
    blue.statuses, asked = [503, 503, 200], []
    wait_until_ready(stack, "blue", if_not_ready=lambda: asked.append(len(blue.requests)))
    assert asked == [1]


def test_release_survives_an_engine_that_briefly_cannot_start_a_process(stack, engine):
    engine.sleep = lambda seconds: engine.wrong.pop("nginx", None)
    engine.wrong["nginx"] = CommandFailure(["docker"], 126, "OCI runtime exec failed")
    assert release(stack, NEW, "", "", "anna")


@pytest.mark.parametrize("directory", ["state", "engine"])
def test_release_is_refused_if_a_disk_is_full_and_nothing_changes(stack, engine, directory):
    engine.full = stack.state if directory == "state" else Path("/var/lib/docker")
    before = dict(engine.images)
    with pytest.raises(Failure, match=rf"{engine.full} has 0 MB of free space, but a release needs 64 MB"):
        release(stack, NEW, "", "", "anna")
    assert engine.images == before
