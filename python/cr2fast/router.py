"""Calibrate, save and load a router.

In: a fitted core (:mod:`cr2fast.fitting`), then a calibration split. Out: :class:`Router`, whose
file the device and the edge load. The loops are in Rust; here is decided what is called on what.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast._core import CostTable, Cr2Error, DeviceRouter, EdgeSelector, LinkStates
from cr2fast._util import seeds
from cr2fast._util.checks import check_threads, check_type
from cr2fast.calibration import (
    ALPHAS,
    CalibrationReport,
    allowed_counts,
    ascending,
    check_delta,
    drift,
    index_of,
    lam_grid,
    simultaneous_thresholds,
    statement,
)
from cr2fast.calibration.drift import DriftReport
from cr2fast.data.table import RoutingTable
from cr2fast.encoders.info import EncoderInfo

Lengths = Literal["predicted", "known"]
Reference = Literal["teacher", "outcomes"]


class Router:
    """A fitted router: gate, teacher, length predictor, cost table, thresholds.

    Made by :func:`cr2fast.fit` or :meth:`load`. :meth:`calibrate` gives it thresholds; the parts it
    hands out (:meth:`device`, :meth:`edge`) are immutable and keep what they were made with.
    """

    def __init__(self, core: _core.Router) -> None:
        self._core = core

    @classmethod
    def load(cls, path: str | Path, encoder: EncoderInfo | None = None) -> Router:
        """Read an artifact.

        Parameters
        ----------
        path : path
            A ``router.safetensors``.
        encoder : EncoderInfo, optional
            The encoder at hand; another one than the router's is an error.

        Raises
        ------
        ArtifactError
            Truncated, forged, newer, or another encoder's file.
        OSError
            No such file, no permission.
        """
        core = _core.Router.load(path)
        if encoder is not None:
            if not isinstance(encoder, EncoderInfo):
                raise TypeError(f"encoder: expected an EncoderInfo, got {type(encoder).__name__}")
            core.check_encoder(*encoder)
        return cls(core)

    def save(self, path: str | Path) -> None:
        """Write the artifact, to a temporary file first; the same router gives the same bytes."""
        self._core.save(path)

    def to_bytes(self) -> bytes:
        """The artifact's bytes."""
        return self._core.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Router:
        """The router of an artifact's bytes; an ArtifactError if they are none."""
        return cls(_core.Router.from_bytes(data))

    def __reduce__(self) -> tuple[Any, ...]:
        return Router.from_bytes, (self.to_bytes(),)

    @property
    def models(self) -> tuple[str, ...]:
        """(M,) names, the local model first."""
        return tuple(self._core.models)

    @property
    def dim(self) -> int:
        """Embedding width d."""
        return self._core.dim

    @property
    def encoder(self) -> EncoderInfo:
        """What made the embeddings it was fitted on."""
        return EncoderInfo(*self._core.encoder)

    @property
    def costs(self) -> CostTable:
        """The cost table, T0 and E0 set."""
        return self._core.costs

    @property
    def training(self) -> dict[str, Any]:
        """Record of the fit: options, losses by epoch, checks."""
        record: dict[str, Any] = json.loads(self._core.training)
        return record

    @property
    def weights(self) -> str:
        """Number type of the weight matrices: "float32", "float16" or "bfloat16"."""
        return self._core.weights

    def to_float16(self) -> Router:
        """The same router with its weight matrices rounded to float16: half the file.

        Thresholds belong to margins, which the rounding moves: the result is not calibrated.
        Computation stays in float32, at the same speed, and a row's margin is the same bits from
        every call and on every processor.

        Raises
        ------
        Cr2Error
            A weight beyond float16's largest, 65504.
        """
        return Router(self._core.rounded("float16"))

    def to_bfloat16(self) -> Router:
        """The same router with its weight matrices rounded to bfloat16: half the file, and quicker.

        Bfloat16 is a float32's upper half: as :meth:`to_float16`, but three bits coarser. A
        decision mostly waits for its weights, and these are half as many bytes.
        """
        return Router(self._core.rounded("bfloat16"))

    @property
    def parameters(self) -> dict[str, int]:
        """Parameter counts of gate and teacher."""
        gate, teacher = self._core.parameters
        return {"gate": gate, "teacher": teacher}

    @property
    def lengths(self) -> Lengths:
        """Whose output lengths priced the gate's targets."""
        lengths: Lengths = self.training["config"]["lengths"]
        return lengths

    @property
    def statement(self) -> str:
        """What the thresholds promise, in words; says so when there are none yet."""
        c = self.calibration
        if c is None:
            return "Not calibrated: no promise yet."
        return statement(
            c["n"], c["reference"], c["lengths"], c["alphas"].tolist(), c["delta"], len(c["lams"])
        )

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What was calibrated; None before :meth:`calibrate`.

        Grid (`lams`, `alphas`), `thresholds` (L, A), `n`, `reference`, `lengths`, `delta` (None
        unless simultaneous), and `quantiles` (L, Q), the margins that :meth:`check_drift` compares
        with.
        """
        return self._core.calibration

    def device(self, lam: float, alpha: float = 0.01) -> DeviceRouter:
        """Stage one at a calibrated operating point; an OperatingPointError off the grid."""
        return DeviceRouter.from_router(self._core, lam, alpha)

    def edge(
        self, lam: float, rule: str = "edge-only", fallback: str | None = None
    ) -> EdgeSelector:
        """Stage two at a cost weight; `rule` and `fallback` as of :meth:`EdgeSelector.load`."""
        return EdgeSelector.from_router(self._core, lam, rule, fallback)

    def margins(
        self, embeddings: npt.NDArray[np.float32], lams: npt.ArrayLike, threads: int = 0
    ) -> npt.NDArray[np.float32]:
        """Gate margins, (L, N) float32, of embeddings (N, d) float32 at cost weights (L,).

        Wrong shapes, NaN and infinities are a Cr2Error, wrong dtypes a TypeError; so below.
        """
        return self._core.margins(embeddings, lams, threads)

    def accuracies(
        self, embeddings: npt.NDArray[np.float32], threads: int = 0
    ) -> npt.NDArray[np.float32]:
        """Teacher's probability that each model is right, (N, M) float32, of (N, d) float32."""
        return self._core.accuracies(embeddings, threads)

    def predict_lengths(
        self, embeddings: npt.NDArray[np.float32], n_input_tokens: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Expected output tokens, (N, M) float64, of (N, d) embeddings and (N,) input tokens."""
        return self._core.predict_lengths(embeddings, n_input_tokens)

    def check_table(self, table: RoutingTable, what: str, *, after_calibration: bool) -> None:
        """Refuse a table of other models or another encoder, or one that shares queries.

        Parameters
        ----------
        table : RoutingTable
            The split offered.
        what : str
            Its name in errors.
        after_calibration : bool
            Also refuse queries that calibrated this router.
        """
        check_type(table, RoutingTable, what)
        self._core.check_models(what, list(table.models))
        self._core.check_encoder(*table.encoder)
        self._core.check_disjoint(what, list(table.query_ids), after_calibration)

    def costs_for(self, costs: CostTable | None) -> CostTable:
        """The router's table, T0 and E0 as at its fit, after checking that `costs` is the same.

        Another T0 and E0 in `costs` do not count: they follow from data, and the thresholds are
        bound to the router's own.
        """
        if costs is not None:
            check_type(costs, CostTable, "costs")
            self._core.check_models("cost table", costs.models)
            if costs.sha256 != self.costs.sha256:
                raise Cr2Error(
                    f"costs: expected the cost table the router was fitted with "
                    f"(sha256 {self.costs.sha256}), got {costs.sha256}; fit again with the new one"
                )
        return self.costs

    def decision_costs(
        self, table: RoutingTable, states: LinkStates, lengths: Lengths
    ) -> npt.NDArray[np.float32]:
        """C (N, M) as a decision maker sees it, with predicted or known lengths."""
        if lengths not in ("predicted", "known"):
            raise Cr2Error(f"lengths: expected 'predicted' or 'known', got {lengths!r}")
        n_output: npt.ArrayLike = table.n_output_tokens
        if lengths == "predicted":
            n_output = self.predict_lengths(table.embeddings, table.n_input_tokens)
        return self.costs.cost(table.n_input_tokens, n_output, states)

    def reference_accuracies(
        self, table: RoutingTable, reference: Reference
    ) -> npt.NDArray[np.float32]:
        """What the reference believes of each model: the teacher's p, or the recorded y."""
        if reference == "teacher":
            return self.accuracies(table.embeddings)
        if reference == "outcomes":
            return table.correct.astype(np.float32)
        raise Cr2Error(f"reference: expected 'teacher' or 'outcomes', got {reference!r}")

    def calibrate(
        self,
        calibration: RoutingTable,
        costs: CostTable | None = None,
        *,
        alphas: Sequence[float] = ALPHAS,
        lams: npt.ArrayLike | None = None,
        reference: Reference = "teacher",
        lengths: Lengths | None = None,
        on_infeasible: Literal["raise", "defer"] = "raise",
        simultaneous: bool = False,
        delta: float | None = None,
        seed: int = 0,
        threads: int = 0,
    ) -> CalibrationReport:
        """Choose thresholds by conformal risk control (equations 62-68), one a (lam, alpha).

        Parameters
        ----------
        calibration : RoutingTable
            Queries exchangeable with future ones, none of them seen in training (checked by id).
        costs : CostTable, optional
            The table the router was fitted with; checked, not needed.
        alphas : sequence of float
            Risk levels in (0, 1).
        lams : array_like of float, optional
            Cost weights in the trained range; by default 32 log-spaced ones (:func:`default_lams`).
        reference : {"teacher", "outcomes"}
            A local acceptance is false where the teacher's full-information choice, or the choice
            by the recorded answers, is an edge model.
        lengths : {"predicted", "known"}, optional
            Output lengths that price the reference's choice; by default the router's own.
        on_infeasible : {"raise", "defer"}
            For a risk level that N samples cannot promise (alone: alpha < 1/(N+1)).
        simultaneous : bool
            One statement over the whole grid: with probability 1 - `delta` over calibration sets
            drawn independently from the distribution of future queries, the risk is at most alpha
            in every cell at once. Costs local acceptances: thresholds come from an exact binomial
            bound, corrected for the number of cells
            (:func:`cr2fast.calibration.allowed_counts`), so a small grid buys more.
        delta : float, optional
            With `simultaneous` alone; 0.1 there by default.
        seed : int
            Seed of the sampled link states.
        threads : int
            0: one a core.

        Returns
        -------
        CalibrationReport
            Thresholds and promise are kept in the router, too, and saved with it.

        Raises
        ------
        SplitOverlapError, InfeasibleAlphaError, Cr2Error
        """
        self.check_table(calibration, "calibration split", after_calibration=False)
        self.costs_for(costs)
        lengths = lengths or self.lengths
        threads = check_threads(threads)
        config = self.training["config"]
        grid = lam_grid(lams, float(config["lam_low"]), float(config["lam_high"]))
        levels = ascending(alphas, "alphas")
        n = len(calibration)
        states = self.costs.sample_states(n, seeds.CALIBRATION + seeds.check_seed(seed))
        c = self.decision_costs(calibration, states, lengths)
        p = self.reference_accuracies(calibration, reference)
        prefers_edge = _core.reference_margins(p, c, grid) < 0
        scores = self.margins(calibration.embeddings, grid, threads)
        promised = check_delta(simultaneous, delta)
        allowed = allowed_counts(n, levels.tolist(), len(grid), promised)
        args = (scores, prefers_edge, levels)
        thresholds = (
            _core.crc_thresholds(*args, on_infeasible, threads)
            if promised is None
            else simultaneous_thresholds(*args, allowed, on_infeasible, threads)
        )
        self._core = self._core.with_calibration(
            grid.tolist(),
            levels.tolist(),
            thresholds,
            n,
            reference,
            lengths,
            promised,
            drift.keep(scores),
            list(calibration.query_ids),
        )
        return CalibrationReport(
            lams=grid,
            alphas=levels,
            thresholds=thresholds,
            n=n,
            allowed=allowed,
            empirical_risk=_core.empirical_risk(scores, prefers_edge, thresholds),
            local_rate=(scores[:, None, :] >= thresholds[:, :, None]).mean(axis=2),
            reference=reference,
            lengths=lengths,
            delta=promised,
        )

    def check_drift(
        self, scores: npt.ArrayLike, *, lam: float | None = None, level: float = 0.01
    ) -> DriftReport:
        """Whether live queries still look like the calibration set, by their margins.

        Parameters
        ----------
        scores : array_like, (n,)
            Margins of live queries, as ``Decision.margin`` or :meth:`DeviceRouter.margins` has
            them, at `lam`.
        lam : float, optional
            The calibrated cost weight they were made at; needed where the grid has several.
        level : float
            False-alarm rate of this one check (:class:`DriftReport` says over what). Checks add up:
            over m of them, at most m times it.

        Returns
        -------
        DriftReport
            Prints as a sentence. Margins that did not move are no proof that nothing moved: the
            link, or what models answer, can drift under equal margins.

        Raises
        ------
        Cr2Error
            Not calibrated, or with an earlier version; no finite margins; `lam` off the grid.
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
        return drift.check(scores, c["quantiles"][at], c["n"], float(lams[at]), level)

    def __repr__(self) -> str:
        state = "calibrated" if self.calibration else "not calibrated"
        return f"Router(models={self.models}, {state})"
