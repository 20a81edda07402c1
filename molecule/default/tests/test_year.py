"""A year of weekly releases, each with a new layer of 100 MB, does not fill a disk of 20 GB."""

import pytest

pytestmark = pytest.mark.drill

WEEKS, LAYER_MB, DISK_MB = 52, 100, 20_000
# The layers that the releases share with others, and what the engine keeps besides the images.
REST_MB = 1000


@pytest.fixture
def used_mb(host):
    """Return the size of all that the engine keeps, in MB, without the volumes."""
    places = "--exclude=/var/lib/docker/volumes /var/lib/docker /var/lib/containerd"
    return lambda: sum(
        int(line.split()[0])
        for line in host.run(f"du --summarize --one-file-system --block-size=1M {places}").stdout.splitlines()
    )


@pytest.fixture
def cache_mb(variables):
    """The limit of the build cache, in MB."""
    number, unit = variables["docker_build_cache_max"][:-2], variables["docker_build_cache_max"][-2:]
    return int(number) * {"GB": 1000, "MB": 1}[unit]


def test_year_of_releases_needs_a_bounded_part_of_the_disk(
    variant, host, ledger, used_mb, cache_mb, variables
):
    # Retention removes old images. The base of the new ones needs an id that no release has.
    base = "FROM slipway.test/blog:source\nLABEL slipway.test=source"
    host.check_output("printf %s | docker build --quiet --tag slipway.test/blog:source -", base)
    before, sizes = used_mb(), []
    for week in range(WEEKS):
        image = variant(f"RUN head -c {LAYER_MB}000000 /dev/zero > /tmp/of-a-test-{week}")
        done = host.run("slipway release %s --version=week-%s --by=anna", image, str(week))
        assert done.rc == 0, done.stdout + done.stderr
        if week % 13 == 12:
            sizes.append(used_mb())
    print(f"{before} MB before; after each quarter of the year: {sizes} MB")
    assert ledger()[-1]["version"] == f"week-{WEEKS - 1}"
    kept = (variables["release_keep"] + 1) * LAYER_MB
    assert kept + cache_mb < WEEKS * LAYER_MB, "the test must exceed the limits"
    assert max(sizes) < before + kept + cache_mb + REST_MB
    assert max(sizes) < DISK_MB / 2
