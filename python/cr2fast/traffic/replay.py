"""What another operating point, or another router, would have done with logged traffic.

In: a log with embeddings, a router, points (lam, alpha). Out: :class:`Replay` for each point: local
rate, latency, energy, dollars, false acceptances by the teacher. Decisions are exact; what they
would have cost and answered is predicted by the cost table, the length predictor and the teacher,
for the logged decisions as well, so that the two can be compared. What was measured stands apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import BudgetError, Cr2Error, OperatingPointError, TwoStage
from cr2fast._util.checks import check_type
from cr2fast._util.optional import require
from cr2fast.evaluation.intervals import binomial_interval
from cr2fast.router import Router
from cr2fast.traffic.label import Judged, Link, Log, Traffic, groups_of, judge, opened, traffic_of
from cr2fast.traffic.lines import LIMITS
from cr2fast.traffic.replayed import Figures, Measured, Replay
from cr2fast.traffic.value import value_of

F64 = npt.NDArray[np.float64]


def replay(
    log: Log,
    router: Router,
    lam: float,
    alpha: float | None = None,
    *,
    rule: str = "edge-only",
    fallback: str | None = None,
    logged_by: Router | Sequence[Router] = (),
    encoder: Any = None,
    link: Link = "logged",
    seed: int = 0,
) -> Replay:
    """Decide the requests of a log anew.

    Parameters
    ----------
    log : DecisionLog, path, pattern or sequence of paths
        With embeddings (``embedding = true`` in the gateway's ``[log]``).
    router : Router
        Calibrated; the logged one, or another of the same encoder.
    lam, alpha : float
        A calibrated operating point; `alpha` is optional, as of :meth:`Router.device`.
    rule, fallback
        Where deferred queries may go, as of :meth:`EdgeSelector.load`.
    logged_by : Router or sequence of Router
        The routers whose decisions the log holds, where `router` is another one with another gate.
    encoder : Encoder or StaticEncoder, optional
        The router's, to check that logged texts and embeddings belong together.
    link : {"logged", "measured", "table"}
        Link states, as of :func:`cr2fast.traffic.label.link_states`: those that the gateway decided
        with; measured ones, the rest drawn; or all drawn from the cost table.
    seed : int
        Seed of the draws.

    Returns
    -------
    Replay
        It prints as a table.

    Raises
    ------
    OperatingPointError
        The router is not calibrated at this point.
    Cr2Error
        A log of another router or another encoder; no embeddings.
    """
    points = [(lam, alpha)]
    return replays(
        log, router, points, rule=rule, fallback=fallback, logged_by=logged_by, encoder=encoder,
        link=link, seed=seed,
    )[0]  # fmt: skip


def replays(
    log: Log,
    router: Router,
    points: Iterable[tuple[float, float | None]],
    *,
    rule: str = "edge-only",
    fallback: str | None = None,
    logged_by: Router | Sequence[Router] = (),
    encoder: Any = None,
    link: Link = "logged",
    seed: int = 0,
) -> list[Replay]:
    """:func:`replay` at several points (lam, alpha), which read and judge the log once."""
    check_type(router, Router, "router")
    if router.calibration is None:
        raise OperatingPointError("router: expected a calibrated one; call calibrate first")
    found = opened(log)
    traffic = traffic_of(found, router, logged_by, encoder)
    judged = judge(traffic, router, link, seed)
    then = _logged_models(traffic, router)
    measured = _measured(found)
    priced = _priced(traffic, judged, router)
    out = []
    for lam, alpha in points:
        two = router.two_stage(lam, alpha, rule, fallback)
        now = _decide(two, traffic, judged, router)
        prefers_edge = judged.prefers_edge([two.lam])[0]
        known = (then >= 0) & (now >= 0)
        left_out = dict(traffic.left_out)
        if unmet := int((now < 0).sum()):
            left_out["whose budget no model keeps"] = unmet
        if strangers := int((then < 0).sum()):
            left_out["answered by no model of the router (not in the logged figures)"] = strangers
        value, note = value_of(traffic, judged, then, now)
        out.append(
            Replay(
                lam=two.lam,
                alpha=two.alpha,
                threshold=two.threshold,
                would=_figures(router, judged, priced, now, prefers_edge),
                logged=_figures(router, judged, priced, then, prefers_edge),
                measured=measured,
                changed=float(((now == 0) != (then == 0))[known].mean()) if known.any() else 0.0,
                value=value,
                value_note=note,
                left_out=left_out,
            )
        )
    return out


def _decide(
    two: TwoStage, traffic: Traffic, judged: Judged, router: Router
) -> npt.NDArray[np.int64]:
    """Which model each request goes to, -1 where none keeps its budget.

    Budgets, groups, the edge models that were up and their queues are as they were when the
    request came.
    """
    x, n, states = traffic.embeddings, traffic.n_input_tokens, judged.states
    groups = groups_of(traffic, router)
    index = np.array(two.route_batch(x, n, states, threads=0, groups=groups).index)
    names = {name: k for k, name in enumerate(router.models)}
    rows = traffic.frame.select(*LIMITS, "available", "queueing_s").rows()
    for i, (*limits, available, queues) in enumerate(rows):
        given = {k: v for k, v in zip(LIMITS, limits, strict=True) if v is not None}
        up = [name for name in available or () if name in names]
        waits = {q["model"]: q["seconds"] for q in queues or () if q["model"] in names}
        if given or (up and len(up) < len(names) - 1) or any(waits.values()):
            group = None if groups is None else groups[i]
            try:
                choice = two.route(
                    x[i], n[i], states[i], up or None, **given, group=group, waiting_s=waits
                )
                index[i] = names[choice.model]
            except BudgetError:
                index[i] = -1
    return index


def _logged_models(traffic: Traffic, router: Router) -> npt.NDArray[np.int64]:
    """Which model of the router answered each request, -1 where none did."""
    index = {name: k for k, name in enumerate(router.models)}
    rows = zip(traffic.frame["place"].to_list(), traffic.frame["model"].to_list(), strict=True)
    return np.array([0 if place == "device" else index.get(model, -1) for place, model in rows])


def _priced(traffic: Traffic, judged: Judged, router: Router) -> dict[str, F64 | None]:
    """What each model would take, (N, M) in s, J and $; None where the cost table cannot tell."""
    table, args = router.costs, (traffic.n_input_tokens, judged.n_output_tokens, judged.states)
    return {
        "latency_s": table.latency_s(*args) if table.has_latency else None,
        "energy_j": table.energy_j(*args) if table.has_energy else None,
        "usd": table.usd(*args) if table.has_prices else None,
    }


def _figures(
    router: Router,
    judged: Judged,
    priced: Mapping[str, F64 | None],
    chosen: npt.NDArray[np.int64],
    prefers_edge: npt.NDArray[np.bool_],
) -> Figures:
    """Figures of the models chosen, those that are -1 left out."""
    rows = np.flatnonzero(chosen >= 0)
    if not rows.size:
        raise Cr2Error(
            f"log: expected requests that models of the router answered, got none of "
            f"{list(router.models)}"
        )
    picked = chosen[rows]
    local = picked == 0
    false = int((local & prefers_edge[rows]).sum())
    low, high = binomial_interval(false, len(rows))
    latency, energy, usd = (
        None if values is None else values[rows, picked] for values in priced.values()
    )
    share = np.bincount(picked, minlength=len(router.models)) / len(rows)
    return Figures(
        n=len(rows),
        local_rate=float(local.mean()),
        latency_s=_mean(latency),
        latency_p50_s=_quantile(latency, 0.5),
        latency_p95_s=_quantile(latency, 0.95),
        energy_j=_mean(energy),
        usd=_mean(usd),
        cost=float(judged.costs[rows, picked].mean(dtype=np.float64)),
        accuracy=float(judged.accuracies[rows, picked].mean(dtype=np.float64)),
        false_acceptances=false,
        risk=false / len(rows),
        risk_low=low,
        risk_high=high,
        needless_deferrals=float((~local & ~prefers_edge[rows]).mean()),
        share={m: float(s) for m, s in zip(router.models, share, strict=True)},
    )


def _measured(log: Any) -> Measured:
    polars = require("polars", "lab")
    rows = log.frame.filter(polars.col("outcome") == "answered")
    total = rows["total_s"].drop_nulls().to_numpy()
    score = rows["score"].drop_nulls()
    return Measured(
        n=rows.height,
        latency_s=_mean(total),
        latency_p50_s=_quantile(total, 0.5),
        latency_p95_s=_quantile(total, 0.95),
        ttft_s=_mean(rows["ttft_s"].drop_nulls().to_numpy()),
        n_output_tokens=_mean(rows["n_output_tokens"].drop_nulls().to_numpy()),
        score=_mean(score.to_numpy()),
        graded=len(score),
    )


def _mean(values: F64 | None) -> float | None:
    return None if values is None or not len(values) else float(np.mean(values))


def _quantile(values: F64 | None, q: float) -> float | None:
    return None if values is None or not len(values) else float(np.quantile(values, q))
