"""Evaluate a calibrated router on a test split.

In: router, test split, link states of a seed. Out: :class:`Evaluation`, which has at every
(lam, alpha) accuracy, cost, latency, energy, local rate, false-acceptance risk with its interval,
and needless deferrals. Decisions are made from what a service knows; what they cost and answer is
counted from recorded answers and true lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast._core import CostTable, Cr2Error, OperatingPointError
from cr2fast._util import seeds
from cr2fast._util.checks import check_choice, check_type, shown
from cr2fast.calibration import accepted
from cr2fast.calibration import groups as per_group
from cr2fast.calibration.point import OperatingPoint
from cr2fast.data.table import RoutingTable
from cr2fast.evaluation.queries import F64, Queries
from cr2fast.evaluation.result import Evaluation
from cr2fast.fitted import Lengths, Overlap
from cr2fast.router import Router

Deferred = Literal["edge-only", "inclusive", "fallback"]


def evaluate(
    router: Router,
    test: RoutingTable,
    costs: CostTable | None = None,
    *,
    seed: int = 0,
    lengths: Lengths | None = None,
    deferred: Deferred = "edge-only",
    fallback: str | None = None,
    overlap: Overlap = "raise",
    point: OperatingPoint | None = None,
    groups: str | Sequence[str] | None = None,
) -> Evaluation:
    """Route every test query at every calibrated (lam, alpha) and count what happened.

    Parameters
    ----------
    router : Router
        Calibrated.
    test : RoutingTable
        Queries of neither training nor calibration (checked by id).
    costs : CostTable, optional
        The router's table; an error if it is another.
    seed : int
        Seed of the sampled link states.
    lengths : {"predicted", "known"}, optional
        Output lengths that the edge knows when it chooses; by default those of the calibration.
        The judge of the risk stays the calibrated one.
    deferred : {"edge-only", "inclusive", "fallback"}
        Where deferred queries may go.
    fallback : str, optional
        The model that takes them all; only with ``deferred="fallback"``.
    overlap : {"raise", "drop"}
        What to do with queries that trained or calibrated the router, by id or by what they say: an
        error, or leave them out and count them.
    point : OperatingPoint, optional
        One that was chosen on other queries: it is an error where these are among them.
    groups : str or sequence of str, optional
        A column of the queries, or a name for each: their groups, where the router was calibrated
        with a threshold per group. Needed there, and an error elsewhere.

    Returns
    -------
    Evaluation

    Raises
    ------
    OperatingPointError
        The router has no thresholds.
    SplitOverlapError
        Test queries that trained or calibrated the router, or chose the point.
    Cr2Error
        Other models, encoder or cost table; an unknown option.
    """
    calibration = router.calibration
    if calibration is None:
        raise OperatingPointError("router: expected a calibrated one; call calibrate first")
    given = len(test) if isinstance(test, RoutingTable) else 0
    test = router.check_table(test, "test split", after_calibration=True, overlap=overlap)
    sha256 = router.sha256
    if point is not None:
        check_type(point, OperatingPoint, "point")
        point.check_router(sha256)
        point.check_disjoint(test.content.asked, "test split")
    if (groups is None) != (calibration["groups"] is None):
        wanted = "none, for" if groups is not None else "the queries' groups (--groups COLUMN), for"
        raise Cr2Error(
            f"groups: expected {wanted} a router calibrated "
            f"{'without' if groups is not None else 'with'} groups, got "
            f"{'none' if groups is None else shown(groups)}"
        )
    table = router.costs_for(costs)
    lengths = lengths or calibration["lengths"]
    if fallback is not None and deferred != "fallback":
        raise Cr2Error(
            f"fallback: expected no model without deferred='fallback', got {shown(fallback)}"
        )
    lams, alphas = calibration["lams"], calibration["alphas"]
    states = table.sample_states(len(test), seeds.TEST + seeds.check_seed(seed))
    seen = router.decision_costs(test, states, lengths)
    rows = router.inputs(test)
    accuracies = router.accuracies(rows)
    believed = router.judged_accuracies(test, calibration["judge"])
    # The risk is about the judge of the calibration, whatever lengths this decision maker knows.
    judged_costs = router.decision_costs(test, states, calibration["lengths"])
    prefers_edge = _core.choice_margins(believed, judged_costs, lams) < 0
    margins = router.margins(rows, lams, states=states)
    if groups is None:
        local = accepted(margins, calibration["thresholds"])
    else:
        local = _accepts(margins, calibration, per_group.labels(test, groups))
    if (level := calibration["defer_atypical"]) is not None:
        local &= router.p_values(rows) > level
    at_edge = _deferred_choice(router, accuracies, seen, lams, deferred, fallback)
    chosen = np.where(local, 0, at_edge[:, None, :])

    world = _World(test, table, states)
    outcome = world.outcome(chosen)
    full = _core.choices(accuracies, seen, lams).astype(np.int64)
    oracle = _core.choices(test.correct.astype(np.float32), world.cost, lams).astype(np.int64)
    everyone = np.arange(len(router.models))[:, None] * np.ones(len(test), dtype=np.int64)
    keep = ("accuracy", "accuracy_answerable", "cost", "latency_s", "energy_j", "usd")
    return Evaluation(
        lams=lams,
        alphas=alphas,
        models=tuple(router.models),
        unit_model=table.reference_model,
        n=len(test),
        n_answerable=int(test.answerable.sum()),
        n_calibration=calibration["n"],
        **outcome,
        local_rate=local.mean(axis=2),
        false_acceptances=(local & prefers_edge[:, None, :]).sum(axis=2),
        needless_deferrals=(~local & ~prefers_edge[:, None, :]).mean(axis=2),
        share=np.stack([(chosen == m).mean(axis=2) for m in range(len(router.models))], axis=2),
        baselines={
            name: {k: of[k].tolist() for k in keep}
            for name, of in (
                ("full_information", world.outcome(full)),
                ("oracle", world.outcome(oracle)),
                ("alone", world.outcome(everyone)),
            )
        },
        lengths=lengths,
        judge=calibration["judge"],
        deferred=deferred,
        delta=calibration["delta"],
        statement=router.statement,
        dropped=given - len(test),
        queries=world.queries(chosen, test.content.kept),
        router=sha256,
    )


def _accepts(
    margins: npt.NDArray[np.float32], calibration: Mapping[str, Any], names: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """What a calibration per group accepts, (L, A, N), of margins (L, N) and each query's group."""
    kept = calibration["groups"]
    if kept["unknown"] == "pooled":
        local = accepted(margins, calibration["thresholds"])
    else:
        local = np.zeros((len(margins), len(calibration["alphas"]), len(names)), dtype=bool)
    of = np.asarray(names, dtype=object)
    for name, thresholds in zip(kept["names"], np.asarray(kept["thresholds"]), strict=True):
        rows = np.flatnonzero(of == name)
        local[..., rows] = accepted(margins[:, rows], thresholds)
    return local


def _deferred_choice(
    router: Router,
    accuracies: npt.NDArray[np.float32],
    costs: npt.NDArray[np.float32],
    lams: F64,
    deferred: Deferred,
    fallback: str | None,
) -> npt.NDArray[np.int64]:
    """Which model each query goes to if it is deferred, (L, N)."""
    check_choice(deferred, get_args(Deferred), "deferred")
    if deferred == "fallback":
        if fallback not in router.models[1:]:
            raise Cr2Error(
                f"fallback: expected one of {router.models[1:]}, got "
                f"{'none' if fallback is None else shown(fallback)}"
            )
        return np.full((len(lams), len(accuracies)), router.models.index(fallback))
    first = 1 if deferred == "edge-only" else 0
    return _core.choices(accuracies, costs, lams, first).astype(np.int64)


class _World:
    """What really happens: recorded answers, true lengths, sampled link states."""

    def __init__(self, test: RoutingTable, table: CostTable, states: _core.LinkStates) -> None:
        args = (test.n_input_tokens, test.n_output_tokens, states)
        self.correct = test.correct
        self.answerable = test.answerable
        self.cost = table.cost(*args)
        unknown = np.full(self.cost.shape, np.nan)
        self.latency_s = table.latency_s(*args) if table.has_latency else unknown
        self.energy_j = table.energy_j(*args) if table.has_energy else unknown
        self.usd = table.usd(*args) if table.has_prices else unknown

    def queries(self, chosen: npt.NDArray[np.int64], content: npt.NDArray[np.uint64]) -> Queries:
        """What each query came to, for what is chosen from it later."""
        by_model = {
            "accuracy": self.correct,
            "cost": self.cost,
            "latency_s": self.latency_s,
            "energy_j": self.energy_j,
            "usd": self.usd,
        }
        small = np.uint8 if self.cost.shape[1] <= 256 else np.uint16
        return Queries(chosen.astype(small), by_model, content)

    def outcome(self, chosen: npt.NDArray[np.int64]) -> dict[str, F64]:
        """Means and quantiles over the last axis of `chosen` (..., N) of model indices."""
        rows = np.arange(chosen.shape[-1])
        correct = self.correct[rows, chosen]
        latency, energy = self.latency_s[rows, chosen], self.energy_j[rows, chosen]
        latency_p50, latency_p95 = np.quantile(latency, (0.5, 0.95), axis=-1)
        energy_p50, energy_p95 = np.quantile(energy, (0.5, 0.95), axis=-1)
        usd = self.usd[rows, chosen]
        usd_p50, usd_p95 = np.quantile(usd, (0.5, 0.95), axis=-1)
        answerable = int(self.answerable.sum()) or np.nan
        return {
            "accuracy": correct.mean(axis=-1, dtype=np.float64),
            "accuracy_answerable": correct.sum(axis=-1, dtype=np.float64) / answerable,
            "cost": self.cost[rows, chosen].mean(axis=-1, dtype=np.float64),
            "latency_s": latency.mean(axis=-1),
            "latency_p50_s": latency_p50,
            "latency_p95_s": latency_p95,
            "energy_j": energy.mean(axis=-1),
            "energy_p50_j": energy_p50,
            "energy_p95_j": energy_p95,
            "usd": usd.mean(axis=-1),
            "usd_p50": usd_p50,
            "usd_p95": usd_p95,
        }
