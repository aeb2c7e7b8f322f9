"""One linear regression that a few slow requests do not move, with honest standard errors.

In: columns x (n, p), times y (n,), and which cell of the grid each row belongs to. Out:
:class:`Regression`. Noise is taken to grow with the duration, as ŷ + q, q being 0 unless the rows
say otherwise: r = (y − ŷ)/(ŷ + q). An MM-estimate: least absolute deviations first (no slow tenth
of the rows moves it), whose residuals give the scale s; then Tukey's bisquare ψ, which ends at
4.685·s, so that a stalled request has no weight at all.

Standard errors come from each row's influence A⁻¹·z·ψ(r), A = Σ ψ′·z·zᵀ, enlarged by its leverage
(HC3 of MacKinnon and White, 1985), so that noise of unequal size is covered; and from the distance
of cell means to the curve beyond that noise, which no number of repeats averages away. Degrees of
freedom are Satterthwaite's, quantiles Student's.

A cell whose requests are all off the curve alike is a misfit of the curve, no outlier: it keeps
its weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.errors import FitError

Floats = npt.NDArray[np.float64]
Cells = npt.NDArray[np.int64]

TUKEY = 4.685
"""Where ψ ends, in scales: 95 % efficient where noise is normal."""
RESOLUTION_S = 2e-5
"""What timers and sockets of a quiet host add to a request's time: no time is known better."""
MOST_MISFIT = 0.5
"""A cell this far off the curve is ill, not misfitted."""
LEAST_ROWS = 3
"""Rows a coefficient, below which nothing tells an outlier from the rest."""
BASES = (0.25, 1.0, 4.0, 16.0)
BASE_GAIN = 3.0
"""Of log-likelihood, that noise of another growth must bring."""
STARTS, ROUNDS = 20, 100
SINGULAR = 1e-9


@dataclass(frozen=True, eq=False)
class Regression:
    """Coefficients, and what each row and cell does to them.

    Attributes
    ----------
    coefficients : ndarray of float64, (p,)
        b.
    influence : ndarray of float64, (n, p)
        Each row's noise in b; its squares sum to the variance that noise makes.
    misfit : ndarray of float64, (J, p)
        Each cell's distance from the curve in b, beyond noise: likewise.
    degrees : (float, float)
        Of freedom, of the two.
    gradient : ndarray of float64, (p, n)
        Change of b by a change of a row's y, a second.
    weight : ndarray of float64, (n,)
        0 (an outlier) to 1.
    lack_of_fit : float
        Relative distance of a cell's mean from the curve, beyond noise.
    """

    coefficients: Floats
    influence: Floats
    misfit: Floats
    degrees: tuple[float, float]
    gradient: Floats
    weight: Floats
    lack_of_fit: float


def solve(x: Floats, y: Floats, cell: Cells, what: str, plain: bool = False) -> Regression:
    """Regress y on x.

    Parameters
    ----------
    x : ndarray of float64, (n, p)
        Columns.
    y : ndarray of float64, (n,)
        Times, s.
    cell : ndarray of int64, (n,)
        Of each row, from 0 to J − 1.
    what : str
        Named in errors.
    plain : bool
        Weigh every row alike: the mean as served, outliers and all.

    Raises
    ------
    FitError
        The rows do not determine b.
    """
    b, size, sigma, weight, slope = _fit(x, y, cell, what, plain)
    u = x / size / sigma[:, None]
    residual = y / sigma - u @ b
    said = np.maximum(np.abs(x / size @ b), 1e-12)
    bread = np.linalg.pinv((u * slope[:, None]).T @ u)
    hat = np.linalg.pinv((u * weight[:, None]).T @ u)
    leverage = np.einsum("ni,ij,nj->n", u * weight[:, None], hat, u, optimize=True)
    floor = (weight > 0) * RESOLUTION_S / sigma
    noise = np.copysign(np.hypot(weight * residual, floor), residual)
    left = np.maximum(1 - leverage, 1 / len(y))
    lack, pulls = _lack_of_fit(u * slope[:, None], residual, weight, cell, x.shape[1])
    kept, cells = float((weight > 0).sum()), float((pulls != 0).any(1).sum())
    return Regression(
        coefficients=b / size,
        influence=(u * (noise / left)[:, None]) @ bread / size,
        misfit=lack * (pulls @ bread) / size,
        degrees=(max(kept - x.shape[1], 1.0), max(cells - x.shape[1], 1.0)),
        gradient=(bread @ (u * (slope / sigma)[:, None]).T) / size[:, None],
        weight=weight,
        lack_of_fit=lack * float(np.median(sigma / said)),
    )


def _fit(
    x: Floats, y: Floats, cell: Cells, what: str, plain: bool
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Coefficients of scaled columns, their sizes, ŷ, and ψ(r)/r and ψ′(r) of each row."""
    n, p = x.shape
    # Columns of very different size (1, L, L²) are scaled, or the normal equations lose digits.
    size = np.abs(x).max(0) if n else np.zeros(p)
    if n < p or not (size > 0).all():
        raise FitError(f"{what}: the rows do not vary; the grid is singular")
    z = x / size
    if np.linalg.svd(z, compute_uv=False)[-1] < SINGULAR * n:
        raise FitError(f"{what}: the grid is singular: more distinct lengths are needed")
    ones = np.ones(n)
    floor = max(0.05 * float(np.median(y)), 1e-12)
    sigma = np.maximum(cell_medians(y, cell), floor)
    plain = plain or n < LEAST_ROWS * p
    for last in (False, True):
        u, v = z / sigma[:, None], y / sigma
        b = _least_squares(u, v) if plain else _least_absolute(u, v)
        sigma = np.maximum(z @ b, floor)
        if last and not plain:
            sigma = sigma + _base(np.abs(y - z @ b), sigma, p)
    u, v = z / sigma[:, None], y / sigma
    if plain:
        return _least_squares(u, v), size, sigma, ones, ones
    residual = v - u @ b
    scale = max(_scale(residual, p), RESOLUTION_S / float(np.median(sigma)))
    centre = _misfits(residual, cell, scale)
    for _ in range(ROUNDS):
        weight, slope = _tukey((v - u @ b - centre) / scale)
        before, b = b, _weighted(u, v, weight)
        if np.abs(b - before).max() <= 1e-10 * np.abs(b).max():
            break
    weight, slope = _tukey((v - u @ b - centre) / scale)
    if np.linalg.eigvalsh((u * slope[:, None]).T @ u)[0] <= 0:
        slope = weight
    root = np.sqrt(weight)
    b = _least_squares(u * root[:, None], v * root)
    return b, size, sigma, weight, slope


def cell_medians(y: Floats, cell: Cells) -> Floats:
    """The median of each row's cell, (n,)."""
    out = np.empty(len(y))
    for c in np.unique(cell):
        out[cell == c] = np.median(y[cell == c])
    return out


def _least_squares(u: Floats, v: Floats) -> Floats:
    return np.asarray(np.linalg.lstsq(u, v, rcond=None)[0], np.float64)


def _weighted(u: Floats, v: Floats, weight: Floats) -> Floats:
    pulled = u * weight[:, None]
    try:
        return np.asarray(np.linalg.solve(pulled.T @ u, pulled.T @ v))
    except np.linalg.LinAlgError:
        return _least_squares(pulled.T @ u, pulled.T @ v)


def _least_absolute(u: Floats, v: Floats) -> Floats:
    """Least absolute deviations by reweighting."""
    b = _least_squares(u, v)
    for _ in range(STARTS):
        away = np.abs(v - u @ b)
        before, b = b, _weighted(u, v, 1 / np.maximum(away, 1e-7 + 1e-3 * float(away.mean())))
        if np.abs(b - before).max() <= 1e-3 * np.abs(b).max():
            break
    return b


def _scale(residual: Floats, p: int) -> float:
    """Robust standard deviation; p rows lie on the curve by construction and do not count."""
    away = np.sort(np.abs(residual))[p:]
    return 1.4826 * float(away[(len(away) - 1) // 2] + away[len(away) // 2]) / 2


def _base(away: Floats, said: Floats, p: int) -> float:
    """The q of a noise that grows with ŷ + q: 0 unless noise that does not grow is plain to see."""
    typical = float(np.median(said))
    scores = []
    for q in (0.0, *(typical * f for f in BASES)):
        t = away / (said + q)
        scale = max(_scale(t, p), 1e-9)
        scores.append(float((np.log(scale * (said + q)) + np.log1p((t / scale) ** 2)).sum()))
    best = int(np.argmin(scores))
    if best == 0 or scores[0] - scores[best] < BASE_GAIN:
        return 0.0
    return typical * BASES[best - 1]


def _misfits(residual: Floats, cell: Cells, scale: float) -> Floats:
    """Where a cell's requests are all off alike, by how much; 0 elsewhere; (n,)."""
    centre = np.zeros(len(residual))
    for c in np.unique(cell):
        r = residual[cell == c]
        middle = float(np.median(r))
        alike = np.abs(r - middle).max() <= max(TUKEY * scale, 0.25 * abs(middle))
        if len(r) >= 3 and 2 * scale < abs(middle) <= MOST_MISFIT and alike:
            centre[cell == c] = middle
    return centre


def _tukey(t: Floats) -> tuple[Floats, Floats]:
    """ψ(t)/t and ψ′(t)."""
    inside = np.maximum(1 - (t / TUKEY) ** 2, 0.0)
    return inside**2, inside * (1 - 5 * (t / TUKEY) ** 2)


def _lack_of_fit(
    pulled: Floats, residual: Floats, weight: Floats, cell: Cells, p: int
) -> tuple[float, Floats]:
    """Distance of cell means from the curve beyond noise; (J, p) pull of each cell's shift."""
    names = [c for c in np.unique(cell) if weight[cell == c].sum() > 0.5]
    pulls = np.zeros((int(cell.max()) + 1, p))
    np.add.at(pulls, cell, pulled)
    k = np.array([weight[cell == c].sum() for c in names])
    m = np.array([np.average(residual[cell == c], weights=weight[cell == c]) for c in names])
    within = sum(
        float((weight[cell == c] * (residual[cell == c] - at) ** 2).sum())
        for c, at in zip(names, m, strict=True)
    )
    degrees = float(np.maximum(k - 1, 0).sum())
    if degrees < 1 or len(names) <= p:
        return 0.0, pulls
    noise = within / degrees
    # By moments: E Σ k·m² ≈ (J − p)·(noise + mean k · misfit²).
    excess = float((k * m**2).sum()) / (len(names) - p) - noise
    return math.sqrt(max(excess, 0.0) / float(k.mean())), pulls


def half_width(influence: Floats, misfit: Floats, degrees: tuple[float, float]) -> float:
    """Half of the 95 % interval of a number.

    Parameters
    ----------
    influence : ndarray of float64, (n,)
        Of each row on it.
    misfit : ndarray of float64, (J,)
        Of each cell.
    degrees : (float, float)
        Of freedom, of the two.
    """
    rows, cells = float(influence @ influence), float(misfit @ misfit)
    total = rows + cells
    if total == 0:
        return 0.0
    shares = (rows / total) ** 2 / degrees[0] + (cells / total) ** 2 / degrees[1]
    return student(1 / shares) * math.sqrt(total)


def student(freedom: float) -> float:
    """Student's 97.5 % quantile by Cornish and Fisher's expansion: within 1 % from two degrees."""
    z, n = 1.959963984540054, max(freedom, 1.0)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n**k for k, term in enumerate(terms, 1))
