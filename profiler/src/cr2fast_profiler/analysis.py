"""From a run's folder to what can be said of the model.

In: :class:`RunStore`. Out: :class:`ModelProfile`: latency fit, energy fit or the reason for none,
drift, lengths got, rejections by reason, the server's own timings beside ours, and behaviour under
load. A run is analysed once, with its own seed; later readers read what was written.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cr2fast_profiler.errors import FitError, RunError
from cr2fast_profiler.fit.energy import EnergyFit, cut_run, fit_energy
from cr2fast_profiler.fit.latency import LatencyFit, fit_latency
from cr2fast_profiler.fit.observations import Floats, first_chunk_tokens, observations
from cr2fast_profiler.fit.trend import Drift, drift
from cr2fast_profiler.meters.base import Trace
from cr2fast_profiler.profile import (
    NAME,
    Lengths,
    LoadSummary,
    ModelProfile,
    read_profile,
    write_profile,
)
from cr2fast_profiler.store import RunStore

SHORT = 0.85
"""Of the tokens of a cell, below which it was not got; up to an eighth fewer are asked for."""
MANY_OUTLIERS = 0.02
FAR_OUTLIERS = 0.1
"""How much longer or shorter than the others an outlier is before it is told."""
FAR_SERVED = 0.02
"""How much longer a request takes as served, outliers and all, before that is told."""
MOST_NAMED = 4


def round_trip_s(manifest: dict[str, Any]) -> float:
    """Round trip to the endpoint, s: the median over the sessions."""
    return float(np.median([s["rtt_s"] for s in manifest["sessions"]]))


def traces(store: RunStore, manifest: dict[str, Any]) -> dict[int, Trace]:
    """Energy readings of each session that had a meter."""
    found = {
        i: store.trace(i) for i, session in enumerate(manifest["sessions"]) if session["meter"]
    }
    return {i: t for i, t in found.items() if t is not None}


def profile_of(folder: str | Path) -> ModelProfile:
    """The profile of a run: as it was written, or analysed now where rows came since.

    Raises
    ------
    RunError, FitError
        As of :func:`read_profile` and :func:`analyse`.
    """
    store = RunStore(folder)
    if (store.folder / NAME).exists():
        profile = read_profile(folder)
        if not store.exists() or store.n_rows() == profile.n_rows:
            return profile
    profile = analyse(folder)
    write_profile(folder, profile)
    return profile


def analyse(folder: str | Path) -> ModelProfile:
    """Everything a run's folder tells, by the run's own seed.

    Parameters
    ----------
    folder : path
        Of ``profile_model``.

    Raises
    ------
    RunError
        The folder holds no readable run, or one that ended before a cell was asked.
    FitError
        Its rows do not determine the coefficients.
    """
    store = RunStore(folder)
    manifest = store.manifest()
    rows = store.rows()
    seed = manifest["plan"].get("seed")
    seed = seed if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 else 0
    latency = _latency(manifest, rows)
    phased = latency.stream is not None and latency.stream.shows_prefill
    energy, no_energy, coverage = _energy(store, manifest, rows, seed, phased)
    moved = _drift(rows, latency)
    lengths = _lengths(rows)
    rejected = Counter(rows["rejected"].drop_nulls().to_list())
    said = [note for session in manifest["sessions"] for note in session.get("notes") or ()]
    notes = [
        *latency.notes,
        *_of_outliers(latency),
        *(energy.notes if energy else ()),
        *dict.fromkeys(str(note) for note in said),
        *_of_run(manifest, latency, lengths),
        *_of_rows(rows, rejected, moved, latency),
    ]
    return ModelProfile(
        name=str(manifest["target"]["model"]),
        seed=seed,
        n_rows=rows.height,
        target=manifest["target"],
        sessions=tuple(
            {k: s[k] for k in ("started", "profiler", "host")} for s in manifest["sessions"]
        ),
        rtt_s=round_trip_s(manifest),
        ended=_ended(manifest),
        latency=latency,
        energy=energy,
        no_energy=no_energy,
        energy_coverage=coverage,
        unloaded_idle=manifest.get("unloaded_idle"),
        lengths=lengths,
        drift=moved,
        rejected=dict(rejected),
        server_ratio=_server_ratio(rows),
        loads=_loads(rows),
        notes=tuple(notes),
    )


def _ended(manifest: dict[str, Any]) -> str | None:
    why = manifest["sessions"][-1].get("ended")
    return why if isinstance(why, str) else None


def _number(session: dict[str, Any], name: str) -> float | None:
    value: Any = session.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _latency(manifest: dict[str, Any], rows: pl.DataFrame) -> LatencyFit:
    asked = rows.filter(pl.col("phase").is_in(["grid", "reference"]))
    budget_s = _number(manifest["sessions"][-1], "budget_s")
    spent = _ended(manifest) == "budget" and budget_s is not None
    if asked.is_empty() and spent:
        raise RunError(
            f"the budget of {budget_s:g} s ended in warm-up, after {rows.height} requests: no cell "
            "was measured. Give a larger --budget-s; the same command goes on"
        )
    try:
        return fit_latency(observations(rows, round_trip_s(manifest)))
    except FitError as error:
        if not spent:
            raise
        raise FitError(
            f"{error}. The budget of {budget_s:g} s ended after {asked.height} requests: give a "
            "larger --budget-s; the same command goes on"
        ) from None


def _energy(
    store: RunStore, manifest: dict[str, Any], rows: pl.DataFrame, seed: int, phased: bool
) -> tuple[EnergyFit | None, str, float | None]:
    read = traces(store, manifest)
    if not read:
        told = [u["detail"] for s in manifest["sessions"] for u in s.get("no_meter") or ()]
        metered = any(s["meter"] for s in manifest["sessions"])
        none = "the meter gave no reading" if metered else "no meter was asked for"
        return None, "; ".join(dict.fromkeys(told)) or none, 0.0 if metered else None
    coverage = cut_run(rows, read).coverage
    try:
        return fit_energy(rows, read, seed, phased), "", coverage
    except FitError as error:
        return None, str(error), coverage


def _of_outliers(f: LatencyFit) -> list[str]:
    s = f.served
    if s.outliers < MANY_OUTLIERS or s.outlier_ratio is None:
        return []
    if abs(s.outlier_ratio - 1) < FAR_OUTLIERS and abs(s.ratio - 1) < FAR_SERVED:
        return []  # On a quiet server the smallest jitter is an outlier, and is no news.
    return [
        f"{s.outliers:.1%} of the requests are outliers (typically {s.outlier_ratio:.2g} times as "
        "long as the others say): stalls or another user's load. The coefficients are of one "
        f"request alone; as served, a request takes {s.ratio:.2f} times as long on the mean"
    ]


def _of_run(manifest: dict[str, Any], f: LatencyFit, lengths: Lengths) -> list[str]:
    notes = []
    if lengths.short:
        more = len(lengths.short) - MOST_NAMED
        notes.append(
            "lengths not got as asked: "
            + "; ".join(lengths.short[:MOST_NAMED])
            + (f"; and {more} more cells" if more > 0 else "")
            + ". The fit uses what was got; where answers stop early, see --extra "
            "'{\"ignore_eos\": true}', and where prompts are cut, the server's context length"
        )
    precision = _number(manifest["sessions"][-1], "precision")
    ended = _ended(manifest)
    widths = {
        name: (f.intervals[key][1] - f.intervals[key][0]) / 2 / getattr(f, key)
        for name, key in (("β_pre", "beta_pre_s"), ("β_dec", "beta_dec_s"))
    }
    if ended != "tight" and precision is not None and max(widths.values()) > precision:
        why = {"budget": "the budget ended", "rounds": "all rounds were done"}
        told = ", ".join(f"{k} ±{w:.1%}" for k, w in widths.items())
        notes.append(
            f"the precision asked for (±{precision:.1%}) was not reached: {told} when "
            f"{why.get(str(ended), 'the run was cut off')}. Give a larger --budget-s, more "
            "--rounds, or cells farther apart"
        )
    return notes


def _of_rows(
    rows: pl.DataFrame, rejected: Counter[str], moved: Drift | None, f: LatencyFit
) -> list[str]:
    notes = []
    if moved and moved.flagged:
        notes.append(
            f"drift: the reference cell's time changed by {moved.fraction:+.1%} over the run; the "
            "coefficients are those of the run's middle. Let the machine reach its temperature "
            "first, or cool it"
        )
    if f.lack_of_fit > 0.05:
        notes.append(
            f"lack of fit: cell means lie {f.lack_of_fit:.1%} off the curve, beyond what noise "
            "explains"
        )
    if (lost := sum(rejected.values())) > 0.1 * rows.height:
        notes.append(f"{lost} of {rows.height} requests were rejected: see the reasons")
    counted = rows.filter(pl.col("aside_ns") > pl.col("last_ns")).height
    if counted:
        notes.append(
            f"the stream carries no usage: {counted} token counts come from a second, unstreamed "
            "request outside the times"
        )
    return notes


def _lengths(rows: pl.DataFrame) -> Lengths:
    kept = rows.filter(pl.col("phase").is_in(["grid", "reference"]), pl.col("rejected").is_null())
    short = []
    cells = kept.group_by("l_in", "l_out").agg(
        pl.col("n_input_tokens", "n_output_tokens").median(),
        pl.col("finish_reason").mode().first(),
    )
    for l_in, l_out, got_in, got_out, reason in cells.sort("l_in", "l_out").iter_rows():
        if got_in < SHORT * l_in:
            short.append(f"cell {l_in}x{l_out} has prompts of {got_in:.0f} tokens")
        if got_out < SHORT * l_out:
            short.append(
                f"cell {l_in}x{l_out} has answers of {got_out:.0f} tokens (finish_reason "
                f"{reason!r:.40})"
            )

    def span(name: str) -> tuple[int, int]:
        return int(kept[name].min()), int(kept[name].max())  # type: ignore[arg-type]

    return Lengths(span("n_input_tokens"), span("n_output_tokens"), tuple(short))


def _seconds(rows: pl.DataFrame, start: str, end: str) -> Floats:
    return ((rows[end] - rows[start]).cast(pl.Float64) * 1e-9).to_numpy()


def _drift(rows: pl.DataFrame, f: LatencyFit) -> Drift | None:
    kept = rows.filter(pl.col("rejected").is_null(), pl.col("last_ns").is_not_null())
    # Clocks of two sessions may not share an origin, so drift is of one session: the longest.
    asked = kept.filter(pl.col("phase").is_in(["grid", "reference"]))
    if asked.is_empty():
        return None
    longest = asked.group_by("session").len().sort("len", "session")["session"][-1]
    asked = asked.filter(pl.col("session") == longest)
    reference = asked.filter(pl.col("phase") == "reference")
    span_s = float(np.ptp(asked.select("start_ns", "last_ns").to_numpy())) * 1e-9
    start_s = reference["start_ns"].cast(pl.Float64).to_numpy() * 1e-9
    # Lengths differ a little within the cell, which is no drift.
    l_in, l_out = (
        reference[k].cast(pl.Float64).to_numpy() for k in ("n_input_tokens", "n_output_tokens")
    )
    slower = _seconds(reference, "start_ns", "last_ns") / f.predict(l_in, l_out)
    return drift(start_s, slower, span_s)


def _server_ratio(rows: pl.DataFrame) -> tuple[float, float] | None:
    kept = rows.filter(
        pl.col("phase").is_in(["grid", "reference"]),
        pl.col("server_prefill_s") > 0,
        pl.col("server_decode_s") > 0,
        pl.col("rejected").is_null(),
    )
    if kept.is_empty():
        return None
    pre = _seconds(kept, "start_ns", "first_ns") / kept["server_prefill_s"].to_numpy()
    dec = _seconds(kept, "first_ns", "last_ns") / kept["server_decode_s"].to_numpy()
    return float(np.median(pre)), float(np.median(dec))


def _loads(rows: pl.DataFrame) -> tuple[LoadSummary, ...]:
    under_load = rows.filter(pl.col("phase") == "load")
    found = []
    for (load,), part in under_load.group_by("load", maintain_order=True):
        kept = part.filter(pl.col("rejected").is_null())
        ttft = _seconds(kept, "start_ns", "first_ns")
        l_out, n_chunks, share = (
            kept[k].cast(pl.Float64).to_numpy()
            for k in ("n_output_tokens", "n_chunks", "first_share")
        )
        later = l_out - first_chunk_tokens(l_out, n_chunks, share)
        itl = _seconds(kept, "first_ns", "last_ns")[later > 0] / later[later > 0]
        found.append(
            LoadSummary(
                str(load), kept.height, part.height - kept.height, _spread(ttft), _spread(itl)
            )
        )
    return tuple(found)


def _spread(values: Floats) -> tuple[float, float] | None:
    if not len(values):
        return None
    return float(np.median(values)), float(np.quantile(values, 0.95))
