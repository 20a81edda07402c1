"""Runs the package that this file is in: `python3 -I -B …/slipway/__main__.py`, as a systemd unit does."""

import sys
from pathlib import Path

# Isolated Python has no path of its own to this package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slipway.cli import main

sys.exit(main(sys.argv[1:]))
