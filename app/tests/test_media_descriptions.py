"""The descriptions of pictures: who may change them, and what a second upload does."""

import pytest
from sqlalchemy import select, update

from blog.models import Media, db

from .pictures import picture, upload

BOAT = picture(colour="maroon")


@pytest.fixture
def boat(app, ada):
    """Let Ada upload a picture with the description "A boat", and return its path below /author/media."""
    upload(ada, BOAT, alt="A boat")
    with app.app_context():
        return f"/author/media/{db.session.scalar(select(Media.id))}"


@pytest.fixture
def alt(app):
    """Return a function that returns the description of the only picture."""

    def alt() -> str:
        with app.app_context():
            return db.session.scalars(select(Media.alt)).one()

    return alt


@pytest.mark.parametrize("is_admin", [False, True])
def test_uploader_and_administrators_change_a_description(app, ada, admin, boat, alt, is_admin):
    assert (admin if is_admin else ada).send(boat, alt="A ship").status_code == 303
    assert alt() == "A ship"


def test_other_author_reads_a_description_but_cannot_change_it(signed_in, boat, alt):
    eve = signed_in("Eve")
    page = eve.get("/author/media").text
    assert f'action="{boat}"' not in page
    assert '<p class="description">A boat</p>' in page
    assert eve.send(boat, alt="Mine").status_code == 403
    assert alt() == "A boat"


def test_only_administrators_describe_a_picture_without_uploader(app, ada, admin, boat, alt):
    with app.app_context():
        db.session.execute(update(Media).values(author_id=None))
        db.session.commit()
    assert ada.send(boat, alt="A ship").status_code == 403
    assert admin.send(boat, alt="A ship").status_code == 303


def test_second_upload_changes_the_description(ada, boat, alt):
    assert "![A ship](" in upload(ada, BOAT, alt="A ship").json["markdown"]
    assert alt() == "A ship"


def test_second_upload_without_description_keeps_the_old_one(ada, boat, alt):
    assert "![A boat](" in upload(ada, BOAT).json["markdown"]
    assert alt() == "A boat"


def test_upload_of_a_picture_of_somebody_else_keeps_its_description_and_says_so(signed_in, boat, alt):
    eve = signed_in("Eve")
    response = upload(eve, BOAT, json=False, alt="Mine")
    assert "You may not change its description" in eve.get(response.location).text
    assert alt() == "A boat"
    assert "![Mine](" in upload(eve, BOAT, alt="Mine").json["markdown"], "the line for Eve's post has hers"


@pytest.mark.parametrize(
    ("description", "words"),
    [("", "The blog has this picture already. Copy"), ("A ship", "The description is changed.")],
)
def test_second_upload_shows_where_the_picture_is(ada, boat, description, words):
    upload(ada, picture(colour="lime"), alt="A newer picture")
    response = upload(ada, BOAT, json=False, alt=description)
    page = ada.get(response.location).text
    assert words in page
    assert "A newer picture" not in page, "the picture is the first one in the list"
