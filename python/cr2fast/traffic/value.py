"""What grades and shadows say of decisions that were not taken.

In: the requests of a log, with the grades of their answers and of their shadows, and where another
point would have answered them. Out: the mean score that it would have met, with an interval
(:mod:`cr2fast.evaluation.offpolicy`), or the words that say why there is none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.optional import require
from cr2fast.evaluation import offpolicy
from cr2fast.evaluation.offpolicy import Estimate
from cr2fast.traffic.label import Judged, Traffic

I64 = npt.NDArray[np.int64]


def value_of(traffic: Traffic, judged: Judged, then: I64, now: I64) -> tuple[Estimate | None, str]:
    """The mean score of decisions `now`, where the log has those of `then`.

    Doubly robust, with the teacher's probabilities as predictions. Where a request goes to the side
    that answered it, its own grade counts; elsewhere its shadow's, weighed by the probability with
    which it was sent. A side is graded as a whole: which edge model answers is not told apart.
    Grades that never came are taken to be missing at random among the answers, and among the
    shadows: each counts for so many more. Requests before the first shadow and after the last say
    nothing of the other side, and are left out where decisions differ at all; so are those with a
    budget, which have no shadow.

    Parameters
    ----------
    traffic : Traffic
    judged : Judged
    then, now : ndarray of int64, (N,)
        Model indices as logged and as replayed, -1 where unknown.

    Returns
    -------
    (Estimate or None, str)
        Words where there is no estimate, or about what it leaves out.
    """
    polars = require("polars", "lab")
    frame = traffic.frame
    known = (then >= 0) & (now >= 0) & (frame["outcome"] == "answered").to_numpy()
    if not frame["score"].is_not_null().any():
        return None, "no answer was graded"
    logged, target = then == 0, now == 0
    pi = frame["shadow_propensity"].to_numpy().astype(np.float64)
    shadowed = (frame["shadow_outcome"] == "answered").fill_null(False).to_numpy()
    if (differ := known & (logged != target)).any():
        budget = polars.any_horizontal(
            polars.col("max_latency_s", "max_energy_j", "max_usd").is_not_null()
        )
        known &= ~frame.select(budget).to_series().to_numpy()
        sent = np.flatnonzero(~np.isnan(pi))
        graded = shadowed & frame["shadow_score"].is_not_null().to_numpy()
        if not (graded & differ).any():
            return None, (
                f"{int(differ.sum())} requests would have gone to the other side, and no shadow of "
                f"any of them was graded"
            )
        at = np.arange(len(pi))
        known &= (at >= sent[0]) & (at <= sent[-1])
        # Of a request without a shadow the weight is 0, whatever its probability was.
        pi = np.where(np.isnan(pi), pi[sent].min(), pi)
    else:
        pi = np.ones(len(pi))
    rows = np.flatnonzero(known)
    own = frame["score"].to_numpy().astype(np.float64)[rows]
    others = np.where(shadowed, frame["shadow_score"].to_numpy().astype(np.float64), np.nan)[rows]
    logged, target, pi = logged[rows], target[rows], pi[rows]
    asked = ~np.isnan(frame["shadow_propensity"].to_numpy().astype(np.float64)[rows])
    try:
        outcomes, weights = offpolicy.of_policy(logged, target, own, others, pi)
        same = logged == target
        weights = np.where(
            same,
            weights * _share(~np.isnan(own), same),
            weights * _share(~np.isnan(others), ~same & asked),
        )
        predicted = judged.accuracies[rows, now[rows]].astype(np.float64)
        return offpolicy.estimate(outcomes, weights, predicted=predicted), ""
    except Cr2Error as error:
        return None, str(error)


def _share(graded: npt.NDArray[np.bool_], of: npt.NDArray[np.bool_]) -> float:
    """The fraction of some answers that was graded; 1 of none."""
    return float(graded[of].mean()) if of.any() else 1.0
