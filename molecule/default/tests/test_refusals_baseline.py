"""A wrong value for users, sshd, firewall, upgrades or journal is refused before anything changes."""

from refusals import Case, each

CASES = [
    Case(
        "root as the admin user",
        [
            'The admin user of molecule-default is "root"',
            "because sshd refuses root",
            "Set ansible_user: ops",
        ],
        {"baseline_admin_user": "root"},
    ),
    Case(
        "allow-list without the admin user",
        [
            'baseline_ssh_allow_users is ["anna"], so sshd on molecule-default would refuse ops',
            "Add ops to the list",
        ],
        {"baseline_ssh_allow_users": ["anna"]},
    ),
    Case(
        "allow-list with a line break",
        [
            'sshd_config cannot have the value "ops\\nPermitRootLogin yes"',
            "Each item of baseline_ssh_allow_users must be a user name or user@address",
        ],
        {"baseline_ssh_allow_users": ["ops", "ops\nPermitRootLogin yes"]},
    ),
    Case(
        "key that is not a public key",
        ["Item 2 of 2 in baseline_admin_keys is not a public key", "as in ~/.ssh/id_ed25519.pub"],
        {"baseline_admin_keys": [f"ssh-ed25519 {'A' * 68} ops", "never-to-be-shown"]},
        hides="never-to-be-shown",
    ),
    Case(
        "port instead of a list",
        ["baseline_public_tcp_ports is not a list", "Write it like [443], even for one value"],
        {"baseline_public_tcp_ports": "443"},
    ),
    Case(
        "invalid ports",
        ["Invalid port 70000, 0 in", "baseline_host_udp_ports", "numbers from 1 to 65535"],
        {"baseline_public_tcp_ports": [80, 70000], "baseline_host_udp_ports": [0]},
    ),
    Case(
        "SSH rate of zero",
        [
            "baseline_ssh_rate is 0",
            "the firewall would drop every connection to sshd",
            "numbers above 0",
        ],
        {"baseline_ssh_rate": "0"},
    ),
    Case(
        "invalid time of day",
        ['baseline_reboot_time is "25:00", which is not a time of day', 'like "04:00", with quotes'],
        {"baseline_reboot_time": "25:00"},
    ),
    Case(
        "invalid size of the journal",
        ['baseline_journal_max_size is "much", which is not a size', "like 500M"],
        {"baseline_journal_max_size": "much"},
    ),
]


@each(CASES)
def test_wrong_setting_of_the_base_system_is_refused(case, assert_refused):
    assert_refused(case)
