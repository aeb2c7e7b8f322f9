"""Calibrate, save and load a router.

In: what a fit made (:mod:`cr2fast.fitting`), then a calibration split. Out: :class:`Router`, whose
file the device and the edge load. Rust computes; this module checks what it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cr2fast._core import CostTable, Cr2Error, DeviceRouter, EdgeSelector, LinkStates, TwoStage
from cr2fast._util import renamed, seeds
from cr2fast._util.checks import check_choice, check_threads, check_type, real
from cr2fast.calibration import (
    ALPHAS,
    CalibrationReport,
    ascending,
    check_delta,
    drift,
    index_of,
    lam_grid,
    statement,
)
from cr2fast.calibration import groups as per_group
from cr2fast.calibration.drift import DriftReport
from cr2fast.data.content import warn_if_alike
from cr2fast.data.queries import Queries, QueryTable
from cr2fast.data.table import RoutingTable
from cr2fast.fitted import Fitted, Judge, Lengths, Overlap


class Router(Fitted):
    """A fitted router: gate, teacher, length predictor, cost table, thresholds.

    Made by :func:`cr2fast.fit` or :meth:`load`. :meth:`calibrate` gives it thresholds;
    :meth:`device`, :meth:`edge` and :meth:`two_stage` return immutable parts, which a later
    calibration does not change.
    """

    @property
    def statement(self) -> str:
        """What the thresholds promise, in words, or that there are none yet."""
        c = self.calibration
        if c is None:
            return "Not calibrated: no promise yet."
        return statement(
            c["n"],
            c["judge"],
            c["lengths"],
            c["alphas"].tolist(),
            c["delta"],
            len(c["lams"]),
            c["defer_atypical"],
            groups=c["groups"],
        )

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What was calibrated; None before :meth:`calibrate`.

        The grid (`lams`, `alphas`), `thresholds` (L, A), `n`, `judge`, `lengths`, `delta` (None
        unless simultaneous), `defer_atypical` (None unless asked for), `quantiles` (L, Q), the
        margins that :meth:`check_drift` compares with, and `length_factors` (M,), by which a
        predicted output length becomes a bound that at most 5 % of a model's answers exceed; empty
        where the calibration had no lengths. `groups` (None without): `names`, `n`, `thresholds`
        (G, L, A) and `unknown`.
        """
        kept = self._core.calibration
        if kept is None:
            return None
        named = {"judge" if k == "reference" else k: v for k, v in kept.items()}
        return renamed.Names(named, {"reference": "judge"})

    def device(self, lam: float, alpha: float | None = None) -> DeviceRouter:
        """Stage one, which accepts a query for the local model or defers it.

        Parameters
        ----------
        lam : float
            A calibrated cost weight.
        alpha : float, optional
            A calibrated risk level; by default 0.01 or, where that is not calibrated, the level
            nearest to it (:attr:`DeviceRouter.alpha` says which).

        Raises
        ------
        OperatingPointError
            Not calibrated, or not at this point; the message has the grid.
        """
        return DeviceRouter.from_router(self._core, lam, alpha)

    def edge(
        self, lam: float, rule: str = "edge-only", fallback: str | None = None
    ) -> EdgeSelector:
        """Stage two, which chooses a model for a deferred query.

        Parameters
        ----------
        lam : float
            Cost weight.
        rule, fallback
            Where deferred queries may go, as of :meth:`EdgeSelector.load`.
        """
        return EdgeSelector.from_router(self._core, lam, rule, fallback)

    def two_stage(
        self,
        lam: float,
        alpha: float | None = None,
        rule: str = "edge-only",
        fallback: str | None = None,
    ) -> TwoStage:
        """Both stages, which name a query's place and model in one call.

        Parameters
        ----------
        lam, alpha : float
            A calibrated operating point; `alpha` is optional, as of :meth:`device`.
        rule, fallback
            Where deferred queries may go, as of :meth:`EdgeSelector.load`.

        Raises
        ------
        OperatingPointError
            Not calibrated, or not at this point; the message has the grid.
        """
        return TwoStage.from_router(self._core, lam, alpha, rule, fallback)

    @renamed.keywords(reference="judge")
    def calibrate(
        self,
        calibration: RoutingTable | QueryTable,
        costs: CostTable | None = None,
        *,
        alphas: Sequence[float] | None = None,
        lams: npt.ArrayLike | None = None,
        judge: Judge = "teacher",
        lengths: Lengths | None = None,
        on_infeasible: Literal["raise", "defer", "leave out"] | None = None,
        overlap: Overlap = "raise",
        simultaneous: bool = False,
        delta: float | None = None,
        defer_atypical: float | None = None,
        groups: str | Sequence[str] | None = None,
        unknown_group: per_group.Unknown = "defer",
        states: LinkStates | None = None,
        seed: int = 0,
        threads: int = 0,
    ) -> CalibrationReport:
        """Choose thresholds by conformal risk control (equations 62-68), one per (lam, alpha).

        Parameters
        ----------
        calibration : RoutingTable or QueryTable
            Queries exchangeable with future ones, none of them in training (checked by id, and by
            what they say). A judge that is the teacher needs no answers: of a QueryTable, such as
            last week's traffic, thresholds are the bits that the same rows with answers give.
        costs : CostTable, optional
            The table the router was fitted with; an error if it is another.
        alphas : sequence of float, optional
            Risk levels in (0, 1); by default those of the paper
            (:data:`cr2fast.calibration.ALPHAS`) that N samples can promise.
        lams : array_like of float, optional
            Cost weights in the trained range; by default 32, closer where more choices change with
            the cost weight (``fit(lam_range="auto")``), or log-spaced (:func:`default_lams`).
        judge : {"teacher", "outcomes"}
            What a local acceptance is measured against: it is false where the full-information
            choice by the teacher's probabilities, or by the recorded answers, is an edge model. Of
            graded answers it is false where some edge model's grade less its cost is higher than
            the local one's, by however little, and counts as one: the risk is a fraction of
            queries, not a loss of grades.
        lengths : {"predicted", "known"}, optional
            Output lengths that price the judge's choice; by default the router's own.
        on_infeasible : {"raise", "defer", "leave out"}, optional
            What to do at a risk level that N samples cannot promise (without `simultaneous`: below
            1 / (N + 1)): an error, which is the default for `alphas` that are given; defer every
            query there; or leave the level out and say so in the report, the default otherwise.
        overlap : {"raise", "drop"}
            What to do with queries that training had seen, by id or by what they say: an error, or
            leave them out and count them in the report.
        simultaneous : bool
            One statement over the whole grid: with probability 1 - `delta` over calibration sets
            drawn independently from the distribution of future queries, the risk is at most alpha
            in every cell at once. Fewer queries stay local: thresholds come from an exact binomial
            bound that is divided among the cells (:func:`cr2fast.calibration.allowed_counts`), so
            a smaller grid keeps more of them local.
        delta : float, optional
            Only with `simultaneous`, where the default is 0.1.
        defer_atypical : float, optional
            Also defer queries whose typicality p-value (:meth:`p_values`) is at most this level: of
            queries like the calibration split's that is a fraction of at most the level. Thresholds
            are those of a calibration without it. A query that is accepted with it would be
            accepted without it too, so false acceptances can only become fewer, and the promise
            holds as it stands; the report's risk and local rate count these deferrals.
        groups : str or sequence of str, optional
            A column of the queries, or a name for each: every group also has thresholds of its own,
            from its own samples, and the promise holds within each, whatever the mix of groups. A
            group that is too small for a level defers there (with ``on_infeasible="raise"``: an
            error). At most 1,024 groups; names of at most 200 bytes.
        unknown_group : {"defer", "pooled"}
            What becomes of a query of a group that calibration did not see, or of none: deferred,
            or compared with the threshold of all groups together, which promises for their mix.
        states : LinkStates, N of them, optional
            The link's state at each query, where it was measured; drawn from the cost table's
            distribution by default.
        seed : int
            Seed of the sampled link states.
        threads : int
            0: one per core.

        Returns
        -------
        CalibrationReport
            Thresholds and promise are also kept in the router, and saved with it.

        Raises
        ------
        SplitOverlapError
            A query of the split was in training.
        InfeasibleAlphaError
            A risk level that N samples cannot promise.
        Cr2Error
            Other models, encoder or cost table; an argument out of range.
        """
        given = len(calibration) if isinstance(calibration, Queries) else 0
        check_choice(unknown_group, get_args(per_group.Unknown), "unknown_group")
        if states is not None:
            check_type(states, LinkStates, "states")
            if len(states) != given:
                raise Cr2Error(f"states: expected {given}, one per query, got {len(states)}")
            at = {name: i for i, name in enumerate(calibration.query_ids)}
        group_of: dict[str, str] = {}
        if groups is not None and isinstance(calibration, Queries):
            names = per_group.labels(calibration, groups)
            group_of = dict(zip(calibration.query_ids, names, strict=True))
        lengths = lengths or self.lengths
        check_choice(judge, get_args(Judge), "judge")
        check_choice(lengths, get_args(Lengths), "lengths")
        if isinstance(calibration, QueryTable) and (judge, lengths) != ("teacher", "predicted"):
            what = "answers" if judge == "outcomes" else "output lengths"
            word = "judge='teacher'" if judge == "outcomes" else "lengths='predicted'"
            raise Cr2Error(
                f"calibration split: expected a RoutingTable, which has recorded {what}, got a "
                f"QueryTable, which has none; pass one, or {word}"
            )
        calibration = self.check_table(
            calibration,
            "calibration split",
            after_calibration=False,
            overlap=overlap,
            answered=False,
        )
        warn_if_alike(calibration.embeddings, "calibration split")
        self.costs_for(costs)
        threads = check_threads(threads)
        grid = lam_grid(lams, self.training)
        levels = ascending(ALPHAS if alphas is None else alphas, "alphas")
        raising = on_infeasible == "raise"
        if on_infeasible is None:
            on_infeasible = "leave out" if alphas is None else "raise"
        answered = calibration if isinstance(calibration, RoutingTable) else None
        promised = check_delta(simultaneous, delta)
        grouped = None
        if group_of:
            grouped = per_group.grouping([group_of[i] for i in calibration.query_ids])
        if grouped is not None and raising:
            per_group.check_sizes(grouped, levels.tolist(), len(grid), promised)
        if states is not None and len(calibration) != given:  # rows that were left out
            i = [at[name] for name in calibration.query_ids]
            states = LinkStates(states.rate_ul_bps[i], states.rate_dl_bps[i], states.rtt_s[i])
        level = None if defer_atypical is None else real(defer_atypical, "defer_atypical")
        self._core, done = self._core.calibrate(
            self.inputs(calibration),
            calibration.n_input_tokens,
            list(calibration.query_ids),
            grid.tolist(),
            levels.tolist(),
            content=calibration.content.kept,
            outcomes=answered.correct.astype(np.float32)
            if answered is not None and judge == "outcomes"
            else None,
            n_output_tokens=answered.n_output_tokens
            if answered is not None and lengths == "known"
            else None,
            recorded=None if answered is None else answered.n_output_tokens,
            on_infeasible=on_infeasible,
            delta=promised,
            defer_atypical=level,
            groups=grouped,
            pooled=unknown_group == "pooled",
            states=states,
            seed=seeds.CALIBRATION + seeds.check_seed(seed),
            threads=threads,
        )
        kept = self._core.calibration
        assert kept is not None
        return CalibrationReport(
            lams=kept["lams"],
            alphas=kept["alphas"],
            thresholds=kept["thresholds"],
            n=kept["n"],
            allowed=tuple(done["allowed"]),
            empirical_risk=done["empirical_risk"],
            local_rate=done["local_rate"],
            judge=judge,
            lengths=lengths,
            delta=promised,
            defer_atypical=kept["defer_atypical"],
            left_out=tuple(done["left_out"]),
            dropped=given - len(calibration),
            groups=per_group.report(kept["groups"], done.get("groups")),
        )

    def p_values(
        self, embeddings: npt.NDArray[np.float32], threads: int = 0
    ) -> npt.NDArray[np.float64]:
        """How typical queries are of the calibration split, as conformal p-values.

        Parameters
        ----------
        embeddings : ndarray of float32, (N, d)
        threads : int
            0: one per core.

        Returns
        -------
        ndarray of float64, (N,)
            In (0, 1]: (1 + number of calibration queries that score no lower) / (N + 1), or
            slightly more where not all scores were kept. For a query exchangeable with the
            calibration split the probability of a p-value of u or less is at most u, over queries
            and splits together.

        Raises
        ------
        Cr2Error
            The router is not calibrated, or an earlier version made it; another shape, NaN.
        """
        return self._core.p_values(embeddings, threads)

    @renamed.keywords(scores="margins")
    def check_drift(
        self, margins: npt.ArrayLike, *, lam: float | None = None, level: float = 0.01
    ) -> DriftReport:
        """Test whether live queries still look like the calibration set, by their margins.

        Parameters
        ----------
        margins : array_like, (n,)
            Margins of live queries at `lam`, from ``Decision.margin`` or
            :meth:`DeviceRouter.margins`.
        lam : float, optional
            The calibrated cost weight of the margins; needed where the grid has several.
        level : float
            False-alarm rate of one check (:class:`DriftReport` says over what). The rate that any
            of m checks raises a false alarm is at most m times as high.

        Returns
        -------
        DriftReport
            It prints as a sentence. Margins that did not move do not prove that nothing moved: the
            link, or what models answer, can drift while margins stay the same.

        Raises
        ------
        Cr2Error
            The router is not calibrated, or an earlier version calibrated it; a margin is not
            finite.
        OperatingPointError
            `lam` is not on the calibrated grid.
        """
        c = self.calibration
        if c is None:
            raise Cr2Error("check_drift: expected a calibrated router; call calibrate first")
        if not c["quantiles"].size:
            raise Cr2Error(
                "check_drift: expected calibration margins in the artifact, got one calibrated by "
                "an earlier version; calibrate again"
            )
        lams = c["lams"]
        at = index_of(lams, lams[0] if lam is None and len(lams) == 1 else lam, "lam")
        return drift.check(margins, c["quantiles"][at], c["n"], float(lams[at]), level)

    def __repr__(self) -> str:
        state = "calibrated" if self.calibration else "not calibrated"
        return f"Router(models={self.models}, {state})"
