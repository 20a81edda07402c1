"""The control node's part of host_files: render the contents, send them, and notify handlers."""

import hashlib
import json
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

ROOT = Path(__file__).resolve().parents[2]


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Send at once all entries that the host is not known to have; notify handlers of those written."""
        result = super().run(tmp, task_vars)
        files = [dict(file) for file in self._task.args["files"]]
        listeners = {file.get("file"): file.pop("notify", []) for file in files}
        for file in files:
            if "template" in file:
                file["content"] = self._render(place(file.pop("template"), "templates"), task_vars)
            elif "copy" in file:
                file["content"] = place(file.pop("copy"), "files").read_text()
            elif "tree" in file:
                file["contents"] = contents(ROOT / file.pop("source"))
                file["version"] = digest(file["contents"])[:12]
            file["digest"] = digest(file)
        known = task_vars["ansible_facts"].get("host_files", {})
        unknown = [file for file in files if known.get(path_of(file)) != file["digest"]]
        if not unknown:
            return result | {"changed": False, "written": [], "diff": []}
        arguments = self._task.args | {"files": unknown}
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        if not (self._task.check_mode or result.get("failed")):
            # A later task may manage the same path.
            known = known | {path_of(file): file["digest"] for file in unknown}
            result["ansible_facts"] = {"host_files": known}
        notified = [name for path in result.get("written", []) for name in listeners.get(path, [])]
        if notified:
            self._task.notify = list(dict.fromkeys(notified))
        return result

    def _render(self, path, variables):
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        [text] = lookup.run([str(path)], variables=variables)
        return text


def path_of(entry):
    """Return the path of an entry."""
    return next(entry[kind] for kind in ("file", "directory", "link", "tree", "absent") if kind in entry)


def place(source, directory):
    """Return the path of the role's file that is named ROLE/NAME."""
    role, name = source.split("/", 1)
    return ROOT / "roles" / role / directory / name


def contents(directory):
    """Return the text of each Python module below a directory, by its path from the directory's parent."""
    return {
        str(path.relative_to(directory.parent)): path.read_text() for path in sorted(directory.rglob("*.py"))
    }


def digest(value):
    """Return a digest of a value of JSON, which changes when, and only when, the value does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
