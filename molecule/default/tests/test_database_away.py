"""The database is away for ten minutes: readers get pages all the time, and authors get a message."""

import time

import pytest
from articles import Article
from outside import wait_until

pytestmark = pytest.mark.drill

# How long it is away, and how often readers ask for each page meanwhile.
AWAY_SECONDS, PAUSE_SECONDS = 600, 5


def test_readers_get_pages_while_the_database_is_away(author, sql, docker, containers, fetch, healthy):
    article = Article(author(), sql)
    article.author.reader.close()  # nginx would close the idle connection before the next request
    [(picture,)] = sql("SELECT '/media/' || name FROM media ORDER BY id LIMIT 1")
    posts = [f"/posts/{slug}" for (slug,) in sql("SELECT slug FROM post WHERE published_at < now() LIMIT 5")]
    paths = ("/", "/feed.xml", "/archive/", picture, article.path, *posts)
    assert {path: fetch(path).status for path in paths} == dict.fromkeys(paths, 200)
    docker("stop %s", containers["db"]["Id"])
    try:
        began, rounds, wrong = time.monotonic(), 0, []
        while time.monotonic() - began < AWAY_SECONDS:
            rounds += 1
            answers = [(path, fetch(path).status) for path in paths]
            wrong += [(round(time.monotonic() - began), *one) for one in answers if one[1] != 200]
            if rounds % 20 == 1:
                # The form of before is still open in the author's browser.
                refused = article.author.send(article.place, **(article.form | {"version": "1"}))
                article.author.reader.close()
                assert refused.status == 503
            time.sleep(PAUSE_SECONDS)
    finally:
        docker("start %s", containers["db"]["Id"])
    back = time.monotonic()
    healthy()
    print(f"{rounds * len(paths)} pages in {AWAY_SECONDS} s")
    assert wrong == []
    wait_until(lambda: article.save(body="after that").status == 303, 30, "texts can be saved again")
    article.author.reader.close()
    print(f"texts could be saved again {time.monotonic() - back:.0f} s after the database was started")
