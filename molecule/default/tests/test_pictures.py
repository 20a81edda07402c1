"""Pictures are in the database. Their volume is a cache, which the blog fills again."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

NAME = "slipway-test.png"
# The blog as a former release, which has no command for pictures.
FORMER = """
COPY --chmod=0644 <<END /app/wsgi.py
from blog import create_app

app = create_app()
del app.cli.commands["media"]
END
"""


@pytest.fixture(scope="module")
def volume(docker):
    """The directory of the pictures on the host."""
    return docker("volume inspect media_volume --format '{{ .Mountpoint }}'").strip()


@pytest.fixture(scope="module")
def empty_the_volume(host, volume):
    """Remove all pictures from the volume."""
    return lambda: host.check_output("find %s -type f -name '*-*x*.*' -delete", volume)


@pytest.fixture
def boat(author, fetch, host, sql, volume):
    """A picture that an author uploads: its path for readers, its file on the host, and its bytes."""
    one = author()
    one.open("/author/media")
    path = json.loads(one.upload(NAME, Image.new("RGB", (30, 20), "navy")).text)["url"]
    file = f"{volume}/{path.removeprefix('/media/')}"
    yield SimpleNamespace(path=path, file=file, content=fetch(path).body)
    sql(f"DELETE FROM media WHERE original_name = '{NAME}'")
    host.check_output("rm --force %s", file)


def test_picture_is_served_after_the_volume_was_emptied(boat, fetch, empty_the_volume):
    empty_the_volume()
    answer = fetch(boat.path)
    assert answer.status == 200
    assert answer.body == boat.content
    assert answer.headers["content-type"] == "image/png"


def test_picture_is_in_the_volume_again_after_a_reader_asked_for_it(boat, fetch, host, empty_the_volume):
    empty_the_volume()
    assert not host.file(boat.file).exists
    fetch(boat.path)
    assert host.file(boat.file).content == boat.content
    assert host.file(boat.file).mode == 0o644


def test_export_has_the_pictures_while_the_volume_is_empty(boat, host, empty_the_volume):
    directory = host.check_output("mktemp --directory /var/lib/slipway/test-XXXXXX")
    try:
        empty_the_volume()
        host.check_output("slipway export %s", directory)
        exported = host.file(f"{directory}/media/{boat.path.removeprefix('/media/')}")
        assert exported.content == boat.content
    finally:
        host.check_output("rm --recursive %s", directory)


@pytest.fixture(scope="module")
def release(host, variant, ledger):
    """Release the blog's image, extended by some Dockerfile lines. Return what `slipway` prints."""
    before = [entry["id"] for entry in ledger() if entry["outcome"] == "in service"][-1]
    yield lambda lines="": host.check_output("slipway release %s", variant(lines))
    host.check_output("slipway rollback %s", before)


@pytest.fixture
def forget_content(sql, boat):
    """Remove the content of the picture from the database, as if a former release had stored the picture."""
    return lambda: sql(
        f"DELETE FROM media_content USING media WHERE id = media_id AND original_name = '{NAME}'"
    )


def test_release_stores_the_pictures_of_a_former_release_in_the_database(boat, release, sql, forget_content):
    query = "SELECT encode(content, 'hex') FROM media_content JOIN media ON id = media_id"
    forget_content()
    release()
    assert sql(f"{query} WHERE original_name = '{NAME}'") == [(boat.content.hex(),)]


def test_release_names_a_picture_that_is_neither_in_the_database_nor_in_the_volume(
    boat, release, host, forget_content
):
    forget_content()
    host.check_output("rm %s", boat.file)
    told = release()
    assert "Pictures without a file, which readers cannot see: " in told
    assert boat.path.removeprefix("/media/") in told


def test_former_release_is_released_without_a_word_about_pictures(release):
    assert "Pictures" not in release(FORMER)
