"""The program slipway-tls, with the host's own openssl and no nginx."""

import os
import subprocess

import pytest
from project import ROOT, load_program

NAMES = ["blog.example.org", "www.example.org"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The program, whose files are in a directory of this test, and whose nginx may refuse."""
    program = load_program(ROOT / "roles/tls/files/slipway-tls")
    places = {"SERVED": "tls/blog.pem", "AUTHORITY": "ca", "LINEAGES": "live"}
    for name, place in places.items():
        monkeypatch.setattr(program, name, tmp_path / place)
    (tmp_path / "tls").mkdir()
    monkeypatch.setattr(program, "NGINX_UID", os.geteuid())
    monkeypatch.setattr(program, "NGINX", tmp_path)
    monkeypatch.setattr(program, "refuses", False, raising=False)
    real = program.run

    def run(*command, **options):
        if command[0] == "openssl":
            return real(*command, **options)
        if command[0] == program.NGINX and program.refuses:
            raise program.Failure("nginx refuses")
        return "running"

    monkeypatch.setattr(program, "run", run)
    return program


def config(mode="selfsigned", names=NAMES):
    return {"mode": mode, "names": names, "lineage": "slipway-ca.example"}


def test_own_certificate_is_made_once(program):
    assert program.prepare(config(), check=True)
    assert not program.SERVED.exists()
    assert program.prepare(config(), check=False)
    assert not program.prepare(config(), check=False)
    assert program.names_in(program.SERVED, "subjectAltName") == set(NAMES)
    assert 89 < program.days_left(program.SERVED) <= 90
    assert oct(program.SERVED.stat().st_mode & 0o7777) == "0o400"
    command = ["openssl", "verify", "-x509_strict", "-verify_hostname", NAMES[1], "-CAfile"]
    subprocess.run([*command, program.AUTHORITY / "ca.pem", program.SERVED], check=True, capture_output=True)


def spoil(program):
    program.SERVED.chmod(0o600)
    program.SERVED.write_text("spoiled")


@pytest.mark.parametrize(
    "harm",
    [spoil, lambda program: program.SERVED.unlink(), lambda program: program.SERVED.chmod(0o644)],
    ids=["content", "gone", "mode"],
)
def test_file_that_was_harmed_is_made_anew_by_the_same_authority(program, harm):
    program.prepare(config(), check=False)
    authority = (program.AUTHORITY / "ca.pem").read_text()
    harm(program)
    assert program.prepare(config(), check=False)
    assert program.own_lasts(NAMES)
    assert (program.AUTHORITY / "ca.pem").read_text() == authority


@pytest.mark.parametrize("name", ["ca.key", "ca.pem"])
def test_authority_that_a_loss_of_power_emptied_is_made_anew(program, name):
    program.prepare(config(), check=False)
    (program.AUTHORITY / name).write_text("")
    program.SERVED.unlink()
    assert program.prepare(config(), check=False)
    command = ["openssl", "verify", "-CAfile", program.AUTHORITY / "ca.pem", program.SERVED]
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(file.name for file in program.AUTHORITY.iterdir()) == ["ca.key", "ca.pem"]


def test_certificate_is_renewed_in_time(program, monkeypatch):
    program.prepare(config(), check=False)
    before = program.SERVED.read_text()
    assert not program.keep(config(), check=False)
    monkeypatch.setattr(program, "RENEW_DAYS", 90)
    assert program.keep(config(), check=False)
    assert program.SERVED.read_text() != before


def test_other_names_are_another_authority_s(program):
    program.prepare(config(), check=False)
    assert program.prepare(config(names=["other.example.org"]), check=False)
    assert program.names_in(program.AUTHORITY / "ca.pem", "nameConstraints") == {"other.example.org"}


def test_authority_signs_for_no_other_name(program, monkeypatch):
    program.prepare(config(), check=False)
    monkeypatch.setattr(program, "names_in", lambda certificate, extension: {"evil.example"})
    program.write(program.make_own(["evil.example"]))
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", program.AUTHORITY / "ca.pem", program.SERVED],
        capture_output=True,
        text=True,
    )
    assert "permitted subtree violation" in done.stderr


def test_key_that_does_not_fit_leaves_what_serves(program):
    program.prepare(config(), check=False)
    before = program.SERVED.read_text()
    other = program.make_own(NAMES)
    half = other.index("-----BEGIN CERTIFICATE")
    with pytest.raises(program.Failure, match="does not fit"):
        program.install(before[: before.index("-----BEGIN CERTIFICATE")] + other[half:])
    assert program.SERVED.read_text() == before
    assert [file.name for file in program.SERVED.parent.iterdir()] == ["blog.pem"]


def test_pair_that_nginx_refuses_leaves_what_serves(program, monkeypatch):
    program.prepare(config(), check=False)
    before = program.SERVED.read_text()
    monkeypatch.setattr(program, "refuses", True)
    with pytest.raises(program.Failure, match="nginx refuses"):
        program.install(program.make_own(NAMES))
    assert program.SERVED.read_text() == before


def lineage(program, name):
    """Have certbot's directory hold a lineage, and return its path."""
    directory = program.LINEAGES / name
    directory.mkdir(parents=True)
    key, _, certificates = program.make_own(NAMES).partition("-----BEGIN CERTIFICATE")
    (directory / "privkey.pem").write_text(key)
    (directory / "fullchain.pem").write_text(f"-----BEGIN CERTIFICATE{certificates}")
    return directory


def test_authority_s_certificate_replaces_the_one_to_start_with(program):
    acme = config("acme")
    assert program.prepare(acme, check=False)
    directory = lineage(program, acme["lineage"])
    assert program.issue(acme, check=True)
    assert program.issue(acme, check=False)
    assert not program.issue(acme, check=False)
    assert program.SERVED.read_text() == program.pair(directory)
    assert not program.prepare(acme, check=False), "what serves is not thrown away"


@pytest.mark.parametrize(
    ("mode", "name", "taken"),
    [
        ("acme", "slipway-ca.example", True),
        ("acme", "slipway-staging.example", False),
        ("selfsigned", "slipway-ca.example", False),
    ],
)
def test_hook_takes_only_the_lineage_in_use(program, monkeypatch, mode, name, taken):
    program.prepare(config(mode), check=False)
    monkeypatch.setenv("RENEWED_LINEAGE", str(lineage(program, name)))
    assert program.renewed(config(mode), check=False) is taken


def test_timer_fails_before_a_certificate_ends(program, monkeypatch):
    program.prepare(config("acme"), check=False)
    monkeypatch.setattr(program, "days_left", lambda certificate: 13.4)
    with pytest.raises(program.Failure, match="ends in 13 days"):
        program.keep(config("acme"), check=False)


def test_off_ends_renewals_and_leaves_what_was_shown(program, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(program, "run", lambda *command: ran.append(" ".join(command)))
    installed = [tmp_path / "slipway-tls", tmp_path / "never-installed"]
    monkeypatch.setattr(program, "INSTALLED", installed)
    installed[0].touch()
    for lineage in ("slipway-ca.example", "of-somebody-else"):
        (program.LINEAGES / lineage).mkdir(parents=True)
    program.SERVED.touch()

    assert program.off(config("acme"), check=True)
    assert (ran, installed[0].exists()) == ([], True)
    assert program.off(config("acme"), check=False)
    assert ran == [
        "systemctl disable --now slipway-tls.timer",
        "certbot delete --non-interactive --cert-name slipway-ca.example",
        "systemctl daemon-reload",
    ]
    assert (installed[0].exists(), program.SERVED.exists()) == (False, True)
