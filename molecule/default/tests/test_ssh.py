"""Only the admin user can log in by SSH, with a key. A run of site.yml does not lock itself out."""

import json
import subprocess

import pytest
from outside import ROOT

DROP_IN = "/etc/ssh/sshd_config.d/00-slipway.conf"
OTHERS = "/etc/ssh/sshd_config.d/50-test.conf"
POLICY = "Hardened Debian 13 (version 1)"

each_family = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def ssh_as(machine, variables):
    """Run a command over a new SSH connection as a user, with the private key of the inventory."""
    alias = f"[{variables['ansible_host']}]:{variables['ansible_port']}"
    key = variables["ansible_ssh_private_key_file"]
    always = [*variables["ansible_ssh_common_args"].split(), "-F", "none", "-T", "-i", key]
    for option in (f"HostKeyAlias={alias}", "BatchMode=yes", "ControlPath=none", "ConnectTimeout=5"):
        always += ["-o", option]

    def ssh_as(user, *options, command="true", family="ipv4"):
        return subprocess.run(
            ["ssh", *always, *options, f"{user}@{getattr(machine, family)}", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return ssh_as


@pytest.fixture(scope="module")
def admin(variables):
    """The user with whom Ansible logs in."""
    return variables["ansible_user"]


# --- Logins from outside ------------------------------------------------------------------------------------


@each_family
def test_ssh_audit_passes_the_hardening_policy(machine, family):
    audit = [ROOT / ".venv/audit/bin/ssh-audit", "-n", "-P", POLICY, getattr(machine, family)]
    done = subprocess.run(audit, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Passed" in done.stdout, done.stdout + done.stderr


@each_family
def test_host_has_only_an_ed25519_key(machine, family):
    scan = ["ssh-keyscan", "-T", "5", "-t", "rsa,ecdsa,ed25519", getattr(machine, family)]
    keys = subprocess.run(scan, capture_output=True, text=True).stdout.splitlines()
    assert [key.split()[1] for key in keys] == ["ssh-ed25519"]


@each_family
def test_admin_user_can_log_in_and_become_root(ssh_as, admin, family):
    done = ssh_as(admin, command="sudo --non-interactive id --user", family=family)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0\n", done.stderr


@pytest.fixture
def key_for_root(host, admin):
    """Add the admin user's public keys to root's authorized_keys."""
    host.check_output("install -D -m 0600 /home/%s/.ssh/authorized_keys /root/.ssh/authorized_keys", admin)
    yield
    host.check_output("rm /root/.ssh/authorized_keys")


@each_family
@pytest.mark.parametrize("user", ["root", "debian", "nobody", "nosuch"])
def test_other_users_cannot_log_in(key_for_root, host, ssh_as, user, family):
    if user in ("root", "debian"):
        assert host.check_output(f"cat ~{user}/.ssh/authorized_keys")
    done = ssh_as(user, family=family)
    assert done.returncode == 255, done.stderr
    assert done.stdout == ""
    assert f"{user}@" in done.stderr
    assert "Permission denied (publickey)." in done.stderr


def test_password_login_is_refused(ssh_as, admin):
    done = ssh_as(admin, "-o", "PreferredAuthentications=password,keyboard-interactive,none")
    assert done.returncode == 255
    assert "Permission denied (publickey)." in done.stderr


def test_port_forwarding_is_refused(ssh_as, admin, machine):
    forth = ssh_as(admin, "-W", "127.0.0.1:22")
    assert forth.returncode == 255
    assert "administratively prohibited" in forth.stderr
    back = ssh_as(admin, "-o", "ExitOnForwardFailure=yes", "-R", "18099:127.0.0.1:1")
    assert back.returncode == 255
    assert "remote port forwarding failed" in back.stderr


def test_client_without_post_quantum_key_exchange_is_refused(ssh_as, admin):
    done = ssh_as(admin, "-o", "KexAlgorithms=curve25519-sha256")
    assert done.returncode == 255
    assert "no matching key exchange method found" in done.stderr


# --- On the host --------------------------------------------------------------------------------------------


def test_sshd_uses_its_settings(host, variables):
    told = dict(line.split(" ", 1) for line in host.check_output("/usr/sbin/sshd -T").splitlines())
    wanted = {
        "allowusers": variables["ansible_user"],
        "authenticationmethods": "publickey",
        "logingracetime": str(variables["baseline_ssh_login_grace_time"]),
        "maxauthtries": str(variables["baseline_ssh_max_auth_tries"]),
        "maxstartups": variables["baseline_ssh_max_startups"],
        "permitrootlogin": "no",
        "passwordauthentication": "no",
        "kbdinteractiveauthentication": "no",
        "x11forwarding": "no",
        "allowagentforwarding": "no",
        "loglevel": "VERBOSE",
    }
    assert {name: told[name] for name in wanted} == wanted
    file = host.file(DROP_IN)
    assert (file.user, file.group, file.mode) == ("root", "root", 0o600)


def test_client_with_too_many_failed_logins_has_to_wait(host):
    """Connect from the host itself, because the address of the tests is exempt from penalties."""
    trust = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    attempt = f"ssh -T {trust} nosuch@127.0.0.2 2>&1 || true"
    assert host.check_output(attempt) == "nosuch@127.0.0.2: Permission denied (publickey)."
    for _ in range(5):
        host.run(f"seq 8 | xargs --max-procs=8 --replace {attempt}")
    assert "Permission denied" not in host.check_output(attempt)


def test_password_of_root_is_locked(host):
    assert host.check_output("getent shadow root").split(":")[1].startswith("!")


def test_admin_user_has_no_password(host, admin):
    assert host.check_output("getent shadow %s", admin).split(":")[1] == "*"
    assert host.run("visudo -c").rc == 0


# --- Runs that would lock themselves out --------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign_key(tmp_path_factory):
    """A public key whose private key Ansible does not use."""
    file = tmp_path_factory.mktemp("stranger") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)
    return file.with_suffix(".pub").read_text().strip()


@pytest.fixture
def foreign_settings(machine):
    """Write settings of sshd that Slipway does not manage, as an operator does by hand."""
    yield lambda settings: machine.execute(f"echo {settings} > {OTHERS}")
    machine.execute(f"rm --force {OTHERS} && systemctl reload ssh")


@pytest.fixture
def state(machine, admin):
    """Return the content, owner and mode of the files that a run may have to restore."""
    paths = f"{DROP_IN} /home/{admin}/.ssh/authorized_keys"
    return lambda: machine.execute(f"sha256sum {paths} && stat --format '%n %U %a' {paths}")


def run_users_and_ssh(deploy, variables):
    """Run the parts of site.yml that configure users and sshd."""
    tags = ("--tags", "baseline_users,baseline_ssh")
    return deploy("site.yml", *tags, "--extra-vars", json.dumps(variables))


def test_run_that_would_lock_itself_out_is_undone(state, ssh_as, admin, deploy, hostname, foreign_key):
    before = state()
    elsewhere = [f"{admin}@192.0.2.1"]
    outcome = run_users_and_ssh(
        deploy, {"baseline_ssh_allow_users": elsewhere, "baseline_admin_keys": [foreign_key]}
    )
    assert outcome.status == 2, outcome.output
    message = outcome.errors[-1]
    assert f"{admin} could not log in to {hostname} (127.0.0.1, port " in message
    assert "Permission denied (publickey)" in message
    assert f"{admin} can log in. Check baseline_admin_keys and baseline_ssh_*" in message
    assert state() == before
    assert ssh_as(admin).returncode == 0


@pytest.mark.drill
def test_run_reports_a_lockout_by_foreign_settings_and_keeps_its_connection(
    state, ssh_as, admin, deploy, foreign_settings
):
    before = state()
    foreign_settings(f"DenyUsers {admin}")
    outcome = run_users_and_ssh(deploy, {"baseline_ssh_max_auth_tries": 4})
    assert outcome.status == 2, outcome.output
    assert "a login with them fails too. Keep this connection open" in outcome.errors[-1]
    assert state() == before
    assert ssh_as(admin).returncode == 255


def test_settings_that_sshd_rejects_are_not_applied(state, ssh_as, admin, deploy, foreign_settings):
    before = state()
    foreign_settings("NoSuchSetting yes")
    outcome = run_users_and_ssh(deploy, {"baseline_ssh_max_auth_tries": 4})
    assert outcome.status == 2
    assert "50-test.conf: line 1: Bad configuration option: NoSuchSetting" in outcome.output
    assert state() == before
    assert ssh_as(admin).returncode == 0
