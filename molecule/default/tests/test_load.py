"""The load reports exactly the requests that fail, and the posts that are lost, refused or stored twice."""

import pytest
from outside import wait_until

REJECTING = """
table inet slipway_test {
    chain dropped {
        type filter hook forward priority -10;
        tcp dport { 80, 443 } reject with tcp reset
    }
}
"""


@pytest.fixture
def written_titles(sql):
    """Return the titles of the posts that a load has written so far."""
    return lambda load: [
        title for [title] in sql(f"SELECT title FROM post WHERE title LIKE '{load.plan['name']}-%'")
    ]


def test_load_reports_failed_requests_and_lost_doubled_and_refused_posts(
    under_load, host, sql, written_titles
):
    """Reset connections for a moment, then make the blog refuse requests, then change posts by SQL."""
    with under_load() as load:
        with load.step("undisturbed") as quiet:
            wait_until(lambda: len(written_titles(load)) > 100, 20, "the load writes a hundred posts")
        assert quiet.failures == []
        assert quiet.requests > 400

        with load.step("connections are reset") as reset:
            host.check_output("echo %s | nft --file -", REJECTING)
            try:
                wait_until(lambda: len(load.look().failures) > 100, 10, "a hundred requests failed")
            finally:
                host.check_output("nft delete table inet slipway_test")
        for words in ("GET /?", "POST ", "a new connection", "a new HTTP/2", "a kept (request ", ") HTTP/2"):
            assert [failure for failure in reset.failures if words in failure], words
        assert [failure for failure in reset.failures if "status" in failure] == []

        with load.step("the blog refuses") as refused:
            host.check_output("slipway maintenance on")
            try:
                wait_until(
                    lambda: "POST" in str(load.look().failures[len(reset.failures) :]), 10, "a refused POST"
                )
            finally:
                host.check_output("slipway maintenance off")
        refusals = [failure for failure in refused.failures if "POST" in failure]
        assert refusals
        assert [failure for failure in refused.failures if not failure.endswith("status 503")] == []

        lost, doubled, *_ = written_titles(load)
        unasked = refusals[0].split()[2]
        sql(f"DELETE FROM post WHERE title = '{lost}'")
        for slug, title in {"slipway-test-1": doubled, "slipway-test-2": unasked}.items():
            sql(
                "INSERT INTO post (slug, title, summary, body, body_html, word_count, author) "
                f"VALUES ('{slug}', '{title}', '', '', '', 0, '')"
            )
    assert len(load.report.posts["refused"]) == len(refusals)
    # A reader that pauses may notice its closed connection only later. This load is so short that `problems`
    # may also say `no measurement`.
    known = [str(failed) for failed in load.report.failures]
    assert {*reset.failures, *refused.failures} <= set(known) <= set(load.problems)
    assert [p for p in load.problems if p not in known and not p.startswith("no measurement: ")] == [
        f"lost: the blog accepted the POST of “{lost}”, but the post is not in the database",
        f"doubled: “{doubled}” is in the database 2 times",
        f"stored, although the blog refused it: “{unasked}”",
    ]
    assert written_titles(load) == []
