"""The disk of the database is full: readers get pages, authors get a message, and what was saved stays."""

import time
from secrets import token_bytes, token_hex

import pytest
from articles import Article
from outside import wait_until
from PIL import Image

pytestmark = pytest.mark.drill

DATA = "/var/lib/docker/volumes/db_volume/_data"
PLACE = "/run/slipway-test-data"
FILLER = f"{DATA}/filler"
# What the disk has besides the database; and how long it stays full: longer than archive_timeout, after which
# Postgres needs another segment of its log.
FREE_MB, FULL_SECONDS = 48, 45
ANSWERS = {303: "saved", 201: "picture saved", 507: "refused", 503: "the database is away"}
PICTURE = "slipway-test-full-disk"


@pytest.fixture
def small_disk(host, docker, containers, healthy):
    """Move the database to a small disk in memory, and afterwards back."""
    database = containers["db"]["Id"]

    def stopped(script):
        docker("stop %s", database)
        host.check_output(script)
        docker("start %s", database)
        healthy()

    used = int(host.check_output("du --summarize --block-size=1M %s", DATA).split()[0])
    stopped(f"""
        set -e
        mkdir {PLACE} && mount -t tmpfs -o size={used + FREE_MB}m tmpfs {PLACE}
        cp --archive {DATA}/. {PLACE} && mount --bind {PLACE} {DATA}
    """)
    yield
    host.run("rm --force %s", FILLER)
    stopped(f"""
        set -e
        umount {DATA} && find {DATA} -mindepth 1 -delete && cp --archive {PLACE}/. {DATA}
        umount {PLACE} && rmdir {PLACE}
    """)


def upload(article, number):
    """Upload a picture that cannot be compressed, and return the status of the answer."""
    picture = Image.frombytes("RGB", (200, 200), token_bytes(120_000))
    return article.author.upload(f"{PICTURE}-{number}.png", picture).status


@pytest.mark.usefixtures("small_disk")
def test_full_disk_refuses_changes_serves_pages_and_loses_nothing(author, sql, host, fetch, healthy):
    article = Article(author(), sql)
    assert article.save(body="number 0").status == 303
    assert upload(article, 0) == 201
    article.author.reader.close()  # nginx would close the idle connection before the next request
    host.run("dd if=/dev/zero of=%s bs=1M", FILLER)
    saved, pictures, number, answers, pages = 0, {0}, 0, set(), set()
    began = time.monotonic()
    while time.monotonic() - began < FULL_SECONDS or 507 not in answers:
        assert time.monotonic() - began < 2 * FULL_SECONDS, f"the disk was never full: {answers}"
        number += 1
        # Random text, because Postgres compresses other text.
        answer = article.save(body=f"number {number} {token_hex(200_000)}")
        answers.add(answer.status)
        if answer.status == 303:
            saved = number
        elif answer.status == 507:
            assert "Its disk is full, and nothing was saved." in answer.text
        status = upload(article, number)
        answers.add(status)
        pictures |= {number} if status == 201 else set()
        article.author.reader.close()
        pages |= {fetch(path).status for path in ("/", "/feed.xml", article.path)}
    told = ", ".join(ANSWERS.get(status, str(status)) for status in sorted(answers))
    print(f"{number} texts sent, the last saved is number {saved}; {len(pictures)} pictures; answers: {told}")
    assert answers <= ANSWERS.keys()
    assert pages == {200}
    host.check_output("rm %s", FILLER)
    freed = time.monotonic()
    healthy(90)
    [(text,)] = sql(f"SELECT left(body, 20) FROM post WHERE slug = '{article.slug}'")
    # A text whose sender got no answer, or 503, may have been saved.
    assert int(text.split()[1]) >= saved
    kept = sql(
        "SELECT original_name, name FROM media JOIN media_content ON media_id = media.id "
        f"WHERE original_name LIKE '{PICTURE}-%'"
    )
    assert {f"{PICTURE}-{number}.png" for number in pictures} <= {name for name, _ in kept}
    assert {fetch(f"/media/{name}").status for _, name in kept} == {200}
    sql(f"DELETE FROM media WHERE original_name LIKE '{PICTURE}-%'")
    article.author.reader.close()
    wait_until(lambda: article.save(body="after that").status == 303, 90, "texts can be saved again")
    print(f"texts could be saved again {time.monotonic() - freed:.0f} s after the disk had space")
