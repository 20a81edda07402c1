"""The filters of the role `tls`."""

import socket

import pytest
from project import ROOT, load_program

FILTERS = ROOT / "plugins/filter"
dns = load_program(FILTERS / "dns_problems.py")
certificate_problems = load_program(FILTERS / "certificate_problems.py").certificate_problems

# --- dns_problems -------------------------------------------------------------------------------------------


@pytest.fixture
def dns_records(monkeypatch):
    """Fake DNS on the control node: the addresses of each name, by record type."""
    found = {
        "blog.example.org": {"A": ["203.0.113.9"], "AAAA": ["2001:db8::9"]},
        "www.example.org": {"A": ["203.0.113.9"]},
        "moved.example.org": {"A": ["203.0.113.9"], "AAAA": ["2001:db8::77"]},
        "elsewhere.example.org": {"A": ["198.51.100.1", "203.0.113.9"]},
        "203.0.113.9": {"A": ["203.0.113.9"]},
        "2001:db8::9": {"AAAA": ["2001:db8::9"]},
    }
    kinds = {family: record for record, family in dns.RECORDS.items()}

    def getaddrinfo(name, port, family, kind):
        if name == "silent.example.org":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        addresses = found.get(name.encode("idna").decode(), {}).get(kinds[family])
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, kind, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(dns.socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("blog.example.org", []),
        ("www.example.org", []),
        (
            "moved.example.org",
            ["the AAAA record of moved.example.org is 2001:db8::77, which is not an address of the host"],
        ),
        (
            "elsewhere.example.org",
            ["the A record of elsewhere.example.org is 198.51.100.1, which is not an address of the host"],
        ),
        ("nosuch.example.org", ["nosuch.example.org has neither an A nor an AAAA record"]),
        (
            "silent.example.org",
            ["silent.example.org could not be looked up ([Errno -3] Temporary failure in name resolution)"],
        ),
    ],
)
def test_each_record_of_a_name_must_lead_to_the_host(dns_records, name, problems):
    assert dns.dns_problems([name], ["203.0.113.9", "2001:db8::9"]) == problems


def test_name_that_is_not_valid_is_a_problem(dns_records):
    [problem] = dns.dns_problems(["a..example.org"], ["203.0.113.9"])
    assert problem.startswith("a..example.org could not be looked up (")


def test_address_of_the_host_must_be_known(dns_records):
    [problem] = dns.dns_problems(["blog.example.org"], ["silent.example.org"])
    assert problem.startswith("silent.example.org could not be looked up (")


def test_address_of_the_host_may_be_a_name(dns_records):
    assert dns.dns_problems(["www.example.org"], ["blog.example.org", "nosuch.example.org"]) == []


# --- certificate_problems -----------------------------------------------------------------------------------

CERTIFICATE = {
    "public_key": "ours",
    "expired": False,
    "not_after": "20270101000000Z",
    "subject_alt_name": ["DNS:blog.example.org", "DNS:*.example.net"],
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"public_key": "another's"}, "the key in tls_key_file does not match the certificate"),
        ({"expired": True}, "the certificate in tls_certificate_file expired at 20270101000000Z"),
        ({"subject_alt_name": None}, "is for no names, but not for blog.example.org, www.example.net"),
        ({"subject_alt_name": ["DNS:*.net", "DNS:blog.example.org"]}, "but not for www.example.net"),
    ],
)
def test_problems_of_a_certificate_are_reported(change, problem):
    names = ["blog.example.org", "www.example.net"]
    problems = certificate_problems(CERTIFICATE | change, {"public_key": "ours"}, names)
    assert len(problems) == bool(problem)
    assert all(problem in told for told in problems)


def test_file_without_a_certificate_or_key_is_reported():
    failure = {"failed": True, "msg": "Cannot parse it"}
    assert certificate_problems(failure, {"public_key": ""}, []) == [
        "tls_certificate_file is not a PEM certificate: Cannot parse it"
    ]
    [problem] = certificate_problems(CERTIFICATE, {"failed": True, "msg": "hush"}, [])
    assert problem.startswith("tls_key_file is not a PEM private key, or a passphrase protects it")
    assert "hush" not in problem
