"""Power of each phase, from a meter's trace and the requests' times.

In: a :class:`Trace` and when prefill and decode ran. Out: :class:`EnergyFit`. A counter ticks every
1 to 100 ms, so no energy is ever read off at a first token: the run is cut into blocks from tick
edge to tick edge, and over blocks

    ΔE − P_idle·T = P_pre·T_pre + P_dec·T_dec

is regressed, T_pre and T_dec being the exact overlap of each phase with the block (and a third
term for requests that only count tokens, or were rejected, where there are any). P_idle is the
resident one (model loaded, nothing asked). Intervals: bootstrap over blocks, idle ones included.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from cr2fast_profiler.errors import FitError
from cr2fast_profiler.fit.observations import Floats
from cr2fast_profiler.meters.base import Trace

RESAMPLES = 1000
TICKS_A_BLOCK = 20
MOST_BLOCKS = 400
LEAST_BLOCKS = 8
LEAST_COVERAGE = 0.9
Interval = tuple[float, float]
Spans = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EnergyFit:
    """Power of one model on its host.

    Attributes
    ----------
    p_active_w : float
        Above resident idle, over all time in which a request was served, W.
    p_prefill_w, p_decode_w : float or None
        The same of each phase; None where the grid cannot tell them apart.
    p_idle_w : float
        Resident idle, W.
    intervals : dict of str to (float, float)
        95 %.
    tick_s : float
        Median time between the counter's changes.
    coverage : float
        Share of the time in which requests were served that trusted blocks cover.
    n_blocks, n_invalid : int
        Blocks used, and blocks dropped because a reading in them cannot be trusted.
    sources : tuple of str
        Where the joules come from.
    estimated : bool
        True where datasheet watts stand in for a sensor.
    """

    p_active_w: float
    p_prefill_w: float | None
    p_decode_w: float | None
    p_idle_w: float
    intervals: dict[str, Interval]
    tick_s: float
    coverage: float
    n_blocks: int
    n_invalid: int
    sources: tuple[str, ...]
    estimated: bool
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Blocks:
    """(B,) windows from tick edge to tick edge."""

    energy_j: Floats
    total_s: Floats
    prefill_s: Floats
    decode_s: Floats
    aside_s: Floats
    n_invalid: int

    def __len__(self) -> int:
        return len(self.energy_j)

    def join(self, other: Blocks) -> Blocks:
        """Both."""
        pairs = {
            k: np.concatenate([v, getattr(other, k)])
            for k, v in vars(self).items()
            if k != "n_invalid"
        }
        return Blocks(**pairs, n_invalid=self.n_invalid + other.n_invalid)


def _elapsed(spans: Spans, at_ns: npt.NDArray[np.int64]) -> Floats:
    """Time spent in disjoint ordered spans (n, 2) before each time, s."""
    if not len(spans):
        return np.zeros(len(at_ns))
    origin = spans[0, 0]
    lengths = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])]).astype(float)
    knots = (spans.ravel() - origin).astype(float)
    done = np.stack([lengths[:-1], lengths[1:]], 1).ravel()
    return np.asarray(np.interp((at_ns - origin).astype(float), knots, done) * 1e-9)


def blocks(trace: Trace, start_ns: int, end_ns: int, phases: tuple[Spans, Spans, Spans]) -> Blocks:
    """Cut a stretch of a trace into blocks.

    Parameters
    ----------
    trace : Trace
        Readings.
    start_ns, end_ns : int
        The stretch.
    phases : three ndarrays of int64, (n, 2)
        From and to of every prefill, decode, and counting or rejected request; each disjoint and
        in order.
    """
    edges = trace.edges()
    edges = edges[(trace.t_ns[edges] >= start_ns) & (trace.t_ns[edges] <= end_ns)]
    none = np.zeros(0)
    if len(edges) < 2:
        return Blocks(none, none, none, none, none, 0)
    step = max(TICKS_A_BLOCK, len(edges) // MOST_BLOCKS)
    if len(edges) < step * LEAST_BLOCKS:
        step = max(1, len(edges) // LEAST_BLOCKS)
    marks = edges[::step] if len(edges) % step == 1 else np.append(edges[::step], edges[-1])
    t, total = trace.t_ns[marks], trace.total()
    trusted = np.isfinite(total)
    whole = np.array([bool(trusted[a : b + 1].all()) for a, b in itertools.pairwise(marks)], bool)
    energy = np.diff(total[marks])[whole]
    seconds = np.diff(t).astype(float)[whole] * 1e-9
    spent = [np.diff(_elapsed(s, t))[whole] for s in phases]
    return Blocks(energy, seconds, spent[0], spent[1], spent[2], int((~whole).sum()))


def _phases(b: Blocks, idle_w: float) -> tuple[float, float | None, float | None]:
    extra = b.energy_j - idle_w * b.total_s
    columns = [b.prefill_s, b.decode_s, b.aside_s] if b.aside_s.any() else [b.prefill_s, b.decode_s]
    x = np.stack(columns, 1)
    served = x[:, :2].sum()
    if np.linalg.svd(x / np.linalg.norm(x), compute_uv=False)[-1] < 1e-3:
        # One phase cannot be told from another: what all the time took, counting included.
        return float(extra.sum() / x.sum()), None, None
    watts = np.linalg.lstsq(x, extra, rcond=None)[0]
    aside = watts[2] * b.aside_s.sum() if len(watts) > 2 else 0.0
    return float((extra.sum() - aside) / served), float(watts[0]), float(watts[1])


def idle_power(trace: Trace, seed: int = 0) -> tuple[float, Interval]:
    """Mean power of a trace in which nothing is asked, W, and its 95 % interval.

    Raises
    ------
    FitError
        The counter hardly moves, or cannot be trusted.
    """
    empty = np.zeros((0, 2), np.int64)
    cut = blocks(trace, int(trace.t_ns[0]), int(trace.t_ns[-1]), (empty,) * 3)
    if len(cut) < 2:
        raise FitError(f"idle: {len(cut)} usable blocks, {cut.n_invalid} invalid; measure longer")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        b = _resample(cut, rng)
        drawn.append(b.energy_j.sum() / b.total_s.sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(cut.energy_j.sum() / cut.total_s.sum()), (float(low), float(high))


@dataclass(frozen=True, eq=False)
class Cut:
    """A run's blocks.

    Attributes
    ----------
    busy, idle : Blocks
        While requests were served; while nothing was asked.
    ticks_s : ndarray of float64
        Times between the counter's changes.
    served_s : float
        Time from each session's first request to its last, s.
    """

    busy: Blocks
    idle: Blocks
    ticks_s: Floats
    served_s: float

    @property
    def coverage(self) -> float:
        """Share of the served time that trusted blocks cover: its ends lie between two ticks."""
        if self.served_s <= 0:
            return 0.0
        tick_s = float(np.median(self.ticks_s)) if len(self.ticks_s) else 0.0
        return min(float(self.busy.total_s.sum()) / max(self.served_s - 2 * tick_s, 1e-9), 1.0)


def cut_run(rows: pl.DataFrame, traces: dict[int, Trace]) -> Cut:
    """Cut a run into blocks; parameters as of :func:`fit_energy`."""
    none = np.zeros(0)
    busy = idle = Blocks(none, none, none, none, none, 0)
    ticks: list[float] = []
    empty = np.zeros((0, 2), np.int64)
    served_s = 0.0
    for (session,), here in rows.group_by("session", maintain_order=True):
        asked = here.filter(pl.col("phase").is_in(["grid", "reference"])).sort("start_ns")
        served = asked.filter(pl.col("rejected").is_null())
        spans = _spans(asked, served)
        if not served.is_empty():
            start_ns, end_ns = int(served["start_ns"][0]), int(served["aside_ns"][-1])
            served_s += (end_ns - start_ns) * 1e-9
        trace = traces.get(int(session))
        if trace is None:
            continue
        ticks.extend(np.diff(trace.t_ns[trace.edges()]) * 1e-9)
        if not served.is_empty():
            busy = busy.join(blocks(trace, start_ns, end_ns, spans))
        for window in here.filter(pl.col("phase") == "idle").iter_rows(named=True):
            idle = idle.join(blocks(trace, window["start_ns"], window["last_ns"], (empty,) * 3))
    return Cut(busy, idle, np.array(ticks), served_s)


def _spans(asked: pl.DataFrame, served: pl.DataFrame) -> tuple[Spans, Spans, Spans]:
    s, f, e, a = (served[k].to_numpy() for k in ("start_ns", "first_ns", "last_ns", "aside_ns"))
    # A rejected request kept the host busy as well, in a way that nothing tells apart.
    lost = asked.filter(pl.col("rejected").is_not_null())
    aside = np.concatenate([np.stack([e, a], 1), lost.select("start_ns", "aside_ns").to_numpy()])
    aside = aside[np.argsort(aside[:, 0])]
    return np.stack([s, f], 1), np.stack([f, e], 1), aside


def fit_energy(
    rows: pl.DataFrame, traces: dict[int, Trace], seed: int = 0, phases: bool = True
) -> EnergyFit:
    """Fit one model's power.

    Parameters
    ----------
    rows : DataFrame
        A run's rows: "grid" and "reference" requests and "idle" windows.
    traces : dict of int to Trace
        Of each session that had a meter.
    seed : int
        Of the bootstrap.
    phases : bool
        Whether the first text marks the end of the prefill: powers of phases need it.

    Raises
    ------
    FitError
        No idle window, too few valid blocks or too little of the run in them, or a counter that
        does not move; says which.
    """
    cut = cut_run(rows, traces)
    busy, idle = cut.busy, cut.idle
    sources = tuple(sorted({d.source for t in traces.values() for d in t.domains if d.in_total}))
    estimated = any(d.estimated for t in traces.values() for d in t.domains if d.in_total)
    tick_s = float(np.median(cut.ticks_s)) if len(cut.ticks_s) else 0.0
    faults = {f.detail for t in traces.values() for f in t.faults}
    why = "; ".join(sorted(faults)[:2])
    if len(busy) < 2 or busy.prefill_s.sum() + busy.decode_s.sum() <= 0:
        raise FitError(
            f"energy: {len(busy)} usable blocks ({busy.n_invalid} invalid) of "
            f"{', '.join(sources)}: {why or 'its counter hardly moves while requests are served'}"
        )
    if cut.coverage < LEAST_COVERAGE:
        raise FitError(
            f"energy: trusted readings of {', '.join(sources)} cover {cut.coverage:.0%} of the "
            f"time in which requests were served, and {LEAST_COVERAGE:.0%} are needed"
            + (f": {why}" if why else "")
        )
    if estimated:
        watts = float(busy.energy_j.sum() / busy.total_s.sum())
        return EnergyFit(
            watts,
            None,
            None,
            0.0,
            {},
            tick_s,
            cut.coverage,
            len(busy),
            busy.n_invalid,
            sources,
            True,
        )
    if not len(idle):
        raise FitError("energy: no idle window was measured; give --idle-s more seconds")
    return _measured(cut, tick_s, sources, seed, phases)


def _measured(
    cut: Cut, tick_s: float, sources: tuple[str, ...], seed: int, phases: bool
) -> EnergyFit:
    busy, idle = cut.busy, cut.idle

    def estimate(b: Blocks, i: Blocks) -> tuple[float, ...]:
        watts = float(i.energy_j.sum() / i.total_s.sum())
        return (watts, *(np.nan if p is None else p for p in _phases(b, watts)))

    idle_w, active, pre, dec = estimate(busy, idle)
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [estimate(_resample(busy, rng), _resample(idle, rng)) for _ in range(RESAMPLES)]
    )
    names = ("p_idle_w", "p_active_w", "p_prefill_w", "p_decode_w")
    intervals: dict[str, Interval] = {}
    for at, name in enumerate(names):
        column = drawn[:, at][np.isfinite(drawn[:, at])]
        if len(column) > RESAMPLES // 2:
            low, high = np.quantile(column, [0.025, 0.975])
            intervals[name] = (float(low), float(high))
    notes = []
    if len(busy) < LEAST_BLOCKS:
        notes.append(f"only {len(busy)} blocks: the intervals are rough; measure longer")
    low, high = intervals["p_active_w"]
    if low <= 0:
        raise FitError(
            f"energy: {active:.3g} W ({low:.3g} to {high:.3g}) above idle while requests are "
            "served: the meter does not see the model. Does it run on this host, on this GPU?"
        )
    apart = bool(np.isfinite(pre)) and phases
    if not phases:
        intervals = {k: v for k, v in intervals.items() if k not in ("p_prefill_w", "p_decode_w")}
        notes.append(
            "powers of prefill and decode are null: text is held back, so nothing shows where the "
            "prefill ends"
        )
    return EnergyFit(
        p_active_w=active,
        p_prefill_w=pre if apart else None,
        p_decode_w=dec if apart else None,
        p_idle_w=idle_w,
        intervals=intervals,
        tick_s=tick_s,
        coverage=cut.coverage,
        n_blocks=len(busy),
        n_invalid=busy.n_invalid + idle.n_invalid,
        sources=sources,
        estimated=False,
        notes=tuple(notes),
    )


def _resample(b: Blocks, rng: np.random.Generator) -> Blocks:
    at = rng.integers(len(b), size=len(b))
    drawn = {k: v[at] for k, v in vars(b).items() if k != "n_invalid"}
    return Blocks(**drawn, n_invalid=b.n_invalid)
