"""The grid of operating points: cost weights and risk levels to calibrate at.

In: what a caller asked for. Out: ascending float64 grids, or an error that says what to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast._core import Cr2Error, OperatingPointError
from cr2fast._util.checks import check_unmasked, real, shown, whole

# The paper's risk levels, its default among them, and its range of cost weights.
ALPHA = _core.USUAL_ALPHA
ALPHAS = (0.002, 0.005, 0.01, 0.02, 0.05)
LAM_RANGE = _core.PAPER_LAMS
# More cost weights than this are no grid that two digits tell apart.
_MOST_LAMS = 100_000


def default_lams(
    low: float = LAM_RANGE[0], high: float = LAM_RANGE[1], n: int = 32
) -> npt.NDArray[np.float64]:
    """Cost weights on a log scale, with two digits, or as many as keep them apart, to be typed.

    The point nearest to 1 (on the log axis) becomes 1 when the range holds it.

    Parameters
    ----------
    low, high : float
        Ends of the grid; by default the paper's.
    n : int
        Number of points.

    Returns
    -------
    ndarray of float64, (L,)
        Strictly ascending.
    """
    low, high = real(low, "low"), real(high, "high")
    n = whole(n, "n", "a number of points, at least 2")
    if not (0 < low < high < np.inf) or not 2 <= n <= _MOST_LAMS:
        raise Cr2Error(
            f"lams: expected 0 < low < high and n >= 2, at most {_MOST_LAMS}, got {low}, {high}, "
            f"{n}"
        )
    return typable(np.geomspace(low, high, n))


def typable(grid: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The grid with two digits, or as many as keep its points apart; with 1 if one is near."""
    grid, low, high = grid.copy(), grid[0], grid[-1]
    at, logs = int(np.abs(np.log(grid)).argmin()), np.log(grid)
    # No point moves by more than half a step.
    steps = np.diff(logs)[max(at - 1, 0) : at + 1]
    if low <= 1 <= high and abs(logs[at]) <= 0.5001 * steps.min():
        grid[at] = 1.0
    for digits in range(2, 18):
        rounded = np.clip([float(f"{x:.{digits}g}") for x in grid], low, high)
        if (np.diff(rounded) > 0).all():
            return rounded
    return np.unique(grid)


def ascending(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    """Sort distinct numbers, (K,) float64; `what` names them in errors."""
    expected = "a non-empty list of numbers"
    check_unmasked(values, what)
    try:
        # One by one: a list of a float32 and a float would become two doubles.
        array = np.array([_core.number(v, what) for v in values])  # type: ignore[union-attr]
    except (TypeError, Cr2Error):
        raise Cr2Error(f"{what}: expected {expected}, got {shown(values)}") from None
    if not array.size or not np.isfinite(array).all():
        raise Cr2Error(f"{what}: expected {expected}, got {shown(values)}")
    array = np.sort(array)
    if (np.diff(array) <= 0).any():
        raise Cr2Error(f"{what}: expected distinct values, got {shown(array.tolist())}")
    return array


def lam_grid(lams: npt.ArrayLike | None, training: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Cost weights to calibrate at: those given, in the trained range, or the default ones.

    Parameters
    ----------
    lams : array_like of float, (L,), optional
    training : mapping
        A router's training record, with the trained range and, where the data told it, a grid.

    Returns
    -------
    ndarray of float64, (L,)
        Strictly ascending.
    """
    low, high = float(training["config"]["lam_low"]), float(training["config"]["lam_high"])
    told = training.get("lam_range")
    if lams is not None:
        grid = ascending(lams, "lams")
    elif isinstance(told, dict) and told.get("grid"):
        # Many choices that change at one cost weight are several points there.
        points = [v for i, v in enumerate(told["grid"]) if i == 0 or v != told["grid"][i - 1]]
        grid = typable(ascending(points, "lam_range.grid of the training record"))
    else:
        return default_lams(low, high)
    slack = 1e-9
    outside = grid[(grid < low * (1 - slack)) | (grid > high * (1 + slack))]
    if outside.size:
        raise Cr2Error(
            f"lams: expected values in the trained range [{low}, {high}], got "
            f"{shown(outside.tolist())}; fit with lam_range wide enough"
        )
    return grid


def index_of(grid: npt.NDArray[np.float64], value: float | None, what: str) -> int:
    """Find a calibrated value on its ascending grid.

    Raises
    ------
    OperatingPointError
        The value is not on the grid; the message has the nearest ones.
    """
    try:
        number = _core.number(value, what)
    except (TypeError, Cr2Error):
        number = np.nan
    at, nearest = _core.find_level(grid, number)
    if at is not None:
        return at
    raise OperatingPointError(
        f"{what}={shown(value)}: expected one of the {len(grid)} calibrated values"
        + ("" if np.isnan(number) else f", the nearest {nearest}")
        + f"; they go from {grid[0]:g} to {grid[-1]:g}"
    )
