"""The database ends connections, or restarts, under load: no request fails, and pages only take longer."""

import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from .conftest import Cluster, Server, cluster

PAGES = ("/", "/posts/moving-a-boat", "/tags/harbour", "/search?q=rope", "/none")
TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'slipway blog'"
)


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """Run a server for this module only, because the tests stop it."""
    with cluster() as made:
        yield made


@pytest.fixture(scope="module")
def server(own: Cluster, tmp_path_factory) -> Server:
    return own.server(tmp_path_factory.mktemp("passwords"))


@pytest.fixture(scope="module")
def migrated(server: Server) -> Iterator[str]:
    with server.migrated("slipway_restart") as name:
        yield name


class Readers:
    """Threads that request pages continuously. statuses: how often each status came."""

    def __init__(self, url: str, cookie: str):
        self.url, self.cookie, self.statuses, self.slowest = url, cookie, Counter(), 0.0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(number,)) for number in range(8)]

    def _read(self, number: int) -> None:
        while not self._over.is_set():
            for path in PAGES:
                headers = {"Cookie": self.cookie} if number % 2 else {}
                began = time.monotonic()
                self.statuses[self._status(path, headers)] += 1
                self.slowest = max(self.slowest, time.monotonic() - began)

    def _status(self, path: str, headers: dict[str, str]) -> int | str:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, headers=headers), timeout=30
            ) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError as error:
            return repr(error)

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def readers(live, signed_in) -> Readers:
    """Readers, half of whom have a session."""
    client = signed_in()
    [cookie] = client._cookies.values()
    return Readers(live.url, f"{cookie.key}={cookie.value}")


def test_readers_get_every_page_although_connections_are_lost(readers, server, migrated):
    ended = 0
    with readers, server.connect(migrated) as connection:
        for _ in range(5):
            time.sleep(1)  # a repeated request must not lose its connection again
            ended += connection.execute(text(TERMINATE)).scalar_one()
    assert ended > 5, "the readers must have had connections"
    assert readers.statuses.keys() == {200, 404}


def test_readers_wait_for_a_database_that_restarts(readers, own):
    with readers:
        time.sleep(0.5)
        own.stop()
        time.sleep(1)
        own.start()
        time.sleep(0.5)
    assert readers.statuses.keys() == {200, 404}
    assert readers.slowest > 1, "the restart must take place during the requests"
    assert readers.slowest < 8
