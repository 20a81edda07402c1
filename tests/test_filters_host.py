"""The filters free_mb and volume_users."""

import pytest
from project import ROOT, load_program

free_mb = load_program(ROOT / "plugins/filter/free_mb.py").free_mb
volume_users = load_program(ROOT / "plugins/filter/volume_users.py").volume_users

MOUNTS = [
    {"mount": "/", "size_available": 5_000_000_000},
    {"mount": "/var", "size_available": 3_500_000},
    {"mount": "/var/lib/docker", "size_available": 70_000_000},
    {"mount": "/var/lib/dock"},
]


@pytest.mark.parametrize(
    ("path", "free"),
    [("/srv/docker", 5000), ("/var/lib", 3), ("/var/lib/docker", 70), ("/var/lib/docker/new", 70)],
)
def test_nearest_mount_tells_the_free_space(path, free):
    assert free_mb(MOUNTS, path) == free


def test_mount_of_unknown_size_has_no_free_space():
    assert free_mb(MOUNTS, "/var/lib/dock/x") == 0


def test_path_without_a_mount_has_no_free_space():
    assert free_mb(MOUNTS[1:], "/srv") == 0


def test_only_containers_of_other_projects_are_users_of_a_volume():
    containers = [
        {"name": "slipway-db-1", "managed": True, "volumes": ["db_volume"]},
        {"name": "backup", "managed": False, "volumes": ["db_volume", "more"]},
        {"name": "web", "managed": False, "volumes": ["more"]},
    ]
    assert volume_users(containers, ["db_volume", "media_volume"]) == ["backup"]
