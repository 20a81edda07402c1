"""The control node's half of host_files: it renders what a host gets, and notifies whom that concerns."""

import hashlib
import json
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

ROOT = Path(__file__).resolve().parents[2]


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Send what is not known to be there, all at once; notify the handlers of what was written."""
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
                file["version"] = version(file["contents"])
            file["digest"] = hashlib.sha256(
                json.dumps(file, sort_keys=True, default=str).encode()
            ).hexdigest()
        known = task_vars["ansible_facts"].get("host_files", {})
        unknown = [file for file in files if known.get(path_of(file)) != file["digest"]]
        if not unknown:
            return result | {"changed": False, "written": [], "diff": []}
        arguments = self._task.args | {"files": unknown}
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        notified = [name for path in result.get("written", []) for name in listeners.get(path, [])]
        if notified:
            self._task.notify = list(dict.fromkeys(notified))
        return result

    def _render(self, path, variables):
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        [text] = lookup.run([str(path)], variables=variables)
        return text


def path_of(entry):
    """Return the path that an entry is about."""
    return next(entry[kind] for kind in ("file", "directory", "link", "tree", "absent") if kind in entry)


def place(source, directory):
    """Return where a role keeps what is named ROLE/NAME."""
    role, name = source.split("/", 1)
    return ROOT / "roles" / role / directory / name


def contents(directory):
    """Return the text of each Python module below a directory by name, which begins with the directory's."""
    return {
        str(path.relative_to(directory.parent)): path.read_text() for path in sorted(directory.rglob("*.py"))
    }


def version(texts):
    """Return a name for texts by name that changes when, and only when, one of them does."""
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{hashlib.sha256(text.encode()).hexdigest()}\0".encode())
    return digest.hexdigest()[:12]
