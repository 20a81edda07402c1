"""The control node's half of host_facts: a host that cannot be reached is a failure like others."""

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Run the module; fail with the reason where nobody can log in or become root."""
        result = super().run(tmp, task_vars)
        try:
            return result | self._execute_module(task_vars=task_vars)
        except AnsibleError as failure:
            return result | {"failed": True, "msg": str(failure)}
