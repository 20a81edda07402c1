"""Search output and the control node for marks: unique strings that a test puts into secrets."""

import base64
import re
import subprocess
import tempfile
from pathlib import Path

# The options with which ansible-playbook prints the most.
VERBOSE = ("-vvv", "--diff")


def forms(mark):
    """Return the mark, and its base64 form for each of the three offsets possible in a longer text."""
    encoded = [base64.b64encode(b"\0" * before + mark.encode()).decode() for before in range(3)]
    # Cut the first and the last characters, which depend on the text around the mark.
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
    """Return whether a text contains a form of the mark, even if Ansible wrapped the text's lines."""
    return any(form in part for form in forms(mark) for part in (text, re.sub(r"\s+", "", text)))
