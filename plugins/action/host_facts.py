"""The control node's part of host_facts: an unreachable host is an ordinary failure."""

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
