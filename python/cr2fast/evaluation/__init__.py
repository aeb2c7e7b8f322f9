"""From a calibrated router and a test split to what it costs, answers and risks.

Comes in: a router, a test split. Goes out: :class:`Evaluation` at every operating point, and from
it tables, plots, a JSON report and a page.
"""

from cr2fast.calibration.point import OperatingPoint
from cr2fast.evaluation.choose import InfeasibleWishError
from cr2fast.evaluation.page import write_page
from cr2fast.evaluation.result import Evaluation, upper_hull
from cr2fast.evaluation.run import evaluate

__all__ = [
    "Evaluation",
    "InfeasibleWishError",
    "OperatingPoint",
    "evaluate",
    "upper_hull",
    "write_page",
]
