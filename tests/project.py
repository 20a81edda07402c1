"""The repository's roles, for the tests and for the generator of the role READMEs."""

import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent

# Make the collection importable, as Ansible does.
sys.path.append(str(ROOT / "collections"))


@dataclass(frozen=True)
class Role:
    """One directory of roles/."""

    path: Path

    @property
    def name(self):
        """The role's name, which is also the prefix of its variables."""
        return self.path.name

    @property
    def full_name(self):
        """The role's name in the collection."""
        return f"slipway.blog.{self.name}"

    def load(self, relative, otherwise=None):
        """Return the content of a YAML file of the role, or `otherwise` when there is no such file."""
        file = self.path / relative
        return yaml.safe_load(file.read_text()) if file.exists() else otherwise

    @cached_property
    def specs(self):
        """The argument specs by entry point."""
        return self.load("meta/argument_specs.yml")["argument_specs"]

    @property
    def options(self):
        """The public variables by name."""
        return self.specs["main"]["options"]

    @cached_property
    def task_files(self):
        """Every list of tasks and handlers, by file."""
        files = sorted(self.path.glob("tasks/*.yml")) + sorted(self.path.glob("handlers/*.yml"))
        return {file: yaml.safe_load(file.read_text()) for file in files}

    @property
    def tasks(self):
        """Every task, handler and block as (file, task), including those inside blocks."""
        return [(file, task) for file, tasks in self.task_files.items() for task in flat(tasks)]

    @property
    def host_files(self):
        """Every entry of the role's tasks with the module host_files."""
        module = "slipway.blog.host_files"
        return [entry for file, task in self.tasks if module in task for entry in task[module]["files"]]


def flat(tasks):
    """Yield tasks, including those inside blocks."""
    for task in tasks:
        yield task
        for section in ("block", "rescue", "always"):
            yield from flat(task.get(section, []))


ROLES = [Role(path) for path in sorted((ROOT / "roles").iterdir())]


def load_program(path):
    """Import a Python file of any name, and write no bytecode next to it."""
    loader = SourceFileLoader(path.stem, str(path))
    module = module_from_spec(spec_from_loader(path.stem, loader))
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = bytecode
    return module
