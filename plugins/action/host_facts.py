"""The control node's half of host_facts: a host that cannot be reached is a failure like others."""

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Run the module; where no connection is made, fail with the reason, so that a play may go on."""
        result = super().run(tmp, task_vars)
        try:
            return result | self._execute_module(task_vars=task_vars)
        except AnsibleConnectionFailure as failure:
            return result | {"failed": True, "msg": str(failure)}
