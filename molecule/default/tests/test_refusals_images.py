"""Wrong input for the engine and the images is refused, and a failed build or pull changes no container."""

import pytest
from refusals import Case, each, extra

NOWHERE = {name: f"127.0.0.1:1/{name}@sha256:{'0' * 64}" for name in ("nginx", "postgres", "python")}

CASES = [
    Case(
        "missing CA for pip",
        [
            'images_ca_file is "/nowhere/ca.pem", but the control node has no such file',
            "Set it to a PEM file",
        ],
        {"images_ca_file": "/nowhere/ca.pem"},
    ),
    Case(
        "missing CA of the host",
        [
            'docker_ca_file is "/nowhere/ca.pem", but the control node has no such file',
            "Set it to a PEM file",
        ],
        {"docker_ca_file": "/nowhere/ca.pem"},
    ),
    Case(
        "mirror with a path",
        [
            'docker_registry_mirrors is ["https://mirror.example.org/hub"]',
            "Write a list, even for one mirror, of URLs without a path",
        ],
        {"docker_registry_mirrors": ["https://mirror.example.org/hub"]},
    ),
    Case(
        "string instead of a list of mirrors",
        [
            'docker_registry_mirrors is "https://mirror.example.org"',
            "Write a list, even for one mirror",
        ],
        {"docker_registry_mirrors": "https://mirror.example.org"},
    ),
    Case(
        "value that no tag can have",
        ['images_refresh is "May 2026"', "use only letters, digits and ._-"],
        {"images_refresh": "May 2026"},
    ),
    Case(
        "source without a Dockerfile",
        ['images_blog_source is "/nowhere"', "no Dockerfile", "or remove the variable"],
        {"images_blog_source": "/nowhere"},
    ),
    Case(
        "URL instead of a repository",
        [
            'images_repository is "https://registry.example.org/blog"',
            "without https:// and without a tag, such as registry.example.org/blog",
        ],
        run=lambda context: context.deploy(
            "playbooks/build.yml", *extra(images_repository="https://registry.example.org/blog")
        ),
    ),
]


@each(CASES)
def test_wrong_input_for_images_is_refused(case, assert_refused):
    assert_refused(case)


def build_and_pull(context):
    """Run a build that fails, then a pull that fails. Both use one directory of the host."""
    app = context.tmp / "app"
    app.mkdir()
    (app / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN echo the reason is in the stars | tee /reason && exit 3\n"
    )
    return [
        context.deploy("site.yml", *extra(images_blog_source=str(app))),
        context.deploy("site.yml", *extra(images_base="registry", __images_lock=NOWHERE)),
    ]


@pytest.fixture(scope="module")
def preparations(inspect, ledger):
    """Return the ids of the containers, and the ledger, before the runs."""
    return {service: container["Id"] for service, container in inspect().items()}, ledger()


@pytest.fixture(scope="module")
def other_runs():
    """A build and a pull that fail. They are not cases, because they change the host before they fail."""
    return {"build and pull": build_and_pull}


def test_failed_build_shows_its_last_lines(outcomes):
    build, _ = outcomes["build and pull"].result()
    assert build.status != 0
    message = build.errors[-1]
    assert "slipway/flask_blog:" in message
    assert "could not be built or pulled" in message
    assert "the reason is in the stars" in message
    assert "The running containers were not changed" in message


def test_failed_pull_shows_the_reason_and_the_alternatives(outcomes):
    _, pull = outcomes["build and pull"].result()
    assert pull.status != 0
    message = pull.errors[-1]
    assert NOWHERE["nginx"] in message
    assert "could not be built or pulled" in message
    assert "connection refused" in message
    assert "docker_registry_mirrors" in message
    assert "images_base: debian" in message


def test_failed_build_and_pull_change_no_container_and_no_release(outcomes, preparations, inspect, ledger):
    outcomes["build and pull"].result()
    containers, releases = preparations
    assert {service: container["Id"] for service, container in inspect().items()} == containers
    assert ledger() == releases
