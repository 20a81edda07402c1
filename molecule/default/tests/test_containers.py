"""Check the running containers with reports of the Docker engine and, where possible, of the kernel."""

import re
import shlex

import pytest
from outside import wait_until

UIDS = {"nginx": 101, "flask_blog": 10001, "db": 999}
each = pytest.mark.parametrize("service", UIDS)


@pytest.fixture
def process(host, containers):
    """Return /proc/PID/status of the first process of a service's container, as a dictionary."""

    def status(service):
        text = host.check_output("cat /proc/%s/status", str(containers[service]["State"]["Pid"]))
        return dict(line.split(":\t", 1) for line in text.splitlines())

    return status


def test_three_containers_run_and_are_healthy(inspect):
    assert sorted(re.sub("_(blue|green)$", "_SLOT", service) for service in inspect()) == [
        "db",
        "flask_blog_SLOT",
        "nginx",
    ]
    assert {c["State"]["Health"]["Status"] for c in inspect().values()} == {"healthy"}


@each
def test_compose_names_the_image_by_its_id(containers, service):
    assert re.fullmatch("sha256:[0-9a-f]{64}", containers[service]["Config"]["Image"])
    assert containers[service]["Config"]["Image"] == containers[service]["Image"]


@each
def test_container_has_limits_of_memory_cpu_and_processes(host, containers, limits, service):
    config = containers[service]["HostConfig"]
    assert config["Memory"] == limits()[service]["memory_mb"] * 2**20
    assert config["NanoCpus"] == min(int(host.check_output("nproc")), 2) * 10**9
    assert config["PidsLimit"] == limits()[service]["pids"]


def test_memory_limits_of_all_containers_fit_the_host_during_a_release(host, containers):
    memory = {service: container["HostConfig"]["Memory"] for service, container in containers.items()}
    assert sum(memory.values()) + memory["flask_blog"] < int(
        host.check_output("awk '/MemTotal/ { print $2 * 1024 }' /proc/meminfo")
    )


@pytest.mark.parametrize(("service", "title"), [("nginx", "worker process"), ("flask_blog", "gunicorn")])
def test_service_has_the_workers_that_fit_its_limits(host, containers, limits, service, title):
    first = str(containers[service]["State"]["Pid"])
    children = host.check_output("ps -o args= --ppid %s", first).splitlines()
    assert len([one for one in children if title in one]) == limits()[service]["workers"]


@pytest.fixture
def large_nginx(docker, containers, limits):
    """Start nginx with the workers and limits for 24 CPUs, without a network. Return its id and limits."""
    model, large = containers["nginx"], limits(24, 65536)["nginx"]
    options = [
        "--network=none",
        "--read-only",
        f"--memory={large['memory_mb']}m",
        f"--memory-swap={large['memory_mb']}m",
        f"--pids-limit={large['pids']}",
        *(f"--volume={mount['Source']}:{mount['Destination']}:ro" for mount in model["Mounts"]),
        *(f"--tmpfs={path}:{values}" for path, values in model["HostConfig"]["Tmpfs"].items()),
    ]
    command = ["nginx", "-g", f"daemon off; worker_processes {large['workers']};"]
    name = docker("run --detach " + shlex.join([*options, model["Image"], *command]))
    yield name, large
    docker("rm --force %s", name)


def test_nginx_of_a_host_with_24_cpus_reloads_twice_while_its_old_workers_drain(host, docker, large_nginx):
    """Stop old workers by SIGSTOP: then they do not end, like workers whose clients are slow."""
    name, large = large_nginx
    first = docker("inspect --format '{{.State.Pid}}' %s", name)

    def workers():
        lines = host.check_output("ps -o pid=,args= --ppid %s", first).splitlines()
        return [line.split()[0] for line in lines if "nginx: worker process" in line]

    def wait_for_workers(number):
        wait_until(lambda: len(workers()) == number, 10, f"{number} workers")

    health = "exec 3<>/dev/tcp/127.0.0.1/8082 && printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3 && head -1 <&3"
    assert large["workers"] == 24
    wait_for_workers(24)
    try:
        for generation in (2, 3):
            host.check_output(f"kill -STOP {' '.join(workers())}")
            docker("exec %s nginx -s reload", name)
            wait_for_workers(24 * generation)
            assert " 200 " in docker("exec %s bash -c %s", name, health)
    finally:
        host.run(f"kill -CONT {' '.join(workers())}")
    told = host.run("docker logs %s", name)
    assert "fork() failed" not in told.stdout + told.stderr


def test_database_has_connections_for_the_workers_of_both_slots(sql, limits):
    assert int(sql("SHOW max_connections")[0][0]) == limits()["db"]["connections"]


def test_database_has_the_settings_that_fit_its_limits(docker, containers, sql, limits):
    command = containers["db"]["Config"]["Cmd"]
    asked = dict(word.removeprefix("--").split("=", 1) for word in command[1:])
    query = "SELECT name, current_setting(name) FROM pg_settings WHERE source = 'command line'"
    in_force = dict(sql(query))
    assert in_force == {name: in_force[name] for name in asked}, "each setting comes from compose.yml"
    computed = limits()["db"]["settings"]
    for name, value in {
        "shared_buffers": f"{computed['shared_buffers_mb']}MB",
        "work_mem": f"{computed['work_mem_kb']}kB",
        "max_parallel_workers": str(computed["max_parallel_workers"]),
    }.items():
        assert asked[name] == value
        [[bytes_in_force]] = sql(
            f"SELECT pg_size_bytes(current_setting('{name}')) = pg_size_bytes('{value}')"
        )
        assert bytes_in_force == "t", name
    # Postgres must have been built with lz4.
    assert in_force["wal_compression"] == "lz4"


@each
def test_kernel_enforces_the_memory_limit(docker, containers, limits, service):
    files = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"  # for cgroup v2 and v1
    limit = docker("exec %s sh -c %s", containers[service]["Id"], f"cat {files} 2>/dev/null; true")
    assert int(limit) == limits()[service]["memory_mb"] * 2**20


@each
def test_every_process_has_the_uid_of_the_service(host, containers, service):
    pids = host.check_output("docker top %s -o pid", containers[service]["Id"]).split()[1:]
    assert len(pids) > 1
    assert set(host.check_output(f"ps -o uid= -p {','.join(pids)}").split()) == {str(UIDS[service])}


@each
def test_process_has_no_capabilities_and_cannot_gain_privileges(process, service):
    status = process(service)
    assert {name: int(mask, 16) for name, mask in status.items() if name.startswith("Cap")} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapBnd": 0,
        "CapAmb": 0,
    }
    assert status["NoNewPrivs"] == "1"


@each
def test_root_filesystem_is_read_only_even_to_root(host, containers, service):
    done = host.run("docker exec --user 0 %s touch /mark", containers[service]["Id"])
    assert done.rc == 1
    assert "Read-only file system" in done.stderr


@each
def test_tmp_is_writable_but_no_program_can_run_there(host, containers, service):
    script = "cp /bin/true /tmp/mark && ! /tmp/mark; ended=$?; rm /tmp/mark; exit $ended"
    done = host.run("docker exec %s sh -c %s", containers[service]["Id"], script)
    assert done.rc == 0, done.stderr
    assert "Permission denied" in done.stderr


@each
def test_container_restarts_by_itself_and_rotates_its_log(containers, variables, service):
    config, prefix = (
        containers[service]["HostConfig"],
        "stack_nginx_log" if service == "nginx" else "stack_log",
    )
    assert config["RestartPolicy"]["Name"] == "unless-stopped"
    assert config["LogConfig"] == {
        "Type": "json-file",
        "Config": {
            "max-size": variables[f"{prefix}_max_size"],
            "max-file": str(variables[f"{prefix}_max_file"]),
        }
        | ({"compress": "true"} if service == "nginx" else {}),
    }


@each
def test_health_check_ran_and_passed(containers, service):
    assert containers[service]["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert containers[service]["State"]["Health"]["Log"][-1]["ExitCode"] == 0


@each
def test_docker_shows_no_secret(docker, containers, secrets, service):
    container = containers[service]
    shown = docker("inspect %s %s", container["Id"], container["Image"])
    shown += docker("history --no-trunc %s", container["Image"])
    assert container["Image"] in shown
    assert secrets.named_in(shown) == []


@each
def test_environment_and_command_line_contain_no_secret(host, containers, secrets, service):
    pids = host.check_output("docker top %s -o pid", containers[service]["Id"]).split()[1:]
    shown = "".join(host.check_output("cat /proc/%s/environ /proc/%s/cmdline", pid, pid) for pid in pids)
    assert {"nginx": "nginx:", "flask_blog": "gunicorn", "db": "postgres:"}[service] in shown
    assert secrets.named_in(shown) == []


@each
def test_service_can_read_only_its_own_secrets(docker, containers, service):
    readable = {
        "nginx": [],
        "flask_blog": ["app_secret_key", "app_secret_key_fallbacks", "db_app_password"],
        "db": ["backup_passphrase", "db_superuser_password"],
    }
    script = "for f in /run/secrets/* /run/secrets/blog/*; do [ ! -f $f ] || [ ! -r $f ] || basename $f; done"
    assert docker("exec %s sh -c %s", containers[service]["Id"], script).split() == readable[service]
