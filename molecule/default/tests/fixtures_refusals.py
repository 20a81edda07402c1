"""Fixtures of the modules test_refusals_*.py.

Each case is a separate run of ansible-playbook. Cases do not depend on each other, so three run at a time.
"""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

CONNECTION = ("host", "port", "user", "ssh_private_key_file", "ssh_common_args")


@pytest.fixture(scope="module")
def context(deploy, inventory, machine, variables, host, limits, tmp_path_factory):
    """The values and functions that the cases use.

    memory: half of the host's memory, in MiB. two_slots: what the stack needs if each slot has this limit.
    """
    memory = int(host.check_output("awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo")) // 2
    return SimpleNamespace(
        deploy=deploy,
        inventory=inventory,
        tmp=tmp_path_factory.mktemp("refusals"),
        connection={f"ansible_{name}": variables[f"ansible_{name}"] for name in CONNECTION},
        address=machine.ipv4,
        subnet=machine.subnet,
        subnet_ipv6=machine.subnet_ipv6,
        memory=memory,
        two_slots=limits(flask_blog=memory)["peak_mb"],
    )


@pytest.fixture(scope="module")
def preparations():
    """Do nothing. A module may override this fixture, to prepare what its cases need before they start."""


@pytest.fixture(scope="module")
def other_runs():
    """Other functions to run in parallel with the cases, by name. A module may override this fixture."""
    return {}


@pytest.fixture(scope="module")
def outcomes(request, preparations, other_runs, context):
    """A future for each case of the module, and for each of `other_runs`, by name."""
    items = [item for item in request.session.items if item.path == request.path]
    cases = [item.callspec.params["case"] for item in items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(3) as pool:
        others = {name: pool.submit(run, context) for name, run in other_runs.items()}
        yield others | {case.name: pool.submit(case.start, context) for case in cases}


@pytest.fixture
def assert_refused(outcomes, context, sql):
    """Assert that a case fails with one error, which contains the expected words, and changes nothing."""

    def assert_refused(case):
        outcome = outcomes[case.name].result()
        assert outcome.status != 0, outcome.output
        assert set(outcome.changed.values()) <= {0}, outcome.changed
        assert len(outcome.errors) == 1, outcome.errors
        for words in case.says:
            expected = words.format(**vars(context))
            assert expected in outcome.errors[0], f"{expected!r} is not in {outcome.errors[0]!r}"
        assert case.hides not in outcome.output, f"{case.hides!r} is in the output"
        posts = sql("SELECT count(*) FROM post")
        assert posts == [("2",)], posts

    return assert_refused
