import pytest
from sqlalchemy import select, update

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


def columns(app) -> dict[str, object]:
    """Return the columns of the only page."""
    with app.app_context():
        found = db.session.scalars(select(Page)).one()
        return {name: getattr(found, name) for name, _ in Page.__table__.columns.items()}


def test_saving_an_unchanged_page_changes_nothing(app, admin):
    path = admin.send("/author/pages/new", title="A", body="B", position="0").location
    before = columns(app)
    assert admin.send(path, **fields(admin.get(path))).status_code == 303
    assert columns(app) == before


@pytest.mark.parametrize("change", [{"title": "C"}, {"slug": "c"}, {"body": "C"}, {"position": "1"}])
def test_saving_a_changed_page_sets_the_time_of_the_last_change(app, admin, change):
    path = admin.send("/author/pages/new", title="A", body="B", position="0").location
    before = columns(app)["updated_at"]
    admin.send(path, **fields(admin.get(path), **change))
    assert columns(app)["updated_at"] > before


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
    for body, status in (("B", 303), ("C", 409)):
        assert admin.send("/author/pages/new", title="A", body=body, position="0").status_code == status
    assert admin.send("/author/pages/new", title="Contact", body="Hello", position="0").status_code == 303


def test_page_editor_refuses_a_title_that_gives_no_address(app, admin):
    answer = admin.send("/author/pages/new", title="🚢", body="B", position="0")
    assert answer.status_code == 409
    assert "A page cannot have this address" in answer.text


def test_new_page_that_is_sent_twice_is_one_page(app, admin):
    page = {"title": "Colophon", "body": "Made by hand.", "position": "3"}
    answers = [admin.send("/author/pages/new", **page) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert len({answer.location for answer in answers}) == 1
    assert count(app, Page) == 1


def test_page_change_or_deletion_at_the_same_moment_is_a_conflict(app, admin, monkeypatch):
    path = admin.send("/author/pages/new", title="A", body="B", position="0").location
    page = admin.get(path)
    statement = update(Page).values(version=Page.version + 1)

    def meanwhile(slug):
        with db.engine.begin() as connection:
            connection.execute(statement)
        return True

    monkeypatch.setattr(pages, "is_free_page_name", meanwhile)
    assert "another version" in admin.send(path, **fields(page, title="C")).text
    page = admin.get(path)
    statement = Page.__table__.delete()
    assert "deleted this page" in admin.send(path, **fields(page, title="C")).text
