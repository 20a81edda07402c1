"""Check the Docker engine and its files against sections 1 to 3 of the CIS Docker Benchmark."""

import json

import pytest

# A check must fail if cis.yml lists it, and must pass otherwise.
pytestmark = pytest.mark.usefixtures("expected_failures")


def test_2_1_engine_runs_without_root(engine):
    assert "name=rootless" in engine.info["SecurityOptions"]


def test_2_2_containers_on_the_default_bridge_cannot_reach_each_other(docker, engine):
    [bridge] = json.loads(docker("network inspect bridge"))
    assert bridge["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert engine.settings["icc"] is False


def test_2_3_engine_logs_at_level_info(engine):
    assert engine.settings["log-level"] == "info"
    assert not {"--debug", "-D", "--log-level", "-l"} & {
        argument.split("=")[0] for argument in engine.command
    }
    assert engine.info["Debug"] is False


def test_2_4_engine_manages_its_firewall_rules(host, engine):
    assert engine.settings.get("iptables", True) is True
    assert engine.settings["ip6tables"] is True
    assert host.run("iptables -nL DOCKER-USER").rc == 0
    assert host.run("ip6tables -nL DOCKER-USER").rc == 0


def test_2_5_engine_allows_no_insecure_registry(engine):
    assert engine.info["RegistryConfig"]["InsecureRegistryCIDRs"] == ["127.0.0.0/8"]
    assert all(index["Secure"] for index in engine.info["RegistryConfig"]["IndexConfigs"].values())


def test_2_6_storage_driver_is_maintained(engine):
    assert engine.info["Driver"] == "overlay2"


def test_2_7_engine_listens_on_no_network(host, engine):
    hosts = [
        a for flag, a in zip(engine.command, engine.command[1:], strict=False) if flag in ("-H", "--host")
    ]
    assert hosts == ["fd://"]
    assert "hosts" not in engine.settings
    assert host.check_output("systemctl show docker.socket --property=Listen").splitlines() == [
        "Listen=/run/docker.sock (Stream)"
    ]


def test_2_8_default_ulimits_are_set(docker, engine, running):
    limits = engine.settings["default-ulimits"]
    script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc"
    found = docker("run --rm --network none --entrypoint bash %s -c %s", running["db"]["Image"], script)
    assert [int(limit) for limit in found.split()] == [
        limits[name][which] for name in ("nofile", "core") for which in ("Soft", "Hard")
    ]
    assert limits["core"]["Hard"] == 0


def test_2_9_user_namespaces_separate_containers_from_the_host(engine):
    assert any("name=userns" in option for option in engine.info["SecurityOptions"])


def test_2_10_cgroup_parent_is_the_default(engine):
    assert "cgroup-parent" not in engine.settings
    assert not any(argument.startswith("--cgroup-parent") for argument in engine.command)


def test_2_11_storage_options_are_the_defaults(engine):
    assert "storage-opts" not in engine.settings
    assert not any(argument.startswith("--storage-opt") for argument in engine.command)


def test_2_12_authorization_plugin_is_enabled(engine):
    assert engine.info["Plugins"]["Authorization"]


def test_2_13_logs_are_sent_to_another_host(engine):
    assert engine.info["LoggingDriver"] not in ("json-file", "local", "journald", "none")


def test_2_14_containers_gain_no_privileges_by_default(engine):
    assert "name=no-new-privileges" in engine.info["SecurityOptions"]


def test_2_15_containers_survive_a_restart_of_the_engine(engine):
    assert engine.info["LiveRestoreEnabled"] is True


def test_2_16_engine_runs_no_userland_proxy(host, engine):
    assert engine.settings["userland-proxy"] is False
    assert host.run("pgrep --exact docker-proxy").rc == 1


def test_2_17_seccomp_filters_system_calls_by_default(engine):
    [seccomp] = [option for option in engine.info["SecurityOptions"] if option.startswith("name=seccomp")]
    assert seccomp in ("name=seccomp,profile=builtin", "name=seccomp,profile=default")


def test_2_18_experimental_features_are_off(engine):
    assert engine.info["ExperimentalBuild"] is False


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
def test_section_3_file_has_the_recommended_owner_and_mode(host, path, owner, most):
    file = host.file(path)
    assert f"{file.user}:{file.group}" == owner
    assert file.mode & ~most == 0


def test_section_1_only_root_can_use_the_engine(host, variables):
    assert host.check_output("getent group docker").endswith(":")
    assert host.run(f"runuser -u {variables['ansible_user']} -- docker ps").rc != 0
