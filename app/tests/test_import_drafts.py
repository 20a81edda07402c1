"""`flask import` never publishes a post that its author did not publish."""

from datetime import UTC, datetime

import pytest

from blog.models import Post

from .articles import article, counts
from .conftest import count

DATED = "title: A\ndate: 2025-01-01"
TRUE = ["true", "True", "TRUE", "yes", "Yes", "on", "y", "1", '"true"', "[true]"]
FALSE = ["false", "False", "no", "NO", "off", "n", "0", "'no'"]


@pytest.mark.parametrize(
    "lines",
    [
        *(f"draft: {value}" for value in TRUE),
        *(f"published: {value}" for value in FALSE),
        "Draft: yes",
        "isDraft: true",
        "is_draft: true",
        "private: true",
        "publish: false",
        "public: false",
        "status: draft",
        "Status: Private",
        "status: skip",
        "status: pending",
        "visibility: private",
        "published: true\nprivate: true",
        "draft: true\npassword: secret\nexpiryDate: 2026-01-01",
    ],
)
def test_unpublished_post_of_another_program_becomes_a_draft(run_import, post, client, tmp_path, lines):
    assert run_import(article(tmp_path, header=f"{DATED}\n{lines}")) == counts(created=1)
    assert post(slug="a")["published_at"] is None
    assert client.get("/posts/a").status_code == 404
    assert run_import(tmp_path) == counts(unchanged=1)


def test_draft_keeps_its_date(run_import, post, tmp_path):
    run_import(article(tmp_path, header=f"{DATED}\ndraft: true"))
    assert post(slug="a")["planned_at"] == datetime(2025, 1, 1, tzinfo=UTC)


def test_imported_draft_that_is_published_later_has_the_date_of_its_file(run_import, post, tmp_path):
    run_import(article(tmp_path, header=f"{DATED}\ndraft: true"))
    article(tmp_path, header=DATED)
    assert run_import(tmp_path, "--existing", "update") == counts(updated=1)
    assert post(slug="a")["published_at"] == datetime(2025, 1, 1, tzinfo=UTC)
    assert post(slug="a")["planned_at"] is None


def test_draft_needs_no_date(run_import, post, tmp_path):
    run_import(article(tmp_path, header="title: A\ndraft: 1"))
    assert post(slug="a")["published_at"] is None


@pytest.mark.parametrize("header", ["Draft: yes", "Published: no", "Status: draft", "Private: True"])
def test_draft_of_pelican_becomes_a_draft(run_import, post, tmp_path, header):
    (tmp_path / "a.md").write_text(f"Title: A\nDate: 2025-01-01\n{header}\n\nText.\n")
    assert run_import(tmp_path) == counts(created=1)
    assert post(slug="a")["published_at"] is None


@pytest.mark.parametrize("folder", ["_drafts", "Drafts", "blog/_drafts/2025"])
def test_post_in_a_folder_of_drafts_becomes_a_draft(run_import, post, tmp_path, folder):
    article(tmp_path / folder)
    assert run_import(tmp_path) == counts(created=1)
    assert post(slug="a")["published_at"] is None
    article(tmp_path / folder, body="Other.")
    assert run_import(tmp_path / folder / "a.md", "--existing", "update") == counts(updated=1)
    assert post(slug="a")["published_at"] is None


@pytest.mark.parametrize(
    "lines",
    [
        *(f"draft: {value}" for value in FALSE),
        *(f"published: {value}" for value in TRUE),
        "status: published",
        "status: publish",
        "visibility: public",
        "private: no",
        'password: ""',
        "unlisted: false",
        "expiryDate:",
    ],
)
def test_published_post_of_another_program_becomes_public(run_import, post, tmp_path, lines):
    assert run_import(article(tmp_path, header=f"{DATED}\n{lines}")) == counts(created=1)
    assert post(slug="a")["published_at"] == datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("draft: maybe", "has the unknown value 'maybe' in the field draft; write `false` or `true`"),
        ("draft:", "has the unknown value '' in the field draft; write `false` or `true`"),
        ("draft: {no: no}", "has the unknown value '' in the field draft; write `false` or `true`"),
        (
            "published: 2025-01-01",
            "has the unknown value '2025-01-01' in the field published; write `true` or `false`",
        ),
        ("private: 2", "has the unknown value '2' in the field private"),
        (
            "status: hidden",
            "has the unknown value 'hidden' in the field status; write `published` or `draft`",
        ),
        ("status: inherit", "has the unknown value 'inherit' in the field status"),
        ("status:", "has the unknown value '' in the field status"),
        (
            "visibility: members",
            "has the unknown value 'members' in the field visibility; write `public` or `private`",
        ),
        ("password: secret", "has the field password"),
        ("unlisted: true", "has the field unlisted"),
        ("hidden: yes", "has the field hidden"),
        ("headless: true", "has the field headless"),
        ("expiryDate: 2024-01-01", "has the field expirydate, which the blog does not support"),
        ("expiry_date: 2099-01-01", "write `status: draft`, or remove the line"),
        ("unpublishDate: 2099-01-01", "has the field unpublishdate"),
        ("<<: {draft: true}", "write every field out"),
        ("publishDate: soon", "has a date that is not valid in the field publishdate: 'soon'"),
    ],
)
def test_import_refuses_a_post_if_it_is_unclear_who_may_read_it(run_import, app, tmp_path, line, words):
    path = article(tmp_path, header=f"{DATED}\n{line}")
    [problem] = run_import(tmp_path)
    assert problem.startswith(f"{path}:4: ")
    assert words in problem
    assert count(app, Post) == 0


@pytest.mark.parametrize("name", ["publishDate", "pubdate", "publish_date"])
def test_post_with_a_future_publish_date_is_scheduled(run_import, post, client, tmp_path, name):
    run_import(article(tmp_path, header=f"{DATED}\n{name}: 2199-01-01"))
    assert post(slug="a")["published_at"] == datetime(2199, 1, 1, tzinfo=UTC)
    assert client.get("/posts/a").status_code == 404
    run_import(article(tmp_path, "b.md", header=f"title: B\n{name}: 2025-01-01"))
    assert post(slug="b")["published_at"] == datetime(2025, 1, 1, tzinfo=UTC), "a file needs only one date"
