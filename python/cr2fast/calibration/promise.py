"""What thresholds promise: how many false acceptances they allow, and the promise in words.

In: number N of calibration samples, risk levels, perhaps a delta. Out: counts, words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast._core import Cr2Error
from cr2fast._util.checks import fraction, shown
from cr2fast.calibration.groups import statement as in_groups


def accepted(
    margins: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """The acceptance rule, margin >= threshold, for margins (L, N): booleans (L, A, N)."""
    local: npt.NDArray[np.bool_] = margins[:, None, :] >= thresholds[:, :, None]
    return local


def check_delta(simultaneous: bool, delta: float | None) -> float | None:
    """Delta of a simultaneous promise, or None where each cell has a promise of its own."""
    if not isinstance(simultaneous, (bool, np.bool_)):
        raise Cr2Error(f"simultaneous: expected True or False, got {shown(simultaneous)}")
    if not simultaneous:
        if delta is not None:
            raise Cr2Error(
                f"delta: expected no delta without simultaneous=True, got {shown(delta)}"
            )
        return None
    return fraction(0.1 if delta is None else delta, "delta")


def allowed_counts(
    n: int, alphas: Sequence[float], lams: int, delta: float | None
) -> tuple[int | None, ...]:
    """False acceptances k allowed among `n` calibration samples, one per risk level.

    Parameters
    ----------
    n : int
        Calibration samples N.
    alphas : sequence of float, (A,)
    lams : int
        Size L of the grid of cost weights.
    delta : float, optional
        None: k = floor(alpha (N + 1)) - 1 (equation 68), and each cell has a promise of its own.
        Otherwise the samples must be drawn independently; exchangeable is not enough. Where k false
        acceptances are allowed, the risk of the threshold is, over calibration sets, at most
        Beta(k + 1, N - k) distributed, so it exceeds alpha with probability at most
        P(Binomial(N, alpha) <= k). The k returned is the largest that keeps this under
        delta / (L A); by Bonferroni's inequality all L A cells then hold at once with probability
        1 - delta.

    Returns
    -------
    tuple of (int or None), (A,)
        None where alpha is infeasible.
    """
    return tuple(_core.allowed_counts(n, list(alphas), lams, delta))


def statement(
    n: int,
    judge: str,
    lengths: str,
    alphas: Sequence[float],
    delta: float | None = None,
    lams: int = 1,
    defer_atypical: float | None = None,
    left_out: Sequence[float] = (),
    groups: Mapping[str, Any] | None = None,
) -> str:
    """What thresholds from `n` samples promise, and what they do not.

    Parameters
    ----------
    n : int
        Calibration samples N.
    judge : {"teacher", "outcomes"}
        What an acceptance is measured against.
    lengths : {"predicted", "known"}
    alphas : sequence of float
        Calibrated risk levels; the infeasible ones are named.
    delta, lams
        As in :func:`allowed_counts`.
    defer_atypical : float, optional
        The level of p-values at which queries are deferred too.
    left_out : sequence of float
        Risk levels that were to be calibrated and cannot be promised.
    groups : mapping, optional
        `names`, `n` and `unknown` of thresholds per group.
    """
    against = (
        "the full-information choice"
        if judge == "teacher"
        else "the better choice by the recorded answers"
    )
    event = f"a query is kept local although {against} ({lengths} output lengths) is an edge model"
    if delta is None:
        text = (
            f"For each cost weight fixed in advance: the probability that {event} is at most "
            f"alpha, on average over calibration sets of {n} queries exchangeable with future "
            f"ones. Not simultaneous over the grid; void if the query mix or the link distribution "
            f"moves."
        )
    else:
        text = (
            f"With probability at least 1 - {delta:g} over calibration sets of {n} queries drawn "
            f"independently from the distribution of future ones: at every cost weight and risk "
            f"level of the grid at once ({lams} x {len(alphas)}), the probability that {event} is "
            f"at most alpha. Void if the query mix or the link distribution moves."
        )
    shares = lams * (1 + len(groups["names"]) if groups else 1)
    pairs = zip(alphas, allowed_counts(n, alphas, shares, delta), strict=True)
    if infeasible := tuple(a for a, k in pairs if k is None):
        text += f" Infeasible with {n} samples, all queries deferred: {infeasible}."
    if defer_atypical is not None:
        text += (
            f" Queries with a typicality p-value of at most {defer_atypical:g} are deferred as "
            f"well, which can only lower that probability."
        )
    if left_out:
        levels = ", ".join(f"{a:g}" for a in left_out)
        text += f" Left out, since {n} samples cannot promise so little: alpha {levels}."
    if groups:
        small = [
            name
            for name, size in zip(groups["names"], groups["n"], strict=True)
            if None in allowed_counts(size, alphas, shares, delta)
        ]
        text += in_groups(groups["names"], groups["n"], groups["unknown"], small)
    return text
