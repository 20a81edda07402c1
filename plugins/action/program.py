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
        """Run the program; fail with what it printed. In check mode, only a command with a dry run runs."""
        result = super().run(tmp, task_vars)
        result.update(changed=False, answer={}, lines=[])
        dry, arguments = self._task.check_mode, self._task.args
        if dry and not boolean(arguments.get("dry_run", False)):
            return result | {"skipped": True}
        # The module `command` does nothing in check mode.
        self._task.check_mode = False
        command = [arguments.get("executable", PROGRAM), *arguments["arguments"]]
        done = self._execute_module(
            module_name="ansible.builtin.command",
            module_args={"argv": command + ["--check"] * dry, "stdin": arguments.get("stdin")},
            task_vars=task_vars,
        )
        output, errors = done.get("stdout", ""), done.get("stderr", "")
        answer, lines = read(output)
        result.update(rc=done.get("rc"), stdout=output, stderr=errors, answer=answer, lines=lines)
        if done.get("rc") == 0:
            return result | {"changed": answer.get("changed", True), "msg": answer.get("message", "")}
        message = "\n".join(text for text in (output, errors) if text) or done.get("msg", "")
        if done.get("rc") == errno.ENOENT and not (output or errors):
            message = f"The host has no program {command[0]}. Run site.yml, which installs it."
        # In a dry run, the host may have no program yet, or a former version.
        return result | {"failed": not dry, "changed": dry, "msg": message}


def read(output):
    """Return the object that the last line of an output has as JSON, or {}; and the lines before it."""
    lines = output.splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}, lines
    return (answer, lines[:-1]) if isinstance(answer, dict) else ({}, lines)
