"""The control node's half of host_files: it renders what a host gets, and notifies whom that concerns."""

import hashlib
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

ROOT = Path(__file__).resolve().parents[2]


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Send all contents at once; a handler is notified when, and only when, a file of its is written."""
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
        result.update(self._execute_module(module_args={"files": files}, task_vars=task_vars))
        notified = [name for path in result.get("written", []) for name in listeners.get(path, [])]
        if notified:
            self._task.notify = list(dict.fromkeys(notified))
        return result

    def _render(self, path, variables):
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        [text] = lookup.run([str(path)], variables=variables)
        return text


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
