# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the program `slipway` on the host, and read its answer."""

from __future__ import annotations

import errno
import json

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

PROGRAM = "/usr/local/bin/slipway"


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Run the program; fail with what it printed. In check mode, skip commands that have no dry run."""
        result = super().run(tmp, task_vars)
        result.update(changed=False, answer={}, lines=[])
        dry, arguments = self._task.check_mode, self._task.args
        if dry and not boolean(arguments.get("dry_run", False)):
            return result | {"skipped": True}
        # The module `command` does nothing in check mode.
        self._task.check_mode = False
        command = [arguments.get("executable", PROGRAM), *arguments["arguments"]]
        try:
            done = self._execute_module(
                module_name="ansible.builtin.command",
                module_args={"argv": command + ["--check"] * dry, "stdin": arguments.get("stdin")},
                task_vars=task_vars,
            )
        finally:
            self._task.check_mode = dry
        result["rc"] = done.get("rc")
        if done.get("rc") == 0 and not done.get("failed"):
            answer, lines = read(done["stdout"])
            result.update(answer=answer, lines=lines, msg=answer.get("message", ""))
            return result | {"changed": answer.get("changed", True)}
        # Ansible sets module_stdout and module_stderr if the module `command` itself could not run.
        outputs = [done.get(name) for name in ("stdout", "stderr", "module_stdout", "module_stderr")]
        message = "\n".join(text for text in outputs if text)
        is_missing = not message and done.get("rc") == errno.ENOENT
        if is_missing:
            message = f"The host has no program {command[0]}. Run site.yml, which installs it."
        message = message or done.get("msg", "")
        if not dry:
            return result | {"failed": True, "msg": message}
        # In a dry run, the host may have no program yet, or a former version.
        warnings = [] if is_missing else [f"The dry run of `{' '.join(command)}` failed: {message}"]
        return result | {"failed": False, "changed": True, "msg": message, "warnings": warnings}


def read(output):
    """Return the JSON object in the last line of an output, and the lines before it; or {} and all lines."""
    lines = output.splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}, lines
    return (answer, lines[:-1]) if isinstance(answer, dict) else ({}, lines)
