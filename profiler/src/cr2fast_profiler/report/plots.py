"""Plots of a run: the fit, its residuals, power with its phases, the load; needs ``[plot]``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from cr2fast_profiler.analysis import traces
from cr2fast_profiler.errors import ProfilerError
from cr2fast_profiler.files import write_atomically
from cr2fast_profiler.fit.latency import LatencyFit
from cr2fast_profiler.fit.observations import Floats, Observations, observations
from cr2fast_profiler.link.measurement import LinkMeasurement
from cr2fast_profiler.profile import ModelProfile
from cr2fast_profiler.store import RunStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_S = 20.0


def _pyplot() -> Any:
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ProfilerError(
            "plots need matplotlib: install it, or cr2fast-profiler's extra `plot`"
        ) from error
    return pyplot


def plot_run(profile: ModelProfile, folder: str | Path, path: str | Path) -> Path:
    """Draw a run into one PNG.

    Parameters
    ----------
    profile : ModelProfile
        Of the run.
    folder : path
        Its rows and readings.
    path : path
        Of the PNG.

    Raises
    ------
    ProfilerError
        matplotlib is missing, or the folder holds no rows.
    """
    plt = _pyplot()
    store = RunStore(folder)
    rows, read = store.rows(), traces(store, store.manifest())
    o = observations(rows, profile.rtt_s)
    figure, axes = plt.subplots(2, 2, figsize=(11, 9), layout="constrained")
    _prefill(axes[0, 0], o, profile.latency)
    _decode(axes[0, 1], o, profile.latency)
    _residuals(axes[1, 0], o, profile, over_run=False)
    if read:
        session = next(iter(read))
        phased = profile.latency.estimated_by == "phases"
        _power(axes[1, 1], read[session], rows.filter(pl.col("session") == session), phased)
    else:
        _residuals(axes[1, 1], o, profile, over_run=True)
    figure.suptitle(f"{profile.name}: {_verdict(profile)}", fontsize=11)
    return _save(figure, plt, path)


def _save(figure: Any, plt: Any, path: str | Path) -> Path:
    out = Path(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    plt.close(figure)
    write_atomically(out, drawn.getvalue())
    return out


def _verdict(profile: ModelProfile) -> str:
    """What decides whether the table can be trusted, in a line."""
    f = profile.latency
    said = [
        "cells left out not known"
        if f.loco_error is None or f.loco_worst is None
        else f"a cell left out is {f.loco_error:.1%} off on average, {f.loco_worst:.1%} at worst"
    ]
    if profile.drift and profile.drift.flagged:
        said.append(f"drift {profile.drift.fraction:+.0%} over the run")
    if f.served.outliers >= 0.005:
        said.append(f"{f.served.outliers:.1%} outliers")
    if f.estimated_by == "total":
        said.append("text does not come as it is made: fitted to total time")
    return "; ".join(said)


def _legend(axis: Axes) -> None:
    """Below the axis, where no data is."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=4, frameon=False)


def _prefill(axis: Axes, o: Observations, f: LatencyFit) -> None:
    grid = np.linspace(0, o.l_in.max() * 1.05, 100)
    none = np.zeros(len(o))
    if f.estimated_by == "phases":
        said, y, title = "TTFT (ms)", o.ttft_s, "prefill: TTFT"
        curve = f.predict(grid, np.full(100, float(np.median(o.first_tokens))))
    else:
        said, title = "total less decode by the fit (ms)", "prefill: total time less decode"
        y = o.total_s - (f.predict(none, o.l_out) - f.predict(none, none))
        curve = f.predict(grid, np.zeros(100))
    _cloud(axis, o.l_in, y * 1e3, curve)
    axis.plot(grid, curve * 1e3, color="tab:orange", label=f"fit, {f.phi_pre}")
    axis.set(xlabel="L_in (tokens)", ylabel=said, title=title, xlim=0)
    axis.set_ylim(bottom=0)
    _legend(axis)


def _decode(axis: Axes, o: Observations, f: LatencyFit) -> None:
    none = np.zeros(100)
    if f.estimated_by == "phases":
        k = float(np.median(o.first_tokens))
        y, title, label = o.decode_s, "decode: first to last text", "first to last text (ms)"
    else:
        k = 0.0
        y = o.total_s - f.predict(o.l_in, np.zeros(len(o)))
        title, label = "decode: total time less prefill", "total less prefill by the fit (ms)"
    grid = np.linspace(k, o.l_out.max() * 1.05, 100)
    curve = f.predict(none, grid) - f.predict(none, np.full(100, k))
    _cloud(axis, o.l_out, y * 1e3, curve)
    axis.plot(grid, curve * 1e3, color="tab:orange", label=f"fit, {f.phi_dec}")
    axis.set(xlabel="L_out (tokens)", ylabel=label, title=title, xlim=0)
    axis.set_ylim(bottom=0)
    _legend(axis)


def _cloud(axis: Axes, x: Floats, y: Floats, curve: Floats) -> None:
    """Requests; those far above the rest at the upper edge, so that the rest can be seen."""
    top = max(1.3 * float(np.quantile(y, 0.85)), 1.1e3 * float(curve.max()))
    inside = y <= top
    axis.plot(x[inside], y[inside], ".", alpha=0.5, color="tab:blue", label="requests")
    if not inside.all():
        label = f"{(~inside).sum()} slower, beyond the axis"
        axis.plot(x[~inside], np.full((~inside).sum(), top), "^", color="tab:red", label=label)
    axis.set_ylim(top=top * 1.05)


def _residuals(axis: Axes, o: Observations, profile: ModelProfile, over_run: bool) -> None:
    said = profile.latency.predict(o.l_in, o.l_out)
    off = (o.total_s / said - 1) * 100
    x = o.start_s - o.start_s.min() if over_run else said * 1e3
    reach = max(5 * 100 * profile.latency.noise, float(np.quantile(np.abs(off), 0.85)), 0.5) * 1.2
    inside = np.abs(off) <= reach
    axis.plot(x[inside], off[inside], ".", alpha=0.5, color="tab:blue", label="requests")
    if not inside.all():
        label = f"{(~inside).sum()} beyond the axis"
        axis.plot(x[~inside], np.sign(off[~inside]) * reach, "^", color="tab:red", label=label)
    axis.axhline(0, color="grey", lw=1)
    axis.set(ylabel="measured over predicted − 1 (%)", ylim=(-reach * 1.08, reach * 1.08))
    if over_run:
        title = "the same over the run (no energy was measured)"
        axis.set(xlabel="time since the first request (s)", title=title)
    else:
        axis.set(xlabel="predicted total (ms)", title="residuals of the total time")
    _legend(axis)


def _power(axis: Axes, trace: Any, rows: pl.DataFrame, phased: bool) -> None:
    total, edges = trace.total(), trace.edges()
    t = trace.t_ns[edges] * 1e-9
    axis.set(
        title=f"power{' and phases' if phased else ''}, the first seconds",
        xlabel="time (s)",
        ylabel="power (W)",
    )
    if len(t) < 2:
        return
    asked = rows.filter(pl.col("phase").is_in(["grid", "reference"]))
    origin = asked["start_ns"][0] * 1e-9 if not asked.is_empty() else t[0]
    watts = np.diff(total[edges]) / np.diff(t)
    axis.stairs(watts, t - origin, label="power", color="black", lw=0.8)
    parts = [("request", "start_ns", "last_ns", "tab:blue")]
    if phased:
        parts = [
            ("prefill", "start_ns", "first_ns", "tab:orange"),
            ("decode", "first_ns", "last_ns", "tab:blue"),
        ]
    for name, start, end, colour in parts:
        shown = asked.filter(pl.col("last_ns").is_not_null())
        spans = (shown.select(start, end).to_numpy() * 1e-9 - origin).tolist()
        for at, (a, b) in enumerate(s for s in spans if s[0] < SHOWN_S):
            axis.axvspan(a, b, color=colour, alpha=0.25, label=name if at == 0 else None)
    axis.set(xlim=(-1, min(SHOWN_S, t[-1] - origin)), ylim=0)
    _legend(axis)


def plot_link(measured: LinkMeasurement, path: str | Path) -> Path:
    """Draw a link's distributions into one PNG.

    Parameters
    ----------
    measured : LinkMeasurement
        Of ``measure_link``.
    path : path
        Of the PNG.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, name, scale, unit in zip(
        axes,
        ("rate_ul_bps", "rate_dl_bps", "rtt_s"),
        (1e-6, 1e-6, 1e3),
        ("Mbit/s", "Mbit/s", "ms"),
        strict=True,
    ):
        values = np.sort([getattr(s, name) * scale for s in measured.samples])
        axis.step(values, np.arange(1, len(values) + 1) / len(values), where="post")
        axis.axvline(measured.summary[name].median * scale, color="grey", lw=1)
        axis.set(xlabel=f"{name.rsplit('_', 1)[0]} ({unit})", ylabel="share of rounds", ylim=(0, 1))
    figure.suptitle("link: one joint sample a round; the line is the median")
    return _save(figure, plt, path)
