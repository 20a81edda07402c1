"""Check the containers against section 5 of the CIS Docker Benchmark."""

import re

import pytest
from cis import each_service

SENSITIVE = ["/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr"]
# A check must fail if cis.yml lists it, and must pass otherwise.
pytestmark = pytest.mark.usefixtures("expected_failures")


def test_5_1_swarm_is_off(engine):
    assert engine.info["Swarm"]["LocalNodeState"] == "inactive"


@each_service
def test_5_2_apparmor_confines_the_container(container, service):
    assert container["AppArmorProfile"] not in ("", "unconfined")


@each_service
def test_5_3_selinux_confines_the_container_if_the_kernel_has_it(host, container, service):
    assert container["HostConfig"]["SecurityOpt"]
    assert container["ProcessLabel"] or not host.file("/sys/fs/selinux/enforce").exists


@each_service
def test_5_4_container_has_no_capabilities(host, first_process, host_config, service):
    assert host_config["CapAdd"] is None
    assert host_config["CapDrop"] == ["ALL"]
    assert host.check_output("grep ^Cap %s/status", first_process).count("0000000000000000") == 5


@each_service
def test_5_5_container_is_not_privileged(host_config, service):
    assert host_config["Privileged"] is False


@each_service
def test_5_6_container_mounts_no_system_directory_for_writing(container, service):
    for mount in container["Mounts"]:
        assert mount["Source"] not in ["/", *SENSITIVE]
        within = any(mount["Source"].startswith(f"{directory}/") for directory in SENSITIVE)
        assert not (within and mount["RW"]), mount["Source"]


@each_service
def test_5_7_container_runs_no_sshd(docker, container, service):
    assert "sshd" not in docker("top %s", container["Id"])


@each_service
def test_5_8_container_publishes_no_port_below_1024(container, service):
    ports = [
        int(p["HostPort"]) for found in container["NetworkSettings"]["Ports"].values() for p in found or []
    ]
    assert [port for port in ports if port < 1024] == []


@each_service
def test_5_9_container_publishes_no_port(docker, container, service):
    assert docker("port %s", container["Id"]) == ""


@each_service
def test_5_10_container_does_not_use_the_hosts_network(host_config, service):
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
def test_5_14_no_published_port_listens_on_all_interfaces(docker, container, service):
    assert re.findall(r"-> (0\.0\.0\.0|\[::\]):", docker("port %s", container["Id"])) == []


@each_service
def test_5_15_container_restarts_at_most_5_times_after_failures(host_config, service):
    assert host_config["RestartPolicy"]["Name"] != "always"
    assert host_config["RestartPolicy"]["MaximumRetryCount"] <= 5


@each_service
def test_5_16_container_does_not_share_the_hosts_process_namespace(host_config, service):
    assert host_config["PidMode"] == ""


@each_service
def test_5_17_container_does_not_share_the_hosts_ipc_namespace(host_config, service):
    assert host_config["IpcMode"] == "private"


@each_service
def test_5_18_container_has_no_host_device(host_config, service):
    assert not host_config["Devices"]
    assert not host_config["DeviceRequests"]


@each_service
def test_5_19_container_has_the_default_ulimits(host, engine, first_process, service):
    lines = host.file(f"{first_process}/limits").content_string
    hard = dict(re.findall(r"^Max (open files|core file size) +\w+ +(\w+)", lines, re.M))
    limits = engine.settings["default-ulimits"]
    assert hard == {"open files": str(limits["nofile"]["Hard"]), "core file size": "0"}


@each_service
def test_5_20_mount_propagation_is_private(container, service):
    assert {mount["Propagation"] for mount in container["Mounts"]} <= {"", "private", "rprivate"}


@each_service
def test_5_21_container_does_not_share_the_hosts_uts_namespace(host_config, service):
    assert host_config["UTSMode"] == ""


@each_service
def test_5_22_seccomp_filters_system_calls(host, first_process, host_config, service):
    assert not any("seccomp" in option for option in host_config["SecurityOpt"])
    assert re.search(r"^Seccomp:\s+2$", host.file(f"{first_process}/status").content_string, re.M)


@each_service
def test_5_25_container_has_the_default_cgroup_parent(host_config, service):
    assert host_config["CgroupParent"] == ""


@each_service
def test_5_26_container_cannot_gain_privileges(host_config, service):
    assert "no-new-privileges:true" in host_config["SecurityOpt"]


@each_service
def test_5_27_health_check_reports_healthy(container, service):
    assert container["State"]["Health"]["Status"] == "healthy"


@each_service
def test_5_29_number_of_processes_is_limited(host_config, service):
    assert host_config["PidsLimit"] > 0


@each_service
def test_5_30_container_does_not_use_the_default_bridge(container, service):
    assert "bridge" not in container["NetworkSettings"]["Networks"]


@each_service
def test_5_31_user_namespace_mode_is_not_host(host_config, service):
    assert host_config["UsernsMode"] != "host"


@each_service
def test_5_32_container_does_not_mount_the_engines_socket(container, service):
    assert not any("docker.sock" in mount["Source"] for mount in container["Mounts"])
