"""Prices and times of tokens, from calls.

In: token counts of calls, and what each cost or took. Out: coefficients at least 0, and how good
they are. Bills follow a price list exactly, so prices are the plane through most of the points;
times do not, so theirs is a least-squares fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

_DRAWS = 400
_COUNTED = 5000
# Designs of a price list, the usual first: which of (input, output, request) have a price.
_DESIGNS = ((0, 1), (0, 1, 2), (0,), (1,), (2,))


@dataclass(frozen=True)
class Coefficients:
    """y = input * L_in + output * L_out + constant.

    Attributes
    ----------
    values : ndarray, (3,)
        Of an input token, an output token, a call.
    agree : float
        Share of calls that lie on the plane, up to rounding; only of :func:`prices`.
    r2 : float
        Coefficient of determination over all calls.
    untold : tuple of int
        Coefficients that these calls do not determine.
    """

    values: F64
    agree: float
    r2: float
    untold: tuple[int, ...]


def far(n_input: F64, n_output: F64, y: F64, factor: float) -> npt.NDArray[np.bool_]:
    """Values that are out of all proportion to the others.

    More than `factor` times what the median call, and as many tokens at the median rate, come to;
    or less than a thousandth of what these tokens do. A price list spans less: a token that is read
    from a cache may cost a hundredth of one that is written.
    """
    some = y > 0
    if not some.any():
        return np.zeros(len(y), bool)
    tokens = n_input + n_output
    rate = float(np.median(y[some] / np.maximum(tokens[some], 1)))
    usual = rate * tokens
    out: npt.NDArray[np.bool_] = y > factor * (usual + float(np.median(y[some])))
    return out | (some & (1000 * y < usual) & (tokens > 1000 * np.median(tokens)))


def _design(n_input: F64, n_output: F64) -> F64:
    return np.column_stack([n_input, n_output, np.ones_like(n_input)])


def _untold(a: F64) -> tuple[int, ...]:
    """Columns that are combinations of others, so that no data tells their coefficients."""
    scaled = a / np.maximum(np.abs(a).max(axis=0), 1e-300)
    _, s, vt = np.linalg.svd(scaled, full_matrices=len(scaled) < 3)
    null = vt[np.concatenate([s, np.zeros(3 - len(s))]) < 1e-9 * max(s.max(), 1e-300)]
    return tuple(int(j) for j in np.flatnonzero(np.abs(null).max(axis=0, initial=0) > 1e-6))


def _r2(y: F64, fit: F64) -> float:
    total = float(((y - y.mean()) ** 2).sum())
    left = float(((y - fit) ** 2).sum())
    return 1 - left / total if total > 0 else float(left == 0)


def least_squares(n_input: F64, n_output: F64, y: F64) -> Coefficients:
    """The fit of least squares among coefficients that are at least 0."""
    a = _design(n_input, n_output)
    best = (np.inf, np.zeros(3))
    for size in (1, 2, 3):
        for columns in combinations(range(3), size):
            part = a[:, columns]
            scale = np.maximum(np.abs(part).max(axis=0), 1e-300)
            values = np.zeros(3)
            values[list(columns)] = np.linalg.lstsq(part / scale, y, rcond=None)[0] / scale
            left = float(((a @ values - y) ** 2).sum())
            # A column more must be worth it: of equals the smaller design stays.
            if (values >= 0).all() and left < best[0] * (1 - 1e-12):
                best = (left, values)
    return Coefficients(best[1], 0.0, _r2(y, a @ best[1]), _untold(a))


def prices(n_input: F64, n_output: F64, usd: F64) -> Coefficients | None:
    """The price list that most calls were billed by, or None where fewer than half agree on one."""
    a = _design(n_input, n_output)
    tolerance = 0.5000001 * _unit(usd) + 1e-9 * usd
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(a))[:_COUNTED]
    found: list[tuple[int, F64]] = []
    for columns in _DESIGNS:
        values = _consensus(a[rows], usd[rows], tolerance[rows], columns, rng)
        if values is not None:
            found.append((_agreeing(a, usd, tolerance, values).sum(), values))
    if not found:
        return None
    most = max(count for count, _ in found)
    count, values = next(f for f in found if f[0] >= 0.99 * most)
    if 2 * count < len(a):
        return None
    values = _plain(a, usd, tolerance, values)
    on = _agreeing(a, usd, tolerance, values)
    return Coefficients(values, float(on.mean()), _r2(usd, a @ values), _untold(a[on]))


def _unit(usd: F64) -> float:
    """The decimal unit that the dollars were rounded to, 0 where they were not."""
    for digits in range(2, 11):
        scaled = usd * 10.0**digits
        # Floats of decimals are off by a few parts in 1e16; large amounts may hide no more.
        if (np.abs(scaled - np.round(scaled)) <= 1e-6 + 1e-15 * np.abs(scaled)).all():
            return float(10.0**-digits)
    return 0.0


def _agreeing(a: F64, usd: F64, tolerance: F64, values: F64) -> npt.NDArray[np.bool_]:
    agreeing: npt.NDArray[np.bool_] = np.abs(a @ values - usd) <= tolerance
    return agreeing


def _consensus(
    a: F64, usd: F64, tolerance: F64, columns: tuple[int, ...], rng: np.random.Generator
) -> F64 | None:
    """The plane through as many calls as possible, of those through a few drawn ones."""
    k = len(columns)
    part = a[:, columns]
    if len(a) < k:
        return None
    drawn = rng.integers(len(a), size=(_DRAWS, k))
    squares = part[drawn]
    scale = np.maximum(np.abs(part).max(axis=0), 1e-300)
    solvable = np.abs(np.linalg.det(squares / scale)) > 1e-9
    if not solvable.any():
        return None
    values = np.linalg.solve(squares[solvable], usd[drawn[solvable]][..., None])[..., 0]
    values = values[(values >= -1e-9 * np.abs(values).max(axis=1, keepdims=True)).all(axis=1)]
    if not len(values):
        return None
    values = np.maximum(values, 0)
    counts = (np.abs(values @ part.T - usd) <= tolerance).sum(axis=1)
    best = np.zeros(3)
    best[list(columns)] = values[counts.argmax()]
    # Rounded dollars: the mean of the calls that agree is nearer than any few of them.
    for _ in range(3):
        on = _agreeing(a, usd, tolerance, best)
        fit = np.zeros(3)
        fit[list(columns)] = np.linalg.lstsq(part[on] / scale, usd[on], rcond=None)[0] / scale
        if (fit < 0).any() or _agreeing(a, usd, tolerance, fit).sum() < on.sum():
            break
        best = fit
    return best


def _plain(a: F64, usd: F64, tolerance: F64, values: F64) -> F64:
    """The shortest decimal numbers that as many calls agree with: price lists have few digits."""
    count = _agreeing(a, usd, tolerance, values).sum()
    for digits in range(1, 9):
        short = np.array([float(f"{v:.{digits - 1}e}") for v in values])
        if _agreeing(a, usd, tolerance, short).sum() >= count:
            return short
    return values
