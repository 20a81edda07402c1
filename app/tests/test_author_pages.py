import pytest
from sqlalchemy import update

from blog.author import pages
from blog.models import Page, db

from .conftest import count
from .desk import differences, fields, value


def test_administrator_creates_changes_and_deletes_a_page(app, admin, client):
    assert "There are no pages yet." in admin.get("/author/pages").text
    assert admin.get("/author/pages/new").status_code == 200
    made = admin.send("/author/pages/new", title="About us", body="We *write*.", position="3")
    assert made.status_code == 303
    assert "We <em>write</em>." in client.get("/about-us").text
    page = admin.get(made.location)
    assert (
        admin.send(made.location, **fields(page, title="About", slug="about", position="7")).status_code
        == 303
    )
    assert client.get("/about").status_code == 200
    refused = admin.send(made.location, **fields(page, body="Mine."))
    assert refused.status_code == 409
    assert "<ins>+Mine.</ins>" in refused.text
    assert differences(refused)["Position"] == ("changed by somebody else", ["-3", "+7"])
    assert value(refused, "position") == "7"
    assert "/about" in admin.get("/author/pages").text
    assert "About" in admin.get(f"{made.location}/delete").text
    assert admin.send(f"{made.location}/delete").status_code == 303
    assert client.get("/about").status_code == 404
    gone = admin.send(made.location, **fields(page, body="Mine."))
    assert gone.status_code == 409
    assert "deleted this page" in gone.text
    assert ' action="/author/pages/new"' in gone.text
    assert admin.get(f"{made.location}/delete").status_code == 404


@pytest.mark.parametrize("slug", ["login", "archive", "tags", "feed.xml", "healthz", "robots.txt", "account"])
def test_page_cannot_have_an_address_of_the_blog(admin, slug):
    response = admin.send("/author/pages/new", title="A", body="B", position="0", slug=slug)
    assert response.status_code == 409
    assert "Choose another address" in response.text


@pytest.mark.parametrize(
    "change", [{"title": ""}, {"body": ""}, {"position": "x"}, {"position": "5000"}, {"slug": "a/b"}]
)
def test_page_editor_refuses_invalid_fields(app, admin, change):
    assert (
        admin.send("/author/pages/new", **{"title": "A", "body": "B", "position": "0"} | change).status_code
        == 422
    )
    assert count(app, Page) == 0


def test_page_editor_refuses_an_address_of_another_page(app, admin):
    for status in (303, 409):
        assert admin.send("/author/pages/new", title="A", body="B", position="0").status_code == status
    assert admin.send("/author/pages/new", title="港", body="B", position="0").status_code == 409
    assert admin.send("/author/pages/new", title="Contact", body="Hello", position="0").status_code == 303


def test_page_change_or_deletion_at_the_same_moment_is_a_conflict(app, admin, monkeypatch):
    path = admin.send("/author/pages/new", title="A", body="B", position="0").location
    page = admin.get(path)
    statement = update(Page).values(version=Page.version + 1)

    def meanwhile(slug):
        with db.engine.begin() as connection:
            connection.execute(statement)
        return False

    monkeypatch.setattr(pages, "_is_route", meanwhile)
    assert "another version" in admin.send(path, **fields(page, title="C")).text
    page = admin.get(path)
    statement = Page.__table__.delete()
    assert "deleted this page" in admin.send(path, **fields(page, title="C")).text
