"""``python -m cr2fast_profiler``."""

import sys

from cr2fast_profiler.cli import main

sys.exit(main())
