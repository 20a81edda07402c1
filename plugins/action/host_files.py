"""The control node's half of host_files: it renders what a host gets, and notifies whom that concerns."""

from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

ROLES = Path(__file__).resolve().parents[2] / "roles"


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
    return ROLES / role / directory / name
