"""``python -m cr2fast``: the command line."""

import sys

from cr2fast.cli import script

sys.exit(script())
