"""Faults strike one by one while an author writes: what was acknowledged stays, and the blog is back soon."""

import http.client
import threading
import time

import pytest
from outside import Prober, wait_until
from PIL import Image

pytestmark = pytest.mark.drill

NAME = "slipway-test-faults"
# How many seconds the blog may be away after each fault: until a page comes from the blog and the database.
LIMITS = {
    "nginx is killed": 3,
    "the blog is killed": 3,
    "the database is killed": 10,
    "the engine restarts": 10,
    "the database is replaced": 10,
    "nginx hangs": 30,
    "the blog hangs": 30,
    "the database hangs": 30,
    "the host reboots": 30,
    "the host loses power": 30,
}

# After this time without a failure, the blog is back.
STEADY_SECONDS = 3


class Pen(threading.Thread):
    """An author who writes numbered posts and pictures, one after another.

    Attributes:
        posts, pictures: the names of those that the blog acknowledged.
        refused: how many it did not acknowledge.
    """

    def __init__(self, author):
        super().__init__(daemon=True)
        self.author, self.posts, self.pictures, self.refused = author, [], [], 0
        self.over = threading.Event()

    def run(self):
        number = 0
        while not self.over.is_set():
            number += 1
            name = f"{NAME}-{number}"
            try:
                self.write(name, number)
            except (OSError, http.client.HTTPException):
                self.refused += 1
                self.over.wait(0.1)
            finally:
                self.author.reader.close()

    def write(self, name, number):
        """Write a post, and upload a picture."""
        fields = {
            "title": name,
            "slug": name,
            "tags": "",
            "body": "Text.",
            "status": "published",
            "version": "0",
        }
        status = self.author.send("/author/posts/new", **fields).status
        self.posts += [name] if status == 303 else []
        picture = Image.new("RGB", (30, 20), (number % 256, number // 256 % 256, 7))
        answer = self.author.upload(f"{name}.png", picture)
        self.pictures += [f"{name}.png"] if answer.status in (200, 201) else []
        self.refused += (status != 303) + (answer.status not in (200, 201))

    def __enter__(self):
        self.author.open("/author/posts/new")
        self.start()
        wait_until(lambda: len(self.pictures) > 3, 20, "texts and pictures are written")
        return self

    def __exit__(self, *exception):
        self.over.set()
        self.join()


@pytest.fixture
def probes(reader):
    """Readers who ask for a page of the blog and the database all the time, and give up after two seconds."""

    def impatient():
        one = reader()
        one.connection.timeout = 2
        return one

    return Prober(impatient)


@pytest.fixture
def strikes(host, machine, inspect, name_of, freeze, larger_database, probes):
    """Functions that each make a fault happen, and return when it happened."""

    def now(command, *arguments):
        began = time.monotonic()
        host.check_output(command, *arguments)
        return began

    def kill(service):
        return now("kill -KILL %s", str(inspect()[name_of(service)]["State"]["Pid"]))

    def replace():
        """Return when the first page failed: the playbook works for some time before the replacement."""
        began = time.monotonic()
        done = larger_database()
        assert done.status == 0, done.output
        return min((at for at in probes.failed_at if at > began), default=time.monotonic())

    def reboot():
        machine.docker("stop", machine.container)
        began = time.monotonic()
        machine.docker("start", machine.container)
        return began

    def lose_power():
        began = time.monotonic()
        machine.lose_power()
        return began

    services = {"nginx": "nginx", "the blog": "flask_blog", "the database": "db"}
    return {
        **{f"{name} is killed": lambda service=service: kill(service) for name, service in services.items()},
        **{f"{name} hangs": lambda service=service: freeze(service) for name, service in services.items()},
        "the engine restarts": lambda: now("systemctl restart docker"),
        "the database is replaced": replace,
        "the host reboots": reboot,
        "the host loses power": lose_power,
    }


def away_since(began, probes):
    """Return for how many seconds pages failed; none must fail for a while then."""

    def failed():
        return max([began, *probes.failed_at])

    wait_until(lambda: time.monotonic() - failed() > STEADY_SECONDS, 120, "the blog is back")
    return failed() - began


def test_nothing_acknowledged_is_lost_and_the_blog_is_back_in_time(
    strikes, probes, author, sql, healthy, host
):
    pen, seconds, lost = Pen(author()), {}, {}
    try:
        with pen, probes:
            for fault in LIMITS:
                seconds[fault] = away_since(strikes[fault](), probes)
                wait_until(lambda: host.run("docker version").rc == 0, 60, "the engine is back")
                healthy(120)
                before = len(pen.pictures)
                wait_until(lambda before=before: len(pen.pictures) > before + 2, 60, "writing goes on")
                acknowledged = {*pen.posts, *pen.pictures}
                posts = {title for (title,) in sql(f"SELECT title FROM post WHERE title LIKE '{NAME}-%'")}
                pictures = {
                    name
                    for (name,) in sql(
                        "SELECT original_name FROM media JOIN media_content ON media_id = media.id "
                        f"WHERE original_name LIKE '{NAME}-%'"
                    )
                }
                lost[fault] = sorted(acknowledged - posts - pictures)
        for fault, taken in seconds.items():
            print(f"{fault}: back after {taken:.1f} s (limit {LIMITS[fault]} s), lost {lost[fault]}")
        print(f"{len(pen.posts)} posts and {len(pen.pictures)} pictures acknowledged, {pen.refused} not")
    finally:
        sql(f"DELETE FROM post WHERE title LIKE '{NAME}-%'")
        sql(f"DELETE FROM media WHERE original_name LIKE '{NAME}-%'")
    assert {fault: names for fault, names in lost.items() if names} == {}
    assert {fault: taken for fault, taken in seconds.items() if taken > LIMITS[fault]} == {}
