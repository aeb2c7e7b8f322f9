"""Thresholds from calibration scores, elsewhere: a sort, a loss table, MAPIE.

In: scores and r (L, N), risk levels. Out: thresholds (L, A) on a grid; exact only up to it.
"""

from __future__ import annotations

import numpy as np


def loss_table(scores, prefers, alphas, steps=1000):
    """The search of the conformal-risk reference code: losses on a grid of thresholds, then a scan.

    After github.com/aangelopoulos/conformal-risk: a table of losses over candidate thresholds and
    the first that satisfies the corrected bound.
    """
    n = scores.shape[1]
    out = np.empty((len(scores), len(alphas)), np.float32)
    for i, (s, r) in enumerate(zip(scores, prefers, strict=True)):
        grid = np.linspace(s.min(), s.max(), steps, dtype=np.float32)
        risk = np.array([(r & (s >= t)).mean() for t in grid])
        corrected = (n * risk + 1) / (n + 1)
        for j, a in enumerate(alphas):
            out[i, j] = grid[np.argmax(corrected <= a)]
    return out


def mapie(scores, prefers, alphas, steps=100):
    """MAPIE's conformal risk control: its bound and its search, on a table of 0/1 losses.

    Its controllers wrap a classifier; these are the functions that they call. MAPIE's own grids
    have about a hundred steps.
    """
    from mapie.risk_control.methods import find_best_predict_param, get_r_hat_plus

    out = np.empty((len(scores), len(alphas)), np.float32)
    for i, (s, r) in enumerate(zip(scores, prefers, strict=True)):
        grid = np.linspace(s.min(), s.max(), steps, dtype=np.float32)
        losses = (r[:, None] & (s[:, None] >= grid)).astype(float)
        _, bound = get_r_hat_plus(losses, grid, "crc", None, None, None)
        out[i] = find_best_predict_param(grid, bound, np.asarray(alphas))
    return out
