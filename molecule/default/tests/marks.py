"""Marks in secrets, and the places on the control node where they must not be."""

import base64
import re
import subprocess
import tempfile
from pathlib import Path

# Options of ansible-playbook with which it prints the most.
VERBOSE = ("-vvv", "--diff")


def forms(mark):
    """Return mark, and its base64 form for each offset that it may have in a longer text."""
    encoded = [base64.b64encode(b"\0" * before + mark.encode()).decode() for before in range(3)]
    # Cut the first and the last characters, which depend on the text around it.
    return [mark, *(text[4 if before else 0 : -4] for before, text in enumerate(encoded))]


def files_on_control_node(mark):
    """Return the temporary files that Ansible left on the control node and that contain the mark."""
    places = [Path.home() / ".ansible", *Path(tempfile.gettempdir()).glob("ansible*")]
    found = []
    for form in forms(mark):
        command = [
            "grep",
            "--text",
            "--no-messages",
            "--recursive",
            "--files-with-matches",
            "--fixed-strings",
        ]
        found += subprocess.run([*command, form, *places], capture_output=True, text=True).stdout.split()
    return found


def is_shown(mark, text):
    """Return whether text contains a form of the mark, also if Ansible wrapped its lines."""
    return any(form in part for form in forms(mark) for part in (text, re.sub(r"\s+", "", text)))
