"""From a log of calls to what it can say of each model: tau0 and β of total times.

In: JSON lines, CSV, Parquet or Arrow, a row per call: model, tokens in and out, seconds; dollars
and an error where there are any. Out: a :class:`ModelProfile` per model, by the same robust fit and
intervals as a run's, of total times only, with what a log cannot tell among its notes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cr2fast_profiler import __version__
from cr2fast_profiler.errors import FitError, LogError
from cr2fast_profiler.fit.latency import fit_totals
from cr2fast_profiler.fit.observations import Floats, Observations
from cr2fast_profiler.host import host
from cr2fast_profiler.profile import Lengths, ModelProfile

COLUMNS = ("model", "prompt_tokens", "completion_tokens", "seconds")
OPTIONAL = ("error", "usd", "ts")
BINS = 4
"""Of each length, by quantiles: the cells of a log."""
LEAST_CALLS = 30
MOST_SECONDS, MOST_TOKENS = 1e6, 1e8
EXACT = 1e-3
"""Relative error within which a call's dollars are those of a price list."""
NEARLY_ALL = 0.95

CANNOT_TELL = (
    "a log of total times cannot tell TTFT from decode, whether text is held back, or the round "
    "trip of the network from tau0, which contains it: beside a measured link it counts twice",
    "it cannot tell how busy the service was, or which prompts a cache answered: the coefficients "
    "are those of the calls that nothing slowed, at the load there was",
    "lengths were not chosen but came: what only moves together with them (the kind of question, "
    "the hour) is in the coefficients",
)


@dataclass(frozen=True)
class LogModel:
    """What a log says of one model.

    Attributes
    ----------
    profile : ModelProfile or None
        None where its calls determine nothing.
    reason : str
        Why not.
    prices : dict of str to float, or None
        Dollars per token, where the log's dollars are exactly those of such prices.
    """

    name: str
    profile: ModelProfile | None
    reason: str
    prices: dict[str, float] | None


def read_log(path: str | Path, columns: dict[str, str] | None = None) -> pl.DataFrame:
    """A log's calls under our names.

    Parameters
    ----------
    path : path
        ``.jsonl``, ``.ndjson``, ``.csv``, ``.parquet``, ``.arrow`` or ``.ipc``.
    columns : dict of str to str, optional
        Its names for ours, such as ``{"seconds": "latency"}``.

    Raises
    ------
    LogError
        It cannot be read, or lacks a column; names it, and the columns that are there.
    """
    path = Path(path)
    names = dict(zip((*COLUMNS, *OPTIONAL), (*COLUMNS, *OPTIONAL), strict=True)) | (columns or {})
    readers: dict[str, Any] = {
        ".jsonl": pl.scan_ndjson,
        ".ndjson": pl.scan_ndjson,
        ".csv": pl.scan_csv,
        ".parquet": pl.scan_parquet,
        ".arrow": pl.scan_ipc,
        ".ipc": pl.scan_ipc,
    }
    if path.suffix not in readers:
        raise LogError(f"{path}: expected one of {', '.join(readers)}, got {path.suffix!r:.20}")
    text = path.suffix in (".jsonl", ".ndjson", ".csv")
    try:
        frame = readers[path.suffix](path, **({"infer_schema_length": None} if text else {}))
        there = frame.collect_schema().names()
        if missing := [names[k] for k in COLUMNS if names[k] not in there]:
            raise LogError(
                f"{path}: no column {', '.join(missing)}; it has {', '.join(there)[:300]}. Say "
                "which is which by --columns, such as seconds=latency"
            )
        had = [k for k in (*COLUMNS, *OPTIONAL) if names[k] in there]
        read: pl.DataFrame = frame.select(pl.col(names[k]).alias(k) for k in had).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise LogError(f"{path} cannot be read: {str(error)[:300]}") from None
    numbers = [k for k in ("prompt_tokens", "completion_tokens", "seconds", "usd") if k in had]
    for name in numbers:
        if not (read[name].dtype.is_numeric() or read[name].dtype == pl.Null):
            raise LogError(
                f"{path}: column {names[name]}: expected numbers, got {read[name].dtype}"
            )
    return read.with_columns(
        pl.col("model").cast(pl.String), *(pl.col(k).cast(pl.Float64) for k in numbers)
    )


def profile_log(frame: pl.DataFrame, source: str) -> list[LogModel]:
    """What a log says of each of its models.

    Parameters
    ----------
    frame : DataFrame
        Of :func:`read_log`.
    source : str
        The file's name, for provenance.
    """
    return [
        _model(str(name), part, source)
        for (name,), part in frame.drop_nulls("model")
        .sort("model")
        .group_by("model", maintain_order=True)
    ]


def _model(name: str, calls: pl.DataFrame, source: str) -> LogModel:
    kept, rejected = _kept(calls)
    prices = _prices(kept)
    if kept.height < LEAST_CALLS:
        return LogModel(name, None, f"{kept.height} calls: {LEAST_CALLS} are needed", prices)
    try:
        profile = _profile(name, kept, rejected, source)
    except FitError as error:
        return LogModel(name, None, str(error), prices)
    return LogModel(name, profile, "", prices)


def _kept(calls: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """Calls that can be fitted, and why the others cannot."""
    failed = pl.col("error").is_not_null() if "error" in calls.columns else pl.lit(False)
    tokens = [pl.col(k).is_between(1, MOST_TOKENS) for k in ("prompt_tokens", "completion_tokens")]
    seconds = pl.col("seconds").is_between(0, MOST_SECONDS, closed="right")
    reason = (
        pl.when(failed)
        .then(pl.lit("error"))
        .when(~pl.all_horizontal(tokens).fill_null(False))
        .then(pl.lit("no_tokens"))
        .when(~seconds.fill_null(False))
        .then(pl.lit("no_time"))
    )
    told = calls.with_columns(rejected=reason)
    return (
        told.filter(pl.col("rejected").is_null()),
        Counter(told["rejected"].drop_nulls().to_list()),
    )


def _bins(values: Floats) -> Floats:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.asarray(np.searchsorted(edges, values, side="right"))


def _profile(name: str, kept: pl.DataFrame, rejected: Counter[str], source: str) -> ModelProfile:
    l_in, l_out, seconds = (
        kept[k].to_numpy() for k in ("prompt_tokens", "completion_tokens", "seconds")
    )
    _, cell = np.unique(np.stack([_bins(l_in), _bins(l_out)], 1), axis=0, return_inverse=True)
    none = np.zeros(len(kept))
    o = Observations(
        l_in=l_in,
        l_out=l_out,
        ttft_s=none,
        decode_s=seconds,
        first_tokens=none,
        cell=cell.ravel(),
        start_s=none,
        chunk_tokens=float("nan"),
        n_chunks=none,
        n_arrivals=none,
        reasoning_tokens=none,
        tail_s=none,
    )
    fit = fit_totals(o)
    together = float(np.corrcoef(l_in, l_out)[0, 1])
    notes = [*fit.notes, *CANNOT_TELL]
    if abs(together) > 0.5:
        notes.append(
            f"L_in and L_out come together here (correlation {together:.2f}), so β_pre and β_dec "
            "are told apart poorly"
        )
    if fit.lack_of_fit > 0.05:
        notes.append(f"the typical call is {fit.lack_of_fit:.0%} off the formula, beyond noise")
    started = str(kept["ts"][0]) if "ts" in kept.columns else "unknown"
    return ModelProfile(
        name=name,
        seed=0,
        n_rows=len(kept) + rejected.total(),
        target={"kind": "log", "file": source, "model": name},
        sessions=({"started": started, "profiler": __version__, "host": host()},),
        rtt_s=0.0,
        ended=None,
        latency=fit,
        energy=None,
        no_energy="a log of calls holds no joules",
        energy_coverage=None,
        unloaded_idle=None,
        lengths=Lengths(
            (int(l_in.min()), int(l_in.max())), (int(l_out.min()), int(l_out.max())), ()
        ),
        drift=None,
        rejected=dict(rejected),
        server_ratio=None,
        loads=(),
        notes=tuple(notes),
    )


def _prices(kept: pl.DataFrame) -> dict[str, float] | None:
    """Dollars per token, where they explain every call's dollars."""
    if "usd" not in kept.columns:
        return None
    paid = kept.filter(pl.col("usd").is_finite() & (pl.col("usd") > 0))
    if paid.height < LEAST_CALLS:
        return None
    x = paid.select("prompt_tokens", "completion_tokens").to_numpy()
    usd = paid["usd"].to_numpy()
    kept_rows = np.ones(len(usd), bool)
    for _ in range(3):
        scaled = (x / usd[:, None])[kept_rows]
        rates = np.linalg.lstsq(scaled, np.ones(len(scaled)), rcond=None)[0]
        off = np.abs(x @ rates / usd - 1)
        kept_rows = off <= max(float(np.median(off)), EXACT)
    if (rates < 0).any() or np.mean(off <= EXACT) < NEARLY_ALL:
        return None
    return {"usd_per_input_token": float(rates[0]), "usd_per_output_token": float(rates[1])}
