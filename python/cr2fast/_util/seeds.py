"""Seeds: one check, and one stream of link states for each purpose.

A caller's seed numbers a run, in which training, calibration, test and live demonstration must not
see the same draws. So each adds an offset of its own to the seed; the training crate has that of
training.
"""

from __future__ import annotations

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown, whole

CALIBRATION = 1_000_003
TEST = 2_000_003
LIVE = 3_000_017


def check_seed(seed: int) -> int:
    """`seed`, if it is a whole number from 0 to 2**62 - 1; a Cr2Error if not."""
    expected = "a whole number from 0 to 2**62 - 1"
    found = whole(seed, "seed", expected)
    if found >= 2**62:
        raise Cr2Error(f"seed: expected {expected}, got {shown(seed)}")
    return found
