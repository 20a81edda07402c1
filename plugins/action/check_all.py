# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check a list of requirements in one task: a task for each would add seconds to every run."""

from __future__ import annotations

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Evaluate the requirements on the control node; no connection is made."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Fail with the messages of all requirements that are not met.

        Each item of the argument `checks` has `name`, `that` (one condition, or a list of conditions that all
        must hold), `fail_msg`, and optionally `when` (conditions under which the item is checked at all).
        The optional argument `lists` has the names of variables that must be lists, each with an example of
        an item. They are checked first, because the conditions can be evaluated only if these are lists.
        """
        result = super().run(tmp, task_vars)
        examples, checks = self._task.args.get("lists", {}), self._task.args["checks"]
        # Do not show the values: one may be a private key.
        failures = [
            f"{name} is not a list. Write it like [{examples[name]}], even for one value."
            for name in examples
            if not isinstance(self._templar.template(task_vars[name]), list)
        ] or [failure for check in checks if (failure := self._failure(check))]
        result.update(failed=bool(failures), msg="\n".join(failures) or "All requirements are met")
        return result

    def _failure(self, check):
        """Return a message if the check fails or cannot be evaluated, else None.

        An error does not end the task, because the failures of the other checks must be reported too.
        """
        try:
            if self._hold(check.get("when", True)) and not self._hold(check["that"]):
                return check["fail_msg"]
        except AnsibleError as error:
            return f"{check['name']}: {error}"
        return None

    def _hold(self, conditions):
        conditions = conditions if isinstance(conditions, list) else [conditions]
        return all(self._templar.evaluate_conditional(condition) for condition in conditions)
