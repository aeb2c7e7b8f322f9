"""The grid of operating points: cost weights and risk levels to calibrate at.

In: what a caller asked for. Out: ascending float64 grids, or an error that says what to change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast._core import Cr2Error, OperatingPointError
from cr2fast._util.checks import check_unmasked, real, shown, whole

# The paper's risk levels, its default among them, and the cost weights a gate learns by default.
ALPHA = 0.01
ALPHAS = (0.002, 0.005, 0.01, 0.02, 0.05)
LAM_RANGE = (0.1, 20.0)
# More cost weights than this are no grid that two digits tell apart.
_MOST_LAMS = 100_000


def default_lams(
    low: float = LAM_RANGE[0], high: float = LAM_RANGE[1], n: int = 32
) -> npt.NDArray[np.float64]:
    """Cost weights on a log scale, rounded to two digits so that people can type them.

    The point nearest to 1 (on the log axis) becomes 1 when the range holds it.

    Parameters
    ----------
    low, high : float
        Ends of the grid.
    n : int
        Number of points before rounding makes some of them equal; equal ones become one.

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
    grid = np.geomspace(low, high, n)
    if low <= 1 <= high:
        grid[np.abs(np.log(grid)).argmin()] = 1.0
    rounded = np.array([float(f"{x:.2g}") for x in grid])
    return np.unique(np.clip(rounded, low, high))


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


def lam_grid(lams: npt.ArrayLike | None, low: float, high: float) -> npt.NDArray[np.float64]:
    """Cost weights to calibrate at: those given, in the trained range, or the default ones.

    Parameters
    ----------
    lams : array_like of float, (L,), optional
    low, high : float
        The trained range.

    Returns
    -------
    ndarray of float64, (L,)
        Strictly ascending.
    """
    if lams is None:
        return default_lams(low, high)
    grid = ascending(lams, "lams")
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
    near = np.flatnonzero(np.isclose(grid, number, rtol=1e-9, atol=0))
    if near.size:
        return int(near[0])
    place = int(np.searchsorted(grid, number))
    nearest = " and ".join(f"{x:g}" for x in grid[max(place - 1, 0) : place + 1])
    raise OperatingPointError(
        f"{what}={shown(value)}: expected one of the {len(grid)} calibrated values"
        + ("" if np.isnan(number) else f", the nearest {nearest}")
        + f"; they go from {grid[0]:g} to {grid[-1]:g}"
    )
