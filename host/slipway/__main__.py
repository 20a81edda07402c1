"""Run the package that contains this file, as a systemd unit does: `python3 -I -B …/slipway/__main__.py`."""

import sys
from pathlib import Path

# In isolated mode (-I), sys.path has no directory that leads to this package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slipway.cli import main

sys.exit(main(sys.argv[1:]))
