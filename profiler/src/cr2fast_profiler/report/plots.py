"""Plots of a run: the fit, its residuals, power with its phases, the load; needs ``[plot]``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from cr2fast_profiler.analysis import ModelProfile, traces
from cr2fast_profiler.errors import ProfilerError
from cr2fast_profiler.files import write_atomically
from cr2fast_profiler.link.measurement import LinkMeasurement
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


def plot_run(profile: ModelProfile, path: str | Path) -> Path:
    """Draw a run into one PNG.

    Parameters
    ----------
    profile : ModelProfile
        Of a run.
    path : path
        Of the PNG.

    Raises
    ------
    ProfilerError
        matplotlib is missing.
    """
    plt = _pyplot()
    store = RunStore(profile.folder)
    read = traces(store, profile.manifest)
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    _prefill(axes[0, 0], profile)
    _decode(axes[0, 1], profile)
    _residuals(axes[1, 0], profile)
    if read:
        session = next(iter(read))
        _power(axes[1, 1], read[session], store.rows().filter(pl.col("session") == session))
    else:
        _order(axes[1, 1], profile)
    figure.suptitle(profile.name)
    out = Path(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    plt.close(figure)
    write_atomically(out, drawn.getvalue())
    return out


def _prefill(axis: Axes, profile: ModelProfile) -> None:
    o, f = profile.observations, profile.latency
    axis.plot(o.l_in, o.ttft_s * 1e3, ".", alpha=0.5, label="requests")
    grid = np.linspace(0, o.l_in.max() * 1.05, 100)
    curve = f.predict(grid, np.full(100, float(np.median(o.first_tokens))))
    axis.plot(grid, curve * 1e3, label=f"fit, {f.phi_pre}")
    axis.set(xlabel="L_in (tokens)", ylabel="TTFT (ms)", title="prefill", xlim=0, ylim=0)
    axis.legend()


def _decode(axis: Axes, profile: ModelProfile) -> None:
    o, f = profile.observations, profile.latency
    axis.plot(o.l_out, o.decode_s * 1e3, ".", alpha=0.5, label="requests")
    k = float(np.median(o.first_tokens))
    grid = np.linspace(k, o.l_out.max() * 1.05, 100)
    none = np.zeros(100)
    curve = f.predict(none, grid) - f.predict(none, np.full(100, k))
    axis.plot(grid, curve * 1e3, label=f"fit, {f.phi_dec}")
    axis.set(xlabel="L_out (tokens)", ylabel="first to last chunk (ms)", title="decode")
    axis.set(xlim=0, ylim=0)
    axis.legend()


def _residuals(axis: Axes, profile: ModelProfile) -> None:
    o = profile.observations
    said = profile.latency.predict(o.l_in, o.l_out)
    axis.plot(said * 1e3, (o.total_s / said - 1) * 100, ".", alpha=0.5)
    axis.axhline(0, color="grey", lw=1)
    axis.set(xlabel="predicted total (ms)", ylabel="measured over predicted − 1 (%)")
    error = profile.latency.loco_error
    axis.set(title="residuals" + (f"; left-out cells within {error:.1%}" if error else ""))


def _order(axis: Axes, profile: ModelProfile) -> None:
    o = profile.observations
    said = profile.latency.predict(o.l_in, o.l_out)
    axis.plot(o.start_s - o.start_s.min(), (o.total_s / said - 1) * 100, ".", alpha=0.5)
    axis.axhline(0, color="grey", lw=1)
    axis.set(xlabel="time since the first request (s)", ylabel="measured over predicted − 1 (%)")
    axis.set(title="over the run (no energy was measured)")


def _power(axis: Axes, trace: Any, rows: pl.DataFrame) -> None:
    total, edges = trace.total(), trace.edges()
    t = trace.t_ns[edges] * 1e-9
    if len(t) < 2:
        return
    asked = rows.filter(pl.col("phase").is_in(["grid", "reference"]))
    origin = asked["start_ns"][0] * 1e-9 if not asked.is_empty() else t[0]
    watts = np.diff(total[edges]) / np.diff(t)
    axis.stairs(watts, t - origin, label="power", color="black", lw=0.8)
    for name, start, end, colour in (
        ("prefill", "start_ns", "first_ns", "tab:orange"),
        ("decode", "first_ns", "last_ns", "tab:blue"),
    ):
        shown = asked.filter(pl.col("last_ns").is_not_null())
        spans = (shown.select(start, end).to_numpy() * 1e-9 - origin).tolist()
        for at, (a, b) in enumerate(s for s in spans if s[0] < SHOWN_S):
            axis.axvspan(a, b, color=colour, alpha=0.25, label=name if at == 0 else None)
    axis.set(xlim=(-1, SHOWN_S), ylim=0, xlabel="time (s)", ylabel="power (W)")
    axis.set(title="power and phases, the first seconds")
    axis.legend(loc="upper right")


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
    out = Path(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    plt.close(figure)
    write_atomically(out, drawn.getvalue())
    return out
