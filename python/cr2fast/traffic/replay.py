"""What another operating point, or another router, would have done with logged traffic.

In: a log with embeddings, a router, points (lam, alpha). Out: :class:`Replay` for each point: local
rate, latency, energy, dollars, false acceptances by the teacher. Decisions are exact; what they
would have cost and answered is predicted by the cost table, the length predictor and the teacher,
for the logged decisions as well, so that the two can be compared. What was measured stands apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import BudgetError, Cr2Error, OperatingPointError, TwoStage
from cr2fast._util.checks import check_type
from cr2fast._util.optional import require
from cr2fast.evaluation.intervals import binomial_interval
from cr2fast.evaluation.offpolicy import Estimate
from cr2fast.router import Router
from cr2fast.traffic.label import Judged, Link, Log, Traffic, groups_of, judge, opened, traffic_of
from cr2fast.traffic.lines import LIMITS
from cr2fast.traffic.value import value_of

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """What some decisions come to, as predicted.

    Attributes
    ----------
    n : int
        Requests.
    local_rate : float
        Fraction kept on the device.
    latency_s, latency_p50_s, latency_p95_s : float or None
        Seconds per request by the cost table and predicted lengths; None without times in the
        table.
    energy_j, usd : float or None
        Joules and dollars per request, likewise.
    cost : float
        Mean normalised cost.
    accuracy : float
        Mean probability of a right answer, as the teacher predicts it.
    false_acceptances : int
        Requests kept local although the teacher prefers an edge model.
    risk, risk_low, risk_high : float
        Their fraction, with its exact 95 % binomial interval.
    needless_deferrals : float
        Fraction deferred although the teacher prefers the local model.
    share : dict of str to float
        Fraction of requests per model.
    """

    n: int
    local_rate: float
    latency_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    energy_j: float | None
    usd: float | None
    cost: float
    accuracy: float
    false_acceptances: int
    risk: float
    risk_low: float
    risk_high: float
    needless_deferrals: float
    share: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """What the log measured of answered requests; None where it measured nothing.

    Attributes
    ----------
    n : int
        Answered requests.
    latency_s, latency_p50_s, latency_p95_s, ttft_s : float or None
        Seconds from arrival to the end, and on average to the first content.
    n_output_tokens : float or None
        Mean, as the models counted.
    score : float or None
        Mean grade of those that were graded.
    graded : int
    """

    n: int
    latency_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    ttft_s: float | None
    n_output_tokens: float | None
    score: float | None
    graded: int


@dataclass(frozen=True)
class Replay:
    """Another point's decisions on logged requests.

    Attributes
    ----------
    lam, alpha, threshold : float
        The point that was replayed.
    would : Figures
        What it would have done.
    logged : Figures
        The logged decisions, predicted in the same way; risk at `lam`, by the same teacher.
    measured : Measured
        What the log measured of the logged decisions.
    changed : float
        Fraction of requests that would have gone to the other place.
    value : Estimate or None
        The mean score that it would have met, from grades of answers and of shadows, with a 95 %
        interval (:func:`cr2fast.traffic.value.value_of`): observed, not predicted.
    value_note : str
        Why there is none.
    left_out : dict of str to int
        Requests of the log that are in none of these figures, by why.
    """

    lam: float
    alpha: float
    threshold: float
    would: Figures
    logged: Figures
    measured: Measured
    changed: float
    value: Estimate | None
    value_note: str
    left_out: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        from cr2fast.calibration import threshold_word

        return asdict(self) | {"threshold": threshold_word(self.threshold)}

    def __str__(self) -> str:
        return table([self])


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
                would=_figures(router, traffic, judged, now, prefers_edge),
                logged=_figures(router, traffic, judged, then, prefers_edge),
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


def _figures(
    router: Router,
    traffic: Traffic,
    judged: Judged,
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
    table = router.costs
    args = (traffic.n_input_tokens, judged.n_output_tokens, judged.states)
    local = picked == 0
    false = int((local & prefers_edge[rows]).sum())
    low, high = binomial_interval(false, len(rows))
    latency = table.latency_s(*args)[rows, picked] if table.has_latency else None
    share = np.bincount(picked, minlength=len(router.models)) / len(rows)
    return Figures(
        n=len(rows),
        local_rate=float(local.mean()),
        latency_s=_mean(latency),
        latency_p50_s=_quantile(latency, 0.5),
        latency_p95_s=_quantile(latency, 0.95),
        energy_j=_mean(table.energy_j(*args)[rows, picked]) if table.has_energy else None,
        usd=_mean(table.usd(*args)[rows, picked]) if table.has_prices else None,
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


def table(replays: Sequence[Replay]) -> str:
    """Replays of one log, a line each below what was logged."""
    head = ("lam", "alpha", "local", "latency s", "p95 s", "J", "usd", "accuracy", "risk", "95 %")
    logged, measured = replays[0].logged, replays[0].measured
    rows = [head, _row(("logged", ""), logged)]
    rows += [_row((f"{r.lam:g}", f"{r.alpha:g}"), r.would) for r in replays]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    text = "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
    )
    said = [
        f"{replays[0].would.n} requests. Latency, energy and dollars are predicted by the cost "
        f"table and predicted lengths, accuracy by the teacher; risk is the fraction kept local "
        f"although the teacher prefers an edge model (that of the logged decisions at the first "
        f"lam)."
    ]
    if measured.latency_s is not None:
        said.append(
            f"Measured: {measured.n} answered requests took {measured.latency_s:.3g} s on average."
        )
    if measured.score is not None:
        said.append(f"{measured.graded} were graded, {measured.score:.3f} on average.")
        for r in replays:
            told = str(r.value) if r.value is not None else f"unknown: {r.value_note}"
            said.append(f"Score at lam={r.lam:g}, alpha={r.alpha:g}: {told}.")
    if left := replays[0].left_out:
        said.append("Left out: " + ", ".join(f"{n} {why}" for why, n in left.items()) + ".")
    return text + "\n" + " ".join(said)


def _row(point: tuple[str, str], f: Figures) -> tuple[str, ...]:
    def cell(value: float | None, form: str = ".3g") -> str:
        return "-" if value is None else format(value, form)

    return (
        *point,
        cell(f.local_rate, ".1%"),
        cell(f.latency_s),
        cell(f.latency_p95_s),
        cell(f.energy_j),
        cell(f.usd),
        cell(f.accuracy, ".3f"),
        cell(f.risk, ".2%"),
        f"{f.risk_low:.2%}..{f.risk_high:.2%}",
    )
