"""The lock of a run: two runs of ansible-playbook do not change a host at the same time."""

import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import yaml
from project import ROOT, load_program

run_lock = load_program(ROOT / "plugins/module_utils/run_lock.py")

# The process that holds the lock outlives the function that started it.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

ANNA = {"id": "1a", "playbook": "site.yml", "by": "anna@laptop"}
BERT = {"id": "2b", "playbook": "deploy.yml", "by": "bert@ci"}


def wait_until(condition, seconds=10):
    """Wait until condition() is true; return whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """The directory of a lock. After the test, the process that still holds the lock is killed."""
    monkeypatch.setattr(run_lock, "ENDING", 1)
    directory = tmp_path / "run"
    yield directory
    if is_held(directory):
        os.kill(holder(directory)["process"], signal.SIGKILL)


def take(runtime, run, **how):
    return run_lock.take(run, runtime=str(runtime), **how)


def holder(runtime):
    """Return the description of the lock's holder."""
    return json.loads((runtime / "run.lock").read_text())


def is_held(runtime):
    """Tell whether somebody has the lock."""
    path = runtime / "run.lock"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def writer(runtime):
    """A process that has the FIFO open, as the control node has through SSH."""
    process = subprocess.Popen(["sh", "-c", f"{{ echo; exec sleep 60; }} > {runtime}/run.fifo"])
    yield process
    process.kill()
    process.wait()


# --- On the host --------------------------------------------------------------------------------------------


def test_another_run_is_refused_and_told_who_has_the_lock_and_how_to_take_it(runtime):
    assert take(runtime, ANNA)
    with pytest.raises(run_lock.Held) as refused:
        take(runtime, BERT)
    words = r"site.yml by anna@laptop, since 2\d{3}-.*Z\. Nothing was changed\. .*-e host_take_over=1a$"
    assert re.search(words, str(refused.value))
    assert holder(runtime)["id"] == "1a"


def test_same_run_may_take_the_lock_again(runtime):
    assert take(runtime, ANNA) is True
    assert take(runtime, ANNA) is False


def test_run_takes_the_lock_anew_after_the_host_has_rebooted(runtime):
    take(runtime, ANNA)
    os.kill(holder(runtime)["process"], signal.SIGKILL)
    for path in runtime.iterdir():
        path.unlink()
    runtime.rmdir()
    assert take(runtime, ANNA) is True


def test_lock_ends_when_the_control_node_closes_its_connection(runtime):
    take(runtime, ANNA)
    with writer(runtime) as process:
        time.sleep(0.3)
        assert is_held(runtime)
        process.kill()
        assert wait_until(lambda: not is_held(runtime), 2)
    assert take(runtime, BERT)


def test_lock_ends_if_the_control_node_never_opens_its_connection(runtime, monkeypatch):
    monkeypatch.setattr(run_lock, "GRACE", 1)
    take(runtime, ANNA)
    assert is_held(runtime)
    assert wait_until(lambda: not is_held(runtime), 5)


def test_lock_ends_after_the_longest_time(runtime, monkeypatch):
    monkeypatch.setattr(run_lock, "LONGEST", 1)
    take(runtime, ANNA)
    with writer(runtime):
        assert is_held(runtime)
        assert wait_until(lambda: not is_held(runtime), 5)


def test_run_waits_for_another_one_that_is_just_ending(runtime):
    take(runtime, ANNA)
    with writer(runtime) as process:
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill {process.pid}"])
        assert take(runtime, BERT)
        killer.wait()


def test_lock_is_taken_over_only_from_the_run_that_is_named(runtime):
    take(runtime, ANNA)
    with pytest.raises(run_lock.Held):
        take(runtime, BERT, take_over="3c")
    assert take(runtime, BERT, take_over="1a")
    assert holder(runtime)["by"] == "bert@ci"


def test_end_of_a_run_leaves_the_lock_to_the_run_that_took_it_over(runtime):
    take(runtime, ANNA)
    with writer(runtime) as former:
        time.sleep(0.3)
        take(runtime, BERT, take_over="1a")
        with writer(runtime):
            former.kill()
            former.wait()
            assert not wait_until(lambda: not is_held(runtime), 0.5)


def test_run_is_refused_while_the_host_program_is_at_work(runtime):
    runtime.mkdir()
    with (runtime / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("anna, since noon")
        lock.flush()
        with pytest.raises(run_lock.Held, match=r"anna, since noon.*is under way on this host\. Not"):
            take(runtime, BERT)
    assert not is_held(runtime)
    assert take(runtime, BERT)


def test_other_users_can_neither_read_nor_hold_the_lock(runtime):
    """A former version let every user open the directory and the lock."""
    runtime.mkdir(mode=0o755)
    (runtime / "run.lock").touch(mode=0o644)
    take(runtime, ANNA)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (runtime, *runtime.iterdir())}
    assert modes == {"run": 0o700, "run.lock": 0o600, "run.fifo": 0o600}


def test_dry_run_tells_of_another_run_and_takes_no_lock(runtime):
    assert run_lock.other_run(BERT, str(runtime)) is None
    assert not runtime.exists()
    take(runtime, ANNA)
    assert "site.yml by anna@laptop" in run_lock.other_run(BERT, str(runtime))
    assert run_lock.other_run(ANNA, str(runtime)) is None


@contextmanager
def program_at_work(path):
    """Hold the lock of the host program during the block."""
    path.parent.mkdir()
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("anna, since noon")
        lock.flush()
        yield


def test_configuration_is_written_only_when_the_host_program_is_idle(host_files, tmp_path):
    """A release must not read compose.yml while a playbook writes it."""
    path = tmp_path / "run/lock"
    with ThreadPoolExecutor() as pool, program_at_work(path):
        writing = pool.submit(host_files, {"file": "a", "content": "a"}, lock=str(path))
        with pytest.raises(TimeoutError):
            writing.result(2)
        assert not (host_files.place / "a").exists()
    writing.result()
    assert (host_files.place / "a").read_text() == "a"


def test_run_does_not_wait_for_ever_for_the_host_program(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "WAITING", 0.1)
    path = tmp_path / "run/lock"
    with (
        program_at_work(path),
        pytest.raises(run_lock.Held, match="anna, since noon\\) is under way on this host"),
        run_lock.hold(path),
    ):
        pass


# --- On the control node ------------------------------------------------------------------------------------

# A fake ssh client that runs the command on this machine. If the client is killed, the command ends too.
SSH = """#!/bin/sh
for command; do :; done
case "$*" in *" -O "*) exit 0 ;; esac
exec sh -c "$command"
"""
PLAY = """
- hosts: all
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - slipway.blog.host_facts: {lock: true, runtime: "{{ place }}/run", record: "{{ place }}/files.json"}
    - slipway.blog.host_facts: {lock: true, runtime: "{{ place }}/run", record: "{{ place }}/files.json"}
    - ansible.builtin.raw: |
        echo >> {{ place }}/changed; while test -e {{ place }}/wait; do sleep 0.1; done; {{ then }}
      changed_when: false
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts a run of a playbook with the lock, over a fake SSH connection."""
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    variables = {
        "place": str(tmp_path),
        "then": "true",
        "ansible_ssh_executable": str(tmp_path / "ssh"),
        "ansible_python_interpreter": sys.executable,
    }
    started = []

    def start(*arguments, inventory="host,", **more):
        extra = ("--inventory", inventory, "--extra-vars", json.dumps(variables | more))
        process = subprocess.Popen(
            [sys.executable, "-m", "ansible", "playbook", *extra, *arguments, str(tmp_path / "play.yml")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    assert wait_until(lambda: not is_held(tmp_path / "run"))


@pytest.fixture
def working(start, tmp_path):
    """A run that has the lock, and is at work until the file `wait` is removed."""
    (tmp_path / "wait").touch()
    process = start()
    assert wait_until((tmp_path / "changed").exists, 60), process.communicate()
    yield process
    # End its task too, which runs in a process of its own.
    (tmp_path / "wait").unlink(missing_ok=True)


def test_run_keeps_another_one_away_until_it_ends(start, working, tmp_path):
    other = start()
    told, _ = other.communicate(timeout=60)
    assert other.returncode != 0
    assert " ".join(told.split()).count("Another run is under way on this host: ") >= 1
    assert len((tmp_path / "changed").read_text()) == 1, "the refused run has changed something"
    (tmp_path / "wait").unlink()
    told, _ = working.communicate(timeout=60)
    assert working.returncode == 0, told
    assert "changed=0" in told
    after = start()
    told, _ = after.communicate(timeout=60)
    assert after.returncode == 0, told


def test_holder_is_the_user_the_machine_and_the_playbook(working, tmp_path):
    found = holder(tmp_path / "run")
    user, machine = found["by"].split("@")
    assert user
    assert machine == os.uname().nodename
    assert found["playbook"] == str(tmp_path / "play.yml")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_lock_of_a_killed_run_ends_at_once(working, tmp_path, number):
    os.kill(working.pid, number)
    assert wait_until(lambda: not is_held(tmp_path / "run"), 5)


def test_lock_of_a_failed_run_ends_at_once(start, tmp_path):
    failed = start(then="false")
    failed.communicate(timeout=60)
    assert failed.returncode == 2
    assert wait_until(lambda: not is_held(tmp_path / "run"), 2)


def test_run_takes_over_the_lock_that_it_names(start, working, tmp_path):
    (tmp_path / "wait").unlink()
    other = start(host_take_over=holder(tmp_path / "run")["id"])
    told, _ = other.communicate(timeout=60)
    assert other.returncode == 0, told


def test_dry_run_warns_of_another_run(start, working):
    dry = start("--check")
    told, _ = dry.communicate(timeout=60)
    assert dry.returncode == 0, told
    assert "Another run is under way on this host" in " ".join(told.split())


def test_connection_that_cannot_hold_the_lock_is_reported(start, tmp_path):
    local = start(ansible_connection="local")
    told, _ = local.communicate(timeout=60)
    assert local.returncode == 0, told
    assert "No lock keeps other runs away" in " ".join(told.split())
    assert not (tmp_path / "run").exists()


# --- The playbooks ------------------------------------------------------------------------------------------

MODULE = "slipway.blog.host_facts"
# These modules only read variables on the control node.
LOCAL = ("ansible.builtin.assert", "ansible.builtin.debug", "slipway.blog.check_all")


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize(
    "playbook", ["site", "provision", "deploy", "rotate_secrets", "recover", "upgrade_database"]
)
def test_playbook_begins_with_the_preflight(playbook):
    assert load(f"playbooks/{playbook}.yml")[0]["ansible.builtin.import_playbook"] == "preflight.yml"


@pytest.mark.parametrize(
    ("path", "play"),
    [
        ("roles/baseline/tasks/connect.yml", None),
        ("playbooks/rollback.yml", 0),
        ("playbooks/import.yml", 0),
        ("playbooks/teardown.yml", 0),
        ("playbooks/restore.yml", 0),
        ("playbooks/build.yml", 1),
    ],
)
def test_first_visit_to_the_host_takes_the_lock(path, play):
    tasks = load(path) if play is None else load(path)[play]["tasks"]
    first = next(task for task in tasks if not any(module in task for module in LOCAL))
    assert first[MODULE]["lock"] is True


def test_preflight_connects_first():
    tasks = load("playbooks/preflight.yml")[1]["tasks"]
    first = next(task for task in tasks if not any(module in task for module in LOCAL))
    assert first["ansible.builtin.import_role"]["tasks_from"] == "connect"


@pytest.mark.parametrize("role", ["stack", "release"])
def test_role_changes_the_configuration_only_while_the_host_program_is_idle(role):
    tasks = load(f"roles/{role}/tasks/configure.yml")
    [write] = [task["slipway.blog.host_files"] for task in tasks if "slipway.blog.host_files" in task]
    assert write["lock"] == "{{ host_lock }}"
