"""The CIS Docker Benchmark 1.6, by check number: as in docker-bench-security, on the running host.

A check that fails must be listed in cis.yml with its reason; a listed check must fail.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

LISTED = yaml.safe_load(Path(__file__).with_name("cis.yml").read_text())
SERVICES = ["nginx", "flask_blog", "db"]
SENSITIVE = ["/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr"]
each = pytest.mark.parametrize("service", SERVICES)


# The values of `unless` in cis.yml: conditions under which an exception does not apply.
CONDITIONS = {
    "apparmor": lambda engine: engine.apparmor,
    "engine 27": lambda engine: int(engine.info["ServerVersion"].split(".")[0]) >= 27,
}


@pytest.fixture(scope="module")
def engine(host, docker):
    """The engine: `docker info`, its settings, its command line, and whether AppArmor is available."""
    return SimpleNamespace(
        info=json.loads(docker("info --format json")),
        settings=json.loads(host.file("/etc/docker/daemon.json").content_string),
        command=host.check_output("ps -o args= -C dockerd").split(),
        apparmor=host.file("/sys/kernel/security/apparmor").is_directory,
    )


@pytest.fixture(scope="module")
def running(inspect):
    """The output of `docker inspect` by service, with the slot in service as flask_blog."""
    return {re.sub("_(blue|green)$", "", service): c for service, c in inspect().items()}


@pytest.fixture
def container(running, service):
    """The output of `docker inspect` for the service's container."""
    return running[service]


@pytest.fixture
def config(container):
    """The HostConfig of the service's container."""
    return container["HostConfig"]


@pytest.fixture
def first(host, container):
    """The directory in /proc of the first process of the service's container."""
    return f"/proc/{container['State']['Pid']}"


@pytest.fixture(scope="module")
def image(docker, running):
    """Return the output of `docker image inspect` for a service's image."""
    return lambda service: json.loads(docker("image inspect %s", running[service]["Image"]))[0]


@pytest.fixture
def within(docker, running):
    """Run a shell script as root in a new container of a service's image, and return what it prints."""
    options = "--rm --network none --read-only --user 0 --entrypoint sh"
    return lambda service, script: docker(f"run {options} %s -c %s", running[service]["Image"], script)


def number(name):
    """Return the number of the check that a test function is named after: 5.2 for test_5_2_…; else None."""
    found = re.match(r"test_(\d+)_(\d+)_", name)
    return found and ".".join(found.groups())


@pytest.fixture(autouse=True)
def expected(request, engine):
    """Expect a check to fail where cis.yml lists it, and nowhere else."""
    service = request.node.callspec.params.get("service") if hasattr(request.node, "callspec") else None
    for exception in LISTED["exceptions"]:
        is_it = exception["check"] == number(request.function.__name__)
        over = CONDITIONS.get(exception.get("unless"), lambda _: False)(engine)
        if is_it and service in exception.get("services", [None]) and not over:
            reason = exception["reason"]
            request.node.add_marker(pytest.mark.xfail(strict=True, reason=reason, raises=AssertionError))


# --- The list -----------------------------------------------------------------------------------------------


def test_each_check_of_what_runs_is_made_or_said_to_be_unaskable():
    made = {number(name) for name in globals()} - {None}
    unasked = {entry["check"] for entry in LISTED["unasked"]}
    assert made & unasked == set()
    sections = {2: 18, 4: 12, 5: 32}
    assert made | unasked >= {f"{s}.{n}" for s, last in sections.items() for n in range(1, last + 1)}


def test_what_is_listed_is_a_check_of_a_service_and_has_a_reason():
    made = {number(name): function for name, function in globals().items() if number(name)}
    for entry in LISTED["exceptions"]:
        assert set(entry) <= {"check", "services", "reason", "unless"}
        assert set(entry.get("services", [])) <= set(SERVICES)
        assert bool(entry.get("services")) == bool(getattr(made[entry["check"]], "pytestmark", None))
        assert entry.get("unless") in {None, *CONDITIONS}
    for entry in [*LISTED["exceptions"], *LISTED["unasked"]]:
        assert len(entry["reason"]) > 10, entry["check"]


# --- 2: the engine ------------------------------------------------------------------------------------------


def test_2_1_engine_runs_without_root(engine):
    assert "name=rootless" in engine.info["SecurityOptions"]


def test_2_2_containers_on_the_default_bridge_cannot_talk(docker, engine):
    [bridge] = json.loads(docker("network inspect bridge"))
    assert bridge["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert engine.settings["icc"] is False


def test_2_3_engine_logs_at_level_info(engine):
    assert engine.settings["log-level"] == "info"
    assert not {"--debug", "-D", "--log-level", "-l"} & {
        argument.split("=")[0] for argument in engine.command
    }
    assert engine.info["Debug"] is False


def test_2_4_engine_keeps_the_firewall_rules(host, engine):
    assert engine.settings.get("iptables", True) is True
    assert engine.settings["ip6tables"] is True
    assert host.run("iptables -nL DOCKER-USER").rc == 0
    assert host.run("ip6tables -nL DOCKER-USER").rc == 0


def test_2_5_no_registry_is_insecure(engine):
    assert engine.info["RegistryConfig"]["InsecureRegistryCIDRs"] == ["127.0.0.0/8"]
    assert all(index["Secure"] for index in engine.info["RegistryConfig"]["IndexConfigs"].values())


def test_2_6_storage_driver_is_maintained(engine):
    assert engine.info["Driver"] == "overlay2"


def test_2_7_engine_is_not_reached_over_a_network(host, engine):
    hosts = [
        a for flag, a in zip(engine.command, engine.command[1:], strict=False) if flag in ("-H", "--host")
    ]
    assert hosts == ["fd://"]
    assert "hosts" not in engine.settings
    assert host.check_output("systemctl show docker.socket --property=Listen").splitlines() == [
        "Listen=/run/docker.sock (Stream)"
    ]


def test_2_8_default_limits_are_set(docker, engine, running):
    limits = engine.settings["default-ulimits"]
    script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc"
    found = docker("run --rm --network none --entrypoint bash %s -c %s", running["db"]["Image"], script)
    assert [int(limit) for limit in found.split()] == [
        limits[name][which] for name in ("nofile", "core") for which in ("Soft", "Hard")
    ]
    assert limits["core"]["Hard"] == 0


def test_2_9_users_of_containers_are_not_those_of_the_host(engine):
    assert any("name=userns" in option for option in engine.info["SecurityOptions"])


def test_2_10_cgroups_are_the_engine_s_own(engine):
    assert "cgroup-parent" not in engine.settings
    assert not any(argument.startswith("--cgroup-parent") for argument in engine.command)


def test_2_11_size_of_devices_is_unchanged(engine):
    assert "storage-opts" not in engine.settings
    assert not any(argument.startswith("--storage-opt") for argument in engine.command)


def test_2_12_commands_are_authorized(engine):
    assert engine.info["Plugins"]["Authorization"]


def test_2_13_logs_go_elsewhere(engine):
    assert engine.info["LoggingDriver"] not in ("json-file", "local", "journald", "none")


def test_2_14_no_container_gains_rights(engine):
    assert "name=no-new-privileges" in engine.info["SecurityOptions"]


def test_2_15_containers_outlive_the_engine(engine):
    assert engine.info["LiveRestoreEnabled"] is True


def test_2_16_no_proxy_runs_for_a_port(host, engine):
    assert engine.settings["userland-proxy"] is False
    assert host.run("pgrep --exact docker-proxy").rc == 1


def test_2_17_system_calls_are_filtered_by_default(engine):
    [seccomp] = [option for option in engine.info["SecurityOptions"] if option.startswith("name=seccomp")]
    assert seccomp in ("name=seccomp,profile=builtin", "name=seccomp,profile=default")


def test_2_18_nothing_is_experimental(engine):
    assert engine.info["ExperimentalBuild"] is False


# --- 3: the engine's files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "owner", "most"),
    [
        ("/usr/lib/systemd/system/docker.service", "root:root", 0o644),
        ("/usr/lib/systemd/system/docker.socket", "root:root", 0o644),
        ("/etc/docker", "root:root", 0o755),
        ("/etc/docker/daemon.json", "root:root", 0o644),
        ("/etc/default/docker", "root:root", 0o644),
        ("/var/lib/docker", "root:root", 0o710),
        ("/run/docker.sock", "root:docker", 0o660),
        ("/run/containerd/containerd.sock", "root:root", 0o660),
    ],
)
def test_section_3_file_is_root_s(host, path, owner, most):
    file = host.file(path)
    assert f"{file.user}:{file.group}" == owner
    assert file.mode & ~most == 0


def test_section_1_nobody_but_root_may_speak_to_the_engine(host, variables):
    assert host.check_output("getent group docker").endswith(":")
    assert host.run(f"runuser -u {variables['ansible_user']} -- docker ps").rc != 0


# --- 4: the images ------------------------------------------------------------------------------------------


@each
def test_4_1_image_has_a_user(image, service):
    uid, _, gid = image(service)["Config"]["User"].partition(":")
    assert int(uid) > 0
    assert int(gid) > 0


@each
def test_4_3_image_has_no_needless_packages(within, service):
    needless = "sudo ssh sshd curl wget nc cc make git pip pip3"
    assert within(service, f"for p in {needless}; do command -v $p; done; true") == ""
    files = "/var/lib/apt/lists /var/cache/apt /root/.cache /tmp /var/tmp"
    assert within(service, f"find {files} -type f ! -name lock 2>/dev/null; true") == ""


def test_4_5_images_are_signed(host):
    assert host.environment().get("DOCKER_CONTENT_TRUST") == "1"


@each
def test_4_6_image_has_a_health_check(image, service):
    assert image(service)["Config"].get("Healthcheck")


@each
def test_4_8_no_program_lends_its_owner_s_rights(within, service):
    assert within(service, "find / -xdev -type f -perm /6000") == ""


@each
def test_4_9_image_is_built_without_add(docker, running, service):
    steps = docker("history --no-trunc --format '{{.CreatedBy}}' %s", running[service]["Image"]).splitlines()
    assert any(step.startswith("COPY ") for step in steps)
    assert not any(step.startswith("ADD ") for step in steps)


@each
def test_4_10_no_secret_is_in_the_image(docker, within, running, secrets, service):
    shown = docker("history --no-trunc %s", running[service]["Image"])
    assert secrets.named_in(shown) == []
    keys = (
        r"find / -xdev ( -name '*.key' -o -name 'id_*' -o -name '*_key' -o -path '/run/secrets/*' ) -type f"
    )
    assert within(service, keys.replace("(", r"\(").replace(")", r"\)")) == ""


# --- 5: the containers --------------------------------------------------------------------------------------


def test_5_1_swarm_is_off(engine):
    assert engine.info["Swarm"]["LocalNodeState"] == "inactive"


@each
def test_5_2_apparmor_confines(container, service):
    assert container["AppArmorProfile"] not in ("", "unconfined")


@each
def test_5_3_selinux_confines_where_the_kernel_has_it(host, container, service):
    assert container["HostConfig"]["SecurityOpt"]
    assert container["ProcessLabel"] or not host.file("/sys/fs/selinux/enforce").exists


@each
def test_5_4_capabilities_are_none(host, first, config, service):
    assert config["CapAdd"] is None
    assert config["CapDrop"] == ["ALL"]
    assert host.check_output("grep ^Cap %s/status", first).count("0000000000000000") == 5


@each
def test_5_5_no_container_is_privileged(config, service):
    assert config["Privileged"] is False


@each
def test_5_6_nothing_of_the_system_is_mounted(container, service):
    for mount in container["Mounts"]:
        assert mount["Source"] not in ["/", *SENSITIVE]
        within = any(mount["Source"].startswith(f"{directory}/") for directory in SENSITIVE)
        assert not (within and mount["RW"]), mount["Source"]


@each
def test_5_7_no_container_runs_sshd(docker, container, service):
    assert "sshd" not in docker("top %s", container["Id"])


@each
def test_5_8_no_port_below_1024_is_published(container, service):
    ports = [
        int(p["HostPort"]) for found in container["NetworkSettings"]["Ports"].values() for p in found or []
    ]
    assert [port for port in ports if port < 1024] == []


@each
def test_5_9_no_port_is_open(docker, container, service):
    assert docker("port %s", container["Id"]) == ""


@each
def test_5_10_network_is_not_the_host_s(config, service):
    assert config["NetworkMode"] != "host"


@each
def test_5_11_memory_is_limited(config, service):
    assert 0 < config["Memory"] == config["MemorySwap"]


@each
def test_5_12_cpu_is_limited(config, service):
    assert config["NanoCpus"] > 0


@each
def test_5_13_root_filesystem_is_read_only(config, service):
    assert config["ReadonlyRootfs"] is True


@each
def test_5_14_no_port_is_bound_to_every_interface(docker, container, service):
    assert re.findall(r"-> (0\.0\.0\.0|\[::\]):", docker("port %s", container["Id"])) == []


@each
def test_5_15_restarts_after_failures_are_at_most_5(config, service):
    assert config["RestartPolicy"]["Name"] != "always"
    assert config["RestartPolicy"]["MaximumRetryCount"] <= 5


@each
def test_5_16_processes_are_not_the_host_s(config, service):
    assert config["PidMode"] == ""


@each
def test_5_17_shared_memory_is_not_the_host_s(config, service):
    assert config["IpcMode"] == "private"


@each
def test_5_18_no_device_is_exposed(config, service):
    assert not config["Devices"]
    assert not config["DeviceRequests"]


@each
def test_5_19_limits_are_set(host, engine, first, service):
    lines = host.file(f"{first}/limits").content_string
    hard = dict(re.findall(r"^Max (open files|core file size) +\w+ +(\w+)", lines, re.M))
    limits = engine.settings["default-ulimits"]
    assert hard == {"open files": str(limits["nofile"]["Hard"]), "core file size": "0"}


@each
def test_5_20_mounts_do_not_spread(container, service):
    assert {mount["Propagation"] for mount in container["Mounts"]} <= {"", "private", "rprivate"}


@each
def test_5_21_hostname_is_not_the_host_s(config, service):
    assert config["UTSMode"] == ""


@each
def test_5_22_system_calls_are_filtered(host, first, config, service):
    assert not any("seccomp" in option for option in config["SecurityOpt"])
    assert re.search(r"^Seccomp:\s+2$", host.file(f"{first}/status").content_string, re.M)


@each
def test_5_25_cgroup_is_the_engine_s(config, service):
    assert config["CgroupParent"] == ""


@each
def test_5_26_no_rights_can_be_gained(config, service):
    assert "no-new-privileges:true" in config["SecurityOpt"]


@each
def test_5_27_health_is_checked(container, service):
    assert container["State"]["Health"]["Status"] == "healthy"


@each
def test_5_29_processes_are_limited(config, service):
    assert config["PidsLimit"] > 0


@each
def test_5_30_default_bridge_is_not_used(container, service):
    assert "bridge" not in container["NetworkSettings"]["Networks"]


@each
def test_5_31_users_are_not_forced_to_be_the_host_s(config, service):
    assert config["UsernsMode"] != "host"


@each
def test_5_32_engine_s_socket_is_not_mounted(container, service):
    assert not any("docker.sock" in mount["Source"] for mount in container["Mounts"])
