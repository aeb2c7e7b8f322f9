"""From a run's folder to what can be said of the model.

In: :class:`RunStore`. Out: :class:`ModelProfile`: latency fit, energy fit or the reason for none,
drift, rejections by reason, the server's own timings beside ours, and behaviour under load.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cr2fast_profiler.errors import FitError
from cr2fast_profiler.fit.energy import EnergyFit, fit_energy
from cr2fast_profiler.fit.latency import LatencyFit, fit_latency
from cr2fast_profiler.fit.observations import (
    Floats,
    Observations,
    first_chunk_tokens,
    observations,
)
from cr2fast_profiler.fit.trend import Drift, drift
from cr2fast_profiler.meters.base import Trace
from cr2fast_profiler.store import RunStore


@dataclass(frozen=True)
class LoadSummary:
    """TTFT and ITL under one load, medians and 95th percentiles in s; None of no answers."""

    load: str
    n: int
    n_rejected: int
    ttft_s: tuple[float, float] | None
    itl_s: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class ModelProfile:
    """What a run says.

    Attributes
    ----------
    name : str
        The model.
    folder : Path
        The run.
    manifest : dict
        ``run.json``.
    observations : Observations
        The requests that were fitted.
    latency : LatencyFit
        τ_inf.
    energy : EnergyFit or None
        Power; None where nothing measured it.
    no_energy : str
        Why, in words.
    drift : Drift or None
        Of the reference cell.
    rejected : dict of str to int
        Counts by reason.
    server_ratio : (float, float) or None
        Our prefill and decode times over the server's own, medians.
    loads : tuple of LoadSummary
        Behaviour under load.
    notes : tuple of str
        What a reader must know.
    """

    name: str
    folder: Path
    manifest: dict[str, Any]
    observations: Observations
    latency: LatencyFit
    energy: EnergyFit | None
    no_energy: str
    drift: Drift | None
    rejected: dict[str, int]
    server_ratio: tuple[float, float] | None
    loads: tuple[LoadSummary, ...]
    notes: tuple[str, ...]


def round_trip_s(manifest: dict[str, Any]) -> float:
    """Round trip to the endpoint, s: the median over the sessions."""
    return float(np.median([s["rtt_s"] for s in manifest["sessions"]]))


def traces(store: RunStore, manifest: dict[str, Any]) -> dict[int, Trace]:
    """Energy readings of each session that had a meter."""
    found = {
        i: store.trace(i) for i, session in enumerate(manifest["sessions"]) if session["meter"]
    }
    return {i: t for i, t in found.items() if t is not None}


def analyse(folder: str | Path, seed: int = 0) -> ModelProfile:
    """Everything a run's folder tells.

    Parameters
    ----------
    folder : path
        Of ``profile_model``.
    seed : int
        Of the bootstraps.

    Raises
    ------
    RunError
        The folder holds no readable run.
    FitError
        Its rows do not determine the coefficients.
    """
    store = RunStore(folder)
    manifest = store.manifest()
    rows = store.rows()
    o = observations(rows, round_trip_s(manifest))
    latency = fit_latency(o)
    energy, no_energy = _energy(store, manifest, rows, seed)
    moved = _drift(rows)
    notes = [*latency.notes, *(energy.notes if energy else ())]
    told = [note for session in manifest["sessions"] for note in session.get("notes") or ()]
    notes += dict.fromkeys(str(note) for note in told)
    if moved and moved.flagged:
        notes.append(
            f"drift: the reference cell's time changed by {moved.fraction:+.1%} over the run; the "
            "coefficients are those of the run's middle. Let the machine reach its temperature "
            "first, or cool it"
        )
    if latency.lack_of_fit > 0.05:
        notes.append(
            f"lack of fit: cell means lie {latency.lack_of_fit:.1%} off the curve, beyond what "
            "noise explains"
        )
    rejected = Counter(rows["rejected"].drop_nulls().to_list())
    if (lost := sum(rejected.values())) > 0.1 * rows.height:
        notes.append(f"{lost} of {rows.height} requests were rejected: see the reasons")
    counted = rows.filter(pl.col("aside_ns") > pl.col("last_ns")).height
    if counted:
        notes.append(
            f"the stream carries no usage: {counted} token counts come from a second, unstreamed "
            "request outside the times"
        )
    return ModelProfile(
        name=str(manifest["target"]["model"]),
        folder=Path(folder),
        manifest=manifest,
        observations=o,
        latency=latency,
        energy=energy,
        no_energy=no_energy,
        drift=moved,
        rejected=dict(rejected),
        server_ratio=_server_ratio(rows),
        loads=_loads(rows),
        notes=tuple(notes),
    )


def _energy(
    store: RunStore, manifest: dict[str, Any], rows: pl.DataFrame, seed: int
) -> tuple[EnergyFit | None, str]:
    read = traces(store, manifest)
    if not read:
        told = [u["detail"] for s in manifest["sessions"] for u in s.get("no_meter") or ()]
        return None, "; ".join(dict.fromkeys(told)) or "no meter was asked for"
    try:
        return fit_energy(rows, read, seed), ""
    except FitError as error:
        return None, str(error)


def _seconds(rows: pl.DataFrame, start: str, end: str) -> Floats:
    return ((rows[end] - rows[start]).cast(pl.Float64) * 1e-9).to_numpy()


def _drift(rows: pl.DataFrame) -> Drift | None:
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
    return drift(start_s, _seconds(reference, "start_ns", "last_ns"), span_s)


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
