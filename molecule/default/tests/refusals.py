"""The cases of the modules test_refusals_*.py: runs of ansible-playbook that must be refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Case:
    """A run that must be refused, and the parts of its message.

    `says` and the strings in `variables` may contain {fields} of the fixture `context`. Without `run`, the
    case is a run of site.yml with `variables`. `hides` must not be in the output.
    """

    name: str
    says: list[str]
    variables: dict = field(default_factory=dict)
    run: Callable | None = None
    hides: str = "\0"

    def start(self, context):
        """Run the case, and return its Outcome."""
        if self.run:
            return self.run(context)
        filled = {
            name: value.format(**vars(context)) if isinstance(value, str) else value
            for name, value in self.variables.items()
        }
        return context.deploy("site.yml", *extra(**filled))


def extra(**variables):
    """Return variables as arguments of ansible-playbook. A string stays one, as on a command line."""
    return ["--extra-vars", json.dumps(variables)]


def each(cases):
    """Parametrize a test with cases."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
