"""nginx's certificate, with the real openssl and no nginx."""

import json
import os
import subprocess
from dataclasses import replace

import pytest

from slipway import cli, tls
from slipway import host as real
from slipway.settings import Settings
from slipway.shell import CommandFailure, Failure

NAMES = ["blog.example.org", "www.example.org"]


class Host(real.Host):
    """A host whose nginx runs, and may refuse a reload; commands other than openssl are only recorded.

    Attributes:
        ran: the commands other than openssl.
        refuses: whether nginx refuses a reload.
        failing: a command that fails.
    """

    def __init__(self, settings):
        super().__init__(settings)
        self.ran, self.refuses, self.failing = [], False, None

    def run(self, *command, **options):
        if command[0] == "openssl":
            return super().run(*command, **options)
        self.ran.append(" ".join(map(str, command)))
        if command[-2:] == ("nginx", "reload") and self.refuses:
            raise Failure("nginx refuses")
        if self.ran[-1] == self.failing:
            raise Failure("the command fails")
        return "running"

    def is_root(self):
        return True


@pytest.fixture
def settings(tmp_path):
    """Settings of a host whose files are in tmp_path."""
    for name in ("tls", "project"):
        (tmp_path / name).mkdir()
    (tmp_path / "project/compose.yml").touch()
    return Settings(
        project=tmp_path / "project",
        certificate=tmp_path / "tls/blog.pem",
        authority=tmp_path / "ca",
        lineages=tmp_path / "live",
        renewals=tmp_path / "renewal",
        tls_configuration=tmp_path / "tls.json",
        units=tmp_path / "units",
        timers=tmp_path / "timers",
        former_tls=tmp_path / "slipway-tls",
        nginx_uid=os.geteuid(),
    )


@pytest.fixture
def host(settings):
    """A host without a certificate yet."""
    return Host(settings)


def config(mode="selfsigned", names=NAMES):
    return {"mode": mode, "names": names, "lineage": "slipway-ca.example"}


def test_own_certificate_is_created_once(host):
    assert tls.prepare(host, config(), check=True)
    assert not host.settings.certificate.exists()
    assert tls.prepare(host, config(), check=False)
    assert not tls.prepare(host, config(), check=False)
    assert tls.names_in(host, host.settings.certificate, "subjectAltName") == set(NAMES)
    assert 89 < tls.days_left(host, host.settings.certificate) <= 90
    assert oct(host.settings.certificate.stat().st_mode & 0o7777) == "0o400"
    command = ["openssl", "verify", "-x509_strict", "-verify_hostname", NAMES[1], "-CAfile"]
    subprocess.run(
        [*command, host.settings.authority / "ca.pem", host.settings.certificate],
        check=True,
        capture_output=True,
    )


def overwrite(host):
    host.settings.certificate.chmod(0o600)
    host.settings.certificate.write_text("damaged")


@pytest.mark.parametrize(
    "damage",
    [
        overwrite,
        lambda host: host.settings.certificate.unlink(),
        lambda host: host.settings.certificate.chmod(0o644),
    ],
    ids=["content", "gone", "mode"],
)
def test_same_authority_replaces_a_damaged_certificate(host, damage):
    tls.prepare(host, config(), check=False)
    authority = (host.settings.authority / "ca.pem").read_text()
    damage(host)
    assert tls.prepare(host, config(), check=False)
    assert tls.own_is_current(host, NAMES)
    assert (host.settings.authority / "ca.pem").read_text() == authority


@pytest.mark.parametrize("name", ["ca.key", "ca.pem"])
def test_empty_file_of_the_authority_leads_to_a_new_authority(host, name):
    tls.prepare(host, config(), check=False)
    (host.settings.authority / name).write_text("")
    host.settings.certificate.unlink()
    assert tls.prepare(host, config(), check=False)
    command = ["openssl", "verify", "-CAfile", host.settings.authority / "ca.pem", host.settings.certificate]
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(file.name for file in host.settings.authority.iterdir()) == ["ca.key", "ca.pem"]


def test_certificate_is_renewed_before_it_expires(host):
    tls.prepare(host, config(), check=False)
    before = host.settings.certificate.read_text()
    assert not tls.keep(host, config(), check=False)
    host.settings = replace(host.settings, renew_days=90)
    assert tls.keep(host, config(), check=False)
    assert host.settings.certificate.read_text() != before


def test_other_names_get_another_authority(host):
    tls.prepare(host, config(), check=False)
    assert tls.prepare(host, config(names=["other.example.org"]), check=False)
    assert tls.names_in(host, host.settings.authority / "ca.pem", "nameConstraints") == {"other.example.org"}


def test_authority_signs_for_no_other_name(host):
    tls.prepare(host, config(), check=False)
    tls.install(host, tls.make_leaf(host, ["evil.example"]))
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", host.settings.authority / "ca.pem", host.settings.certificate],
        capture_output=True,
        text=True,
    )
    assert "permitted subtree violation" in done.stderr


def test_key_of_another_certificate_is_not_installed(host):
    tls.prepare(host, config(), check=False)
    before = host.settings.certificate.read_text()
    other = tls.make_own(host, NAMES)
    half = other.index("-----BEGIN CERTIFICATE")
    with pytest.raises(Failure, match="does not match"):
        tls.install(host, before[: before.index("-----BEGIN CERTIFICATE")] + other[half:])
    assert host.settings.certificate.read_text() == before
    assert [file.name for file in host.settings.certificate.parent.iterdir()] == ["blog.pem"]


def test_installed_pair_is_restored_if_nginx_rejects_the_new_one(host):
    tls.prepare(host, config(), check=False)
    before = host.settings.certificate.read_text()
    host.refuses = True
    with pytest.raises(Failure, match="nginx refuses"):
        tls.install(host, tls.make_own(host, NAMES))
    assert host.settings.certificate.read_text() == before


def lineage(host, name):
    """Create a lineage in certbot's directory, and return its path."""
    directory = host.settings.lineages / name
    directory.mkdir(parents=True)
    key, _, certificates = tls.make_own(host, NAMES).partition("-----BEGIN CERTIFICATE")
    (directory / "privkey.pem").write_text(key)
    (directory / "fullchain.pem").write_text(f"-----BEGIN CERTIFICATE{certificates}")
    return directory


def test_acme_certificate_replaces_the_initial_one(host):
    acme = config("acme")
    assert tls.prepare(host, acme, check=False)
    directory = lineage(host, acme["lineage"])
    assert tls.issue(host, acme, check=True)
    assert tls.issue(host, acme, check=False)
    assert not tls.issue(host, acme, check=False)
    assert host.settings.certificate.read_text() == tls.pair(directory)
    assert not tls.prepare(host, acme, check=False), "the certificate in use stays"


@pytest.mark.parametrize(
    ("mode", "name", "taken"),
    [
        ("acme", "slipway-ca.example", True),
        ("acme", "slipway-staging.example", False),
        ("selfsigned", "slipway-ca.example", False),
    ],
)
def test_deploy_hook_installs_only_the_lineage_in_use(host, monkeypatch, mode, name, taken):
    tls.prepare(host, config(mode), check=False)
    monkeypatch.setenv("RENEWED_LINEAGE", str(lineage(host, name)))
    assert tls.renewed(host, config(mode), check=False) is taken


def test_timer_fails_before_a_certificate_expires(host):
    tls.prepare(host, config("acme"), check=False)
    host.settings = replace(host.settings, alarm_days=91)
    with pytest.raises(Failure, match="expires in 90 days"):
        tls.keep(host, config("acme"), check=False)


def test_dry_run_installs_no_renewed_certificate(host):
    tls.prepare(host, config("acme"), check=False)
    before = host.settings.certificate.read_text()
    lineage(host, config("acme")["lineage"])
    assert tls.keep(host, config("acme"), check=True)
    assert host.settings.certificate.read_text() == before


def test_tls_off_stops_renewals_and_keeps_the_certificate(host):
    for name in ("tls.json", "acme-ca.pem", "slipway-tls"):
        (host.settings.tls_configuration.with_name(name)).touch()
    host.settings.units.mkdir()
    for name in ("slipway-tls.service", "slipway-tls.timer", "of-somebody-else.service"):
        (host.settings.units / name).touch()
    for lineage in ("slipway-ca.example", "of-somebody-else"):
        (host.settings.lineages / lineage).mkdir(parents=True)
    host.settings.certificate.touch()

    assert tls.off(host, config("acme"), check=True)
    assert host.ran == []
    assert host.settings.tls_configuration.exists()
    assert tls.off(host, config("acme"), check=False)
    assert host.ran == [
        "systemctl disable --now slipway-tls.timer",
        "certbot delete --non-interactive --cert-name slipway-ca.example",
        "systemctl daemon-reload",
    ]
    assert not any(file.exists() for file in tls.installed(host))
    assert not host.settings.tls_configuration.exists()
    assert [file.name for file in host.settings.units.iterdir()] == ["of-somebody-else.service"]
    assert host.settings.certificate.exists()


def test_tls_off_keeps_its_configuration_if_it_fails(host):
    """The playbooks run `tls off` as long as its configuration exists."""
    host.settings.tls_configuration.touch()
    host.failing = "systemctl daemon-reload"
    with pytest.raises(Failure):
        tls.off(host, config("acme"), check=False)
    assert host.settings.tls_configuration.exists()


@pytest.mark.parametrize("what", ["prepare", "issue", "keep"])
def test_renewal_of_an_earlier_certificate_calls_this_program(host, what):
    """certbot keeps the hook that was set when it got the certificate."""
    acme = config("acme")
    host.settings.tls_configuration.write_text(json.dumps(acme))
    tls.prepare(host, acme, check=False)
    lineage(host, acme["lineage"])
    host.settings.renewals.mkdir()
    renewal = host.settings.renewals / f"{acme['lineage']}.conf"
    renewal.write_text("renew_hook = /usr/local/sbin/slipway-tls renewed\nserver = ca.example\n")
    renewal.chmod(0o600)
    former = renewal.read_text()
    cli.main(["tls", what, "--check"], host)
    assert renewal.read_text() == former
    cli.main(["tls", what], host)
    assert renewal.read_text() == "renew_hook = /usr/local/bin/slipway tls renewed\nserver = ca.example\n"
    assert oct(renewal.stat().st_mode & 0o7777) == "0o600"


def test_new_certificate_reloads_nginx_only_if_it_runs(host):
    (host.settings.project / "compose.yml").unlink()
    tls.prepare(host, config(), check=False)
    assert host.ran == [], "without compose.yml, there may be no engine"
    host.settings.certificate.unlink()
    (host.settings.project / "compose.yml").touch()
    tls.prepare(host, config(), check=False)
    asked, reloaded = host.ran
    assert asked == f"docker ps --quiet --filter=volume={host.settings.certificate.parent}"
    assert reloaded.endswith("/slipway/__main__.py nginx reload")


def test_certbot_gets_only_the_proxy_variables_of_the_caller(host, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("SECRET", "of the caller")
    assert tls.proxies()["https_proxy"] == "http://proxy.example:3128"
    assert "SECRET" not in tls.proxies()


def test_refusal_of_the_authority_is_reported_in_full_with_advice(host, monkeypatch):
    for name in tls.proxies():
        monkeypatch.delenv(name)

    def run(*command, env=None, **options):
        assert command[0] == "certbot"
        assert "--deploy-hook" in command
        assert command[command.index("--deploy-hook") + 1] == "/usr/local/bin/slipway tls renewed"
        assert env == {"REQUESTS_CA_BUNDLE": "/etc/slipway/acme-ca.pem"}
        raise CommandFailure(command, 1, "Some challenges have failed.\n", "Detail: NXDOMAIN\n" * 2)

    host.run = run
    more = {"email": "", "server": "https://ca.example/dir", "webroot": "/acme"}
    with pytest.raises(Failure) as failure:
        tls.request_certificate(host, config("acme") | more | {"ca": "/etc/slipway/acme-ca.pem"})
    assert str(failure.value).startswith(
        "https://ca.example/dir issued no certificate for blog.example.org, www.example.org.\n"
        "`certbot certonly …` failed (1):\n    Detail: NXDOMAIN\n    Some challenges have failed.\n"
        "The previous certificate stays in use. Check that\n"
    )


@pytest.mark.parametrize(("arguments", "changed"), [(["--check"], True), ([], True), ([], False)])
def test_command_prints_one_json_object(host, capsys, arguments, changed):
    host.settings.tls_configuration.write_text(json.dumps(config()))
    if not changed:
        tls.prepare(host, config(), check=False)
    assert cli.main(["tls", "prepare", *arguments], host) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["changed"] is changed
    assert told["advice"].startswith("Browsers trust this blog") is not bool(arguments)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"names": "blog.example.org"}'])
def test_missing_or_broken_configuration_is_reported(host, capsys, content):
    file = host.settings.tls_configuration
    if content:
        file.write_text(content)
    assert cli.main(["tls", "keep"], host) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"slipway: {file} is {'broken' if content else 'missing'}")
    assert "run the playbook site.yml" in told


@pytest.mark.parametrize("name", ["privkey.pem", "fullchain.pem"])
def test_incomplete_certificate_of_certbot_is_reported(host, name):
    tls.prepare(host, config("acme"), check=False)
    before = host.settings.certificate.read_text()
    (lineage(host, config("acme")["lineage"]) / name).unlink()
    with pytest.raises(
        Failure, match=f"incomplete, without .*/{name}.*`certbot delete --cert-name slipway-ca"
    ):
        tls.keep(host, config("acme"), check=False)
    assert host.settings.certificate.read_text() == before


def test_deploy_hook_without_certbot_is_reported(host, monkeypatch):
    monkeypatch.delenv("RENEWED_LINEAGE", raising=False)
    with pytest.raises(Failure, match="Only certbot runs `slipway tls renewed`"):
        tls.renewed(host, config("acme"), check=False)


def test_certificate_with_a_comment_that_is_not_utf8_is_replaced(host):
    tls.prepare(host, config(), check=False)
    file = host.settings.certificate
    content = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(b"Herr M\xfcller\n" + content)
    file.chmod(0o400)
    assert tls.pair_matches(file)
    assert tls.prepare(host, config(), check=False)
    assert tls.own_is_current(host, NAMES)
