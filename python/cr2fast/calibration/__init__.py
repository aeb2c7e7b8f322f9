"""From a calibration split to thresholds that keep a promise (equations 62-68), and its upkeep.

Comes in: margins and what the judge prefers on a calibration split, a grid of cost weights and risk
levels. Goes out: thresholds, a report, the promise in words, and a check for drift.
"""

from cr2fast.calibration.grid import (
    ALPHA,
    ALPHAS,
    LAM_RANGE,
    ascending,
    default_lams,
    index_of,
    lam_grid,
)
from cr2fast.calibration.groups import GroupReport
from cr2fast.calibration.promise import (
    accepted,
    allowed_counts,
    check_delta,
    statement,
)
from cr2fast.calibration.report import CalibrationReport, threshold_word, threshold_words

__all__ = [
    "ALPHA",
    "ALPHAS",
    "LAM_RANGE",
    "CalibrationReport",
    "GroupReport",
    "accepted",
    "allowed_counts",
    "ascending",
    "check_delta",
    "default_lams",
    "index_of",
    "lam_grid",
    "statement",
    "threshold_word",
    "threshold_words",
]
