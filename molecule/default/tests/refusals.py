"""Define a case of the modules test_refusals_*.py: a run of ansible-playbook that must be refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Case:
    """A run of ansible-playbook that must be refused.

    says: texts that the error must contain. hides: a text that the output must not contain.
    variables: extra variables for a dry run of site.yml; only dry runs may run at the same time.
    run: a function to call instead of this dry run.
    `says` and the strings in `variables` may contain {fields} of the fixture `context`.
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
        return context.deploy("site.yml", "--check", *extra(**filled))


def extra(**variables):
    """Return arguments of ansible-playbook that set these variables, with the types that they have here."""
    return ["--extra-vars", json.dumps(variables)]


def each(cases):
    """Parametrize a test with cases, each under its name. `make test` runs the first two of a module."""
    more = [pytest.param(case, marks=pytest.mark.drill) for case in cases[2:]]
    return pytest.mark.parametrize("case", [*cases[:2], *more], ids=lambda case: case.name)
