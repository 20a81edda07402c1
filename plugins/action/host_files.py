# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The control node's part of host_files: render the contents, send them, and notify handlers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Send the entries that may have changed, all at once; notify the handlers of the written files."""
        result = super().run(tmp, task_vars)
        files = [dict(file) for file in self._task.args["files"] if boolean(file.get("when", True))]
        listeners = {path_of(file): file.pop("notify", []) for file in files}
        role = self._task._role.get_name() if self._task._role else ""
        for file in files:
            file.pop("when", None)
            if "template" in file:
                path = self._find_needle("templates", file.pop("template"))
                file["content"] = self._render(path, task_vars)
            elif "copy" in file:
                path = self._find_needle("files", file.pop("copy"))
                # The file may be encrypted by ansible-vault.
                file["content"] = Path(self._loader.get_real_file(path)).read_text()
            elif "tree" in file:
                file["contents"] = contents(Path(file.pop("source")))
                file["version"] = digest(file["contents"])[:12]
            file["role"] = role
            file["digest"] = digest(file)
        known = task_vars["ansible_facts"].get("host_files", {})
        unknown = [file for file in files if known.get(path_of(file)) != file["digest"]]
        manifest = task_vars["ansible_facts"].get("host_manifest", [])
        stale = {item["path"] for item in manifest if not item["in_force"]} - known.keys()
        for file in unknown:
            file["stale"] = path_of(file) in stale
        if not unknown:
            return result | {"changed": False, "written": [], "diff": []}
        arguments = self._task.args | {"files": unknown}
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        if not (self._task.check_mode or result.get("failed")):
            # A later task may manage the same path, so it must know what this task wrote.
            known = known | {path_of(file): file["digest"] for file in unknown}
            result["ansible_facts"] = {"host_files": known}
        notified = [name for path in result.get("written", []) for name in listeners.get(path, [])]
        if notified:
            self._task.notify = list(dict.fromkeys(notified))
        return result

    def _render(self, path, variables):
        # The lookup plugin `template` copies all variables for each file, which takes longer than rendering.
        text = trust_as_template(self._loader.get_text_file_contents(path))
        templar = self._templar.copy_with_new_env(
            searchpath=[str(Path(path).parent)],
            available_variables={"ansible_managed": "Ansible managed", **variables},
        )
        return templar.template(text, escape_backslashes=False)


def path_of(entry):
    """Return the path of an entry."""
    return next(entry[kind] for kind in ("file", "directory", "link", "tree", "absent") if kind in entry)


def contents(directory):
    """Return the text of each Python module below a directory; the keys are paths relative to its parent."""
    directory = directory.resolve()
    return {
        str(path.relative_to(directory.parent)): path.read_text() for path in sorted(directory.rglob("*.py"))
    }


def digest(value):
    """Return a digest of a JSON value: only equal values have the same digest."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
