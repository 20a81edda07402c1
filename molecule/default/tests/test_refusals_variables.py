"""A missing or wrong variable of the blog is refused before anything changes."""

import json
from shutil import copytree

from outside import ROOT, play
from refusals import Case, each, extra


def with_example_inventory(context):
    """Run site.yml with a copy of inventory/production, and set only the variables of the connection."""
    copytree(ROOT / "inventory/production", context.tmp / "production")
    return play("site.yml", "--inventory", str(context.tmp / "production"), *extra(**context.connection))


CASES = [
    Case(
        "no required variable",
        [
            "Required variables of blog are not set: stack_domain, release_admin_email",
            "group_vars/all/main.yml",
        ],
        run=with_example_inventory,
    ),
    Case(
        "former names of variables",
        [
            "have new names",
            "docker_daemon_options to docker_daemon_settings",
            "release_held to release_unblock.",
        ],
        {"docker_daemon_options": {"debug": True}, "release_held": "1"},
    ),
    Case(
        "two wrong variables",
        [
            "stack_nginx_memory_mb is 200",
            "Set stack_nginx_memory_mb to 252 or more",
            'stack_session_cookies is ["a b"]',
            "a name may have only letters, digits",
        ],
        {"stack_nginx_memory_mb": 200, "stack_session_cookies": ["a b"]},
    ),
    Case(
        "URL instead of an address for the request from outside",
        ['release_outside_address is "http://10.0.0.5/"', "Write it like 10.0.0.5 or 10.0.0.5:8443"],
        {"release_outside_address": "http://10.0.0.5/"},
    ),
    Case(
        "word instead of a port",
        ["stack_http_port", "'eighty'", "unable to convert to int"],
        {"stack_http_port": "eighty"},
    ),
    Case(
        "number instead of a list of aliases",
        ["stack_domain_aliases is not a list", "Write it like [www.example.org]"],
        {"stack_domain_aliases": 5},
    ),
    Case(
        "rate of zero",
        ["stack_rate_writes and stack_rate_connections are 256, 30, 0 and 100", "each must be 2 or more"],
        {"stack_rate_writes": "0"},
    ),
    Case(
        "string instead of a list of methods",
        ["stack_methods is not a list", "Write it like [GET]"],
        {"stack_methods": "GET"},
    ),
    Case(
        "string instead of a list of session cookies",
        ["stack_session_cookies is not a list", "Write it like [session]"],
        {"stack_session_cookies": "session"},
    ),
    Case(
        "string instead of a list of redirects",
        ["stack_domain_redirects is not a list", "Write it like [www.example.org]"],
        {"stack_domain_redirects": "www.example.org"},
    ),
    Case(
        "unknown images_base",
        ["images_base must be one of: registry, debian, got: foo"],
        {"images_base": "foo"},
    ),
    *(
        Case(
            f"domain {domain!r}",
            [
                f"Invalid host name {json.dumps(domain)} in stack_domain, stack_domain_redirects or",
                "Write it like blog.example.org",
            ],
            {"stack_domain": domain},
        )
        for domain in ("http://x", "a b", "blog.example.org/", "")
    ),
    Case(
        "base URL with a path",
        ['stack_base_url is "https://x/blog"', "Write it like https://blog.example.org"],
        {"stack_base_url": "https://x/blog"},
    ),
    Case(
        "security contact without a scheme",
        ['stack_security_contact is "a@b.test"', "like mailto:security@example.org"],
        {"stack_security_contact": "a@b.test"},
    ),
    Case(
        "base URL without TLS",
        ['stack_base_url is "http://blog.test"', "redirect readers to itself", "Use https://"],
        {"tls_mode": "selfsigned", "stack_domain": "blog.test", "stack_base_url": "http://blog.test"},
    ),
    Case(
        "name of a language instead of its tag",
        ['stack_site_language is "English"', "Write a tag such as en"],
        {"stack_site_language": "English"},
    ),
    Case(
        "invalid email address",
        ['release_admin_email is "anna"', "such as anna@example.org"],
        {"release_admin_email": "anna"},
    ),
]


@each(CASES)
def test_wrong_variable_is_refused(case, assert_refused):
    assert_refused(case)
