"""The CIS Docker Benchmark, section 5: the containers."""

import re

import pytest
from cis import each_service

SENSITIVE = ["/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr"]
# A check fails where cis.yml lists it, and nowhere else.
pytestmark = pytest.mark.usefixtures("expected_failures")


def test_5_1_swarm_is_off(engine):
    assert engine.info["Swarm"]["LocalNodeState"] == "inactive"


@each_service
def test_5_2_apparmor_confines(container, service):
    assert container["AppArmorProfile"] not in ("", "unconfined")


@each_service
def test_5_3_selinux_confines_where_the_kernel_has_it(host, container, service):
    assert container["HostConfig"]["SecurityOpt"]
    assert container["ProcessLabel"] or not host.file("/sys/fs/selinux/enforce").exists


@each_service
def test_5_4_capabilities_are_none(host, first_process, host_config, service):
    assert host_config["CapAdd"] is None
    assert host_config["CapDrop"] == ["ALL"]
    assert host.check_output("grep ^Cap %s/status", first_process).count("0000000000000000") == 5


@each_service
def test_5_5_no_container_is_privileged(host_config, service):
    assert host_config["Privileged"] is False


@each_service
def test_5_6_nothing_of_the_system_is_mounted(container, service):
    for mount in container["Mounts"]:
        assert mount["Source"] not in ["/", *SENSITIVE]
        within = any(mount["Source"].startswith(f"{directory}/") for directory in SENSITIVE)
        assert not (within and mount["RW"]), mount["Source"]


@each_service
def test_5_7_no_container_runs_sshd(docker, container, service):
    assert "sshd" not in docker("top %s", container["Id"])


@each_service
def test_5_8_no_port_below_1024_is_published(container, service):
    ports = [
        int(p["HostPort"]) for found in container["NetworkSettings"]["Ports"].values() for p in found or []
    ]
    assert [port for port in ports if port < 1024] == []


@each_service
def test_5_9_no_port_is_open(docker, container, service):
    assert docker("port %s", container["Id"]) == ""


@each_service
def test_5_10_network_is_not_the_host_s(host_config, service):
    assert host_config["NetworkMode"] != "host"


@each_service
def test_5_11_memory_is_limited(host_config, service):
    assert 0 < host_config["Memory"] == host_config["MemorySwap"]


@each_service
def test_5_12_cpu_is_limited(host_config, service):
    assert host_config["NanoCpus"] > 0


@each_service
def test_5_13_root_filesystem_is_read_only(host_config, service):
    assert host_config["ReadonlyRootfs"] is True


@each_service
def test_5_14_no_port_is_bound_to_every_interface(docker, container, service):
    assert re.findall(r"-> (0\.0\.0\.0|\[::\]):", docker("port %s", container["Id"])) == []


@each_service
def test_5_15_restarts_after_failures_are_at_most_5(host_config, service):
    assert host_config["RestartPolicy"]["Name"] != "always"
    assert host_config["RestartPolicy"]["MaximumRetryCount"] <= 5


@each_service
def test_5_16_processes_are_not_the_host_s(host_config, service):
    assert host_config["PidMode"] == ""


@each_service
def test_5_17_shared_memory_is_not_the_host_s(host_config, service):
    assert host_config["IpcMode"] == "private"


@each_service
def test_5_18_no_device_is_exposed(host_config, service):
    assert not host_config["Devices"]
    assert not host_config["DeviceRequests"]


@each_service
def test_5_19_limits_are_set(host, engine, first_process, service):
    lines = host.file(f"{first_process}/limits").content_string
    hard = dict(re.findall(r"^Max (open files|core file size) +\w+ +(\w+)", lines, re.M))
    limits = engine.settings["default-ulimits"]
    assert hard == {"open files": str(limits["nofile"]["Hard"]), "core file size": "0"}


@each_service
def test_5_20_mounts_do_not_spread(container, service):
    assert {mount["Propagation"] for mount in container["Mounts"]} <= {"", "private", "rprivate"}


@each_service
def test_5_21_hostname_is_not_the_host_s(host_config, service):
    assert host_config["UTSMode"] == ""


@each_service
def test_5_22_system_calls_are_filtered(host, first_process, host_config, service):
    assert not any("seccomp" in option for option in host_config["SecurityOpt"])
    assert re.search(r"^Seccomp:\s+2$", host.file(f"{first_process}/status").content_string, re.M)


@each_service
def test_5_25_cgroup_is_the_engine_s(host_config, service):
    assert host_config["CgroupParent"] == ""


@each_service
def test_5_26_no_rights_can_be_gained(host_config, service):
    assert "no-new-privileges:true" in host_config["SecurityOpt"]


@each_service
def test_5_27_health_is_checked(container, service):
    assert container["State"]["Health"]["Status"] == "healthy"


@each_service
def test_5_29_processes_are_limited(host_config, service):
    assert host_config["PidsLimit"] > 0


@each_service
def test_5_30_default_bridge_is_not_used(container, service):
    assert "bridge" not in container["NetworkSettings"]["Networks"]


@each_service
def test_5_31_users_are_not_forced_to_be_the_host_s(host_config, service):
    assert host_config["UsernsMode"] != "host"


@each_service
def test_5_32_engine_s_socket_is_not_mounted(container, service):
    assert not any("docker.sock" in mount["Source"] for mount in container["Mounts"])
