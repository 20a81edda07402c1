# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The control node's part of host_facts: it turns an unreachable host into an ordinary failure."""

from __future__ import annotations

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Run the module; fail with the reason if login or becoming root fails."""
        result = super().run(tmp, task_vars)
        try:
            return result | self._execute_module(task_vars=task_vars)
        except AnsibleError as failure:
            return result | {"failed": True, "msg": str(failure)}
