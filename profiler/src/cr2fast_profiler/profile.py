"""What a run says of its model: ``profile.json``, schema ``cr2fast.profile/1``.

In: an analysis, once per run. Out: the file that summary, table and plots read, so that no two of
them can disagree. It stands alone: a table can be made of it elsewhere, without the rows.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.files import write_json
from cr2fast_profiler.fit.energy import EnergyFit
from cr2fast_profiler.fit.latency import LatencyFit
from cr2fast_profiler.fit.trend import Drift

SCHEMA = "cr2fast.profile/1"
NAME = "profile.json"
MOST_BYTES = 1 << 22
COEFFICIENTS = ("tau0_s", "beta_pre_s", "beta_dec_s", "kappa_pre", "kappa_dec")


@dataclass(frozen=True)
class LoadSummary:
    """TTFT and ITL under one load, medians and 95th percentiles in s; None of no answers."""

    load: str
    n: int
    n_rejected: int
    ttft_s: tuple[float, float] | None
    itl_s: tuple[float, float] | None


@dataclass(frozen=True)
class Lengths:
    """Lengths that were got, in tokens.

    Attributes
    ----------
    l_in, l_out : (int, int)
        Least and most of the requests that were fitted.
    short : tuple of str
        Cells that were not got as asked, in words.
    """

    l_in: tuple[int, int]
    l_out: tuple[int, int]
    short: tuple[str, ...]


@dataclass(frozen=True)
class ModelProfile:
    """What a run says.

    Attributes
    ----------
    name : str
        The model.
    seed : int
        Of the bootstraps.
    n_rows : int
        Rows of the run that was analysed.
    target : dict
        What was asked.
    sessions : tuple of dict
        Start, profiler and host of each.
    rtt_s : float
        Round trip to the endpoint, taken off the times, s.
    ended : str or None
        "tight", "budget" or "rounds"; None of a run that was cut off.
    latency : LatencyFit
        τ_inf.
    energy : EnergyFit or None
        Power; None where nothing measured it.
    no_energy : str
        Why, in words.
    energy_coverage : float or None
        Share of the served time that trusted readings cover; None without a meter.
    unloaded_idle : dict or None
        Idle power before the model was loaded: `p_idle_w`, `interval`, `estimated` and more.
    lengths : Lengths
        What was got of the lengths asked.
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
    seed: int
    n_rows: int
    target: dict[str, Any]
    sessions: tuple[dict[str, Any], ...]
    rtt_s: float
    ended: str | None
    latency: LatencyFit
    energy: EnergyFit | None
    no_energy: str
    energy_coverage: float | None
    unloaded_idle: dict[str, Any] | None
    lengths: Lengths
    drift: Drift | None
    rejected: dict[str, int]
    server_ratio: tuple[float, float] | None
    loads: tuple[LoadSummary, ...]
    notes: tuple[str, ...]


def write_profile(folder: str | Path, profile: ModelProfile) -> None:
    """Write ``profile.json`` into a run's folder, atomically."""
    write_json(Path(folder) / NAME, {"schema": SCHEMA, **asdict(profile)})


def read_profile(folder: str | Path) -> ModelProfile:
    """Read and check ``profile.json``.

    Raises
    ------
    RunError
        There is none, it cannot be read, or it holds what no analysis writes; names the field.
    """
    path = Path(folder) / NAME
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise RunError(f"{path}: expected at most {MOST_BYTES} bytes")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is no JSON: {str(error)[:200]}") from None
    if not isinstance(raw, dict) or raw.pop("schema", None) != SCHEMA:
        raise RunError(f'{path}: expected schema "{SCHEMA}"; {AGAIN}')
    try:
        profile = msgspec.convert(raw, ModelProfile)
        wrong = _wrong(raw, profile)
    except (msgspec.ValidationError, RecursionError) as error:
        raise RunError(f"{path}: {str(error)[:200]}; {AGAIN}") from None
    if wrong:
        raise RunError(f"{path}: {wrong[:200]}; {AGAIN}")
    return profile


AGAIN = "remove it, and the same `cr2fast-profile model` command writes it anew"


def _wrong(raw: dict[str, Any], p: ModelProfile) -> str:
    """What is wrong with a profile of the right types; empty where nothing is."""
    if unknown := _unknown(raw, msgspec.to_builtins(p), "profile"):
        return f"{unknown}: no such field"
    if not_finite := _not_finite(raw, "profile"):
        return f"{not_finite}: expected a finite number"
    f = p.latency
    values = {k: getattr(f, k) for k in COEFFICIENTS}
    for name, value in values.items():
        if value < 0 or (value == 0 and name == "beta_dec_s"):
            return f"latency.{name}: {value:g} is no coefficient"
        low, high = f.intervals.get(name, (1.0, 0.0))
        if not low <= value <= high:
            return f"latency.intervals.{name}: expected an interval around {value:g}"
    for name in ("phi_pre", "phi_dec"):
        if getattr(f, name) not in ("linear", "quadratic"):
            return f'latency.{name}: expected "linear" or "quadratic"'
    powers = [] if p.energy is None else [p.energy.p_active_w, p.energy.p_idle_w]
    if any(w < 0 for w in powers) or (p.energy is None and not p.no_energy):
        return "energy: expected powers of at least 0, or no_energy that says why there are none"
    if p.unloaded_idle is not None and not _is_idle(p.unloaded_idle):
        return "unloaded_idle: expected p_idle_w, interval and estimated"
    for at, session in enumerate(p.sessions):
        if not {"started", "profiler", "host"} <= session.keys():
            return f"sessions[{at}]: expected started, profiler and host"
    return "" if p.sessions else "sessions: expected one at least"


def _is_idle(said: dict[str, Any]) -> bool:
    between = said.get("interval")
    watts = [said.get("p_idle_w"), *(between if isinstance(between, list) else ())]
    numbers = all(isinstance(w, (int, float)) and not isinstance(w, bool) for w in watts)
    return numbers and len(watts) == 3 and isinstance(said.get("estimated"), bool)


def _unknown(raw: Any, known: Any, path: str) -> str:
    """The first key of `raw` that `known` lacks."""
    if isinstance(raw, dict) and isinstance(known, dict):
        for key, value in raw.items():
            if key not in known:
                return f"{path}.{str(key)[:60]}"
            if found := _unknown(value, known[key], f"{path}.{key}"):
                return found
    elif isinstance(raw, list) and isinstance(known, (list, tuple)):
        for at, (value, other) in enumerate(zip(raw, known, strict=True)):
            if found := _unknown(value, other, f"{path}[{at}]"):
                return found
    return ""


def _not_finite(value: Any, path: str) -> str:
    """The first number that is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return path
    pairs: Any = ()
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return next((found for k, v in pairs if (found := _not_finite(v, f"{path}.{str(k)[:60]}"))), "")
