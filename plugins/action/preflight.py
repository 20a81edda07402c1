"""Many checks in one task, each with what to do about it: a task for each would cost a run seconds."""

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Ansible's entry point. It runs on the control node, and asks no host."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Fail with `fail_msg` of each check whose conditions, `that`, do not all hold; where `when` does."""
        result = super().run(tmp, task_vars)
        problems = []
        for check in self._task.args["checks"]:
            if self._holds(check.get("when", True)) and not self._holds(check["that"]):
                problems.append(check["fail_msg"])
        result.update(failed=bool(problems), msg="\n".join(problems) or "All checks passed")
        return result

    def _holds(self, conditions):
        conditions = conditions if isinstance(conditions, list) else [conditions]
        return all(self._templar.evaluate_conditional(condition) for condition in conditions)
