# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts about the system, which Ansible's own collectors gather."""

from __future__ import annotations

from ansible.module_utils.facts.ansible_collector import get_ansible_collector
from ansible.module_utils.facts.hardware.linux import LinuxHardwareCollector
from ansible.module_utils.facts.namespace import PrefixFactNamespace
from ansible.module_utils.facts.network.linux import LinuxNetworkCollector
from ansible.module_utils.facts.system.distribution import DistributionFactCollector
from ansible.module_utils.facts.system.env import EnvFactCollector
from ansible.module_utils.facts.system.platform import PlatformFactCollector

# The collectors of the module ansible.builtin.setup whose facts the roles use.
COLLECTORS = [
    DistributionFactCollector,
    EnvFactCollector,
    LinuxHardwareCollector,
    LinuxNetworkCollector,
    PlatformFactCollector,
]


def system(module):
    """Return the facts about distribution, memory, disks and network that the module setup gathers."""
    namespace = PrefixFactNamespace(namespace_name="ansible", prefix="ansible_")
    collector = get_ansible_collector(all_collector_classes=COLLECTORS, namespace=namespace)
    return collector.collect(module=module)
