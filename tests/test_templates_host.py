"""The settings of the host itself, rendered by Ansible and checked by the programs that read them."""

import re


def test_nft_accepts_the_rules_repeatedly(rendered_files, check):
    load = "nft --file /etc/nftables.conf"
    done = check(
        "--cap-add=NET_ADMIN",
        f"--volume={rendered_files}/nftables.conf:/etc/nftables.conf:ro",
        command=["sh", "-c", f"{load} && {load} && nft list tables"],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "table inet slipway_public\ntable inet slipway\n"
    assert done.stderr == ""
    assert "flush ruleset" not in (rendered_files / "nftables.conf").read_text()


def test_firewall_opens_only_the_given_ports(template_case, rendered_files):
    sets = re.findall(
        r"set (\w+) \{\s+type inet_service(?:\s+elements = \{ (.*) \})?\s+\}",
        (rendered_files / "nftables.conf").read_text(),
    )
    nothing = {"public_tcp": "", "public_udp": "", "host_tcp": "", "host_udp": ""}
    expected = {
        "defaults": nothing | {"public_tcp": "80, 443"},
        "large_host": nothing | {"public_tcp": "80, 443"},
        "plain_http": nothing | {"public_tcp": "80, 443"},
        "awkward_words": nothing,
        "everything_else": {
            "public_tcp": "80, 8443",
            "public_udp": "8443",
            "host_tcp": "1",
            "host_udp": "51820, 51821",
        },
    }
    assert dict(sets) == expected[template_case]


DEBIAN = [
    "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
    "origin=Debian,codename=${distro_codename},label=Debian",
]
ORIGINS = {
    "Debian 12": DEBIAN,
    "Debian 13": DEBIAN,
    "Ubuntu 24": ["origin=Ubuntu,archive=${distro_codename}-security,label=Ubuntu"],
}


def test_apt_is_configured_for_security_upgrades_point_releases_and_the_time_of_reboots(
    variables, rendered_files, check
):
    mount = f"--volume={rendered_files}/apt.conf:/etc/apt/apt.conf.d/52slipway:ro"
    done = check(mount, command=["apt-config", "dump"])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    dumped = [
        line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith("Unattended-Upgrade:")
    ]
    settings = [(name.removeprefix("Unattended-Upgrade::"), value.strip('";')) for name, value in dumped]
    origins = [value for name, value in settings if name == "Origins-Pattern::"]
    assert origins == ORIGINS[variables["render_system"]]
    found = dict(settings)
    assert found["Automatic-Reboot"] == ("true" if variables["baseline_reboot_time"] else "false")
    assert found.get("Automatic-Reboot-Time", "") == variables["baseline_reboot_time"]
