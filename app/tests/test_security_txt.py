"""/.well-known/security.txt (RFC 9116)."""

from datetime import UTC, datetime, timedelta

import pytest

PATH = "/.well-known/security.txt"


@pytest.fixture
def fetch(make_app):
    """Return a function that fetches the file from a blog with changed settings."""

    def fetch(base_url: str = "https://blog.test", **changed: str):
        return make_app(BASE_URL=base_url, **changed).test_client().get(PATH)

    return fetch


def fields_of(response) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in response.text.splitlines())


def test_security_txt_names_the_contact_form(fetch):
    response = fetch()
    assert response.content_type == "text/plain; charset=utf-8"
    fields = fields_of(response)
    assert len(response.text.splitlines()) == len(fields), "each field occurs once"
    assert fields.keys() == {"Contact", "Expires", "Preferred-Languages", "Canonical"}
    assert fields["Contact"] == "https://blog.test/contact"
    assert fields["Canonical"] == f"https://blog.test{PATH}"


def test_security_txt_expires_in_the_future_and_in_less_than_a_year(fetch):
    expires = datetime.fromisoformat(fields_of(fetch())["Expires"])
    assert timedelta(days=30) < expires - datetime.now(UTC) < timedelta(days=365)


def test_security_txt_names_the_contact_of_the_setting(fetch):
    contact = "mailto:security@blog.test"
    assert fields_of(fetch(SECURITY_CONTACT=contact))["Contact"] == contact


def test_security_txt_of_a_blog_without_https_has_no_http_address(fetch):
    assert fetch("http://blog.test").status_code == 404
    fields = fields_of(fetch("http://blog.test", SECURITY_CONTACT="tel:+1-201-555-0123"))
    assert fields.keys() == {"Contact", "Expires", "Preferred-Languages"}
