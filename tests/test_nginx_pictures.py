"""Requests for pictures, in the volume or not, with a real nginx, and a slot that answers each request."""

import pytest
from nginx_slots import run_scenario

STORE = """
picture=/media/0123456789abcdef01234567-1x1.png
store() { echo boat > "/srv$picture"; }
maintenance() { touch /run/slot/maintenance; }
"""
SCENARIOS = {
    "in the volume": ("store; ask $picture", "200 boat"),
    "not in the volume": ("ask $picture", "200 blue"),
    "removed from the volume": ("store; ask $picture; rm /srv$picture; ask $picture", "200 boat 200 blue"),
    "written by the blog": ("ask $picture; store; ask $picture", "200 blue 200 boat"),
    "in the volume, blog down": ("store; stop blue; ask $picture", "200 boat"),
    "not in the volume, blog down": ("stop blue; ask $picture", "503"),
    "answer of the blog is not cached": ("ask $picture; stop blue; ask $picture", "200 blue 503"),
    "in the volume, maintenance": ("store; maintenance; ask $picture", "200 boat"),
    "not in the volume, maintenance": ("maintenance; ask $picture", "503"),
    "link in the volume": ("ln -s /etc/hostname /srv$picture; ask $picture", "200 blue"),
    "other file in the volume": ("echo hush > /srv/media/notes.txt; ask /media/notes.txt", "200 blue"),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_blog_is_asked_for_a_picture_only_if_the_volume_does_not_have_it(rendered_cases, check, scenario):
    steps, expected = SCENARIOS[scenario]
    assert run_scenario(rendered_cases, check, f"{STORE}\n{steps}") == expected.split()
