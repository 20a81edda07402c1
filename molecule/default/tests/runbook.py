"""The commands of docs/recovery.md, which tests execute as they are printed there."""

import re

from outside import ROOT

PROGRAMS = (
    "slipway ",
    "cd /opt/",
    "ansible-playbook ",
    "mkdir ",
    "ssh-keyscan ",
    "journalctl ",
    "timedatectl",
)


def commands():
    """Return all commands of the document, without the comments behind them."""
    text = (ROOT / "docs/recovery.md").read_text()
    blocks = [
        re.split(r"\s{2,}#", line.strip())[0] for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    ]
    found = [*blocks, *re.findall(r"`([^`]+)`", text), *re.findall(r"# (ssh-keyscan [^;]+);", text)]
    return sorted({one for one in found if one.startswith(PROGRAMS)})


def printed(words, **values):
    """Return the only command with these words.

    words: a part of the command.
    values: what takes the place of an example in it: by `time`, `label`, `table` or `host`.
    """
    [command] = [one for one in commands() if words in one]
    examples = {
        "time": "2026-11-22 10:00:00+00",
        "label": "LABEL",
        "table": "NAME",
        "host": "backup.example.org",
    }
    for name, value in values.items():
        assert examples[name] in command, f"{command} has no {examples[name]}"
        command = command.replace(examples[name], value)
    return command
