"""Runs and a link → ``cost_table.json``, schema ``cr2fast.cost_table/1``.

In: one device profile, edge profiles, a link (measured, or a section of constants), the device's
radio powers. Out: the table the router reads. Null is unmeasured; what was not measured is listed
under ``provenance.estimated``, and a table with such a field that the costs use says "estimated".
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cr2fast_profiler import __version__
from cr2fast_profiler.analysis import ModelProfile, round_trip_s
from cr2fast_profiler.errors import TableError
from cr2fast_profiler.files import write_json
from cr2fast_profiler.fit.energy import EnergyFit

SCHEMA = "cr2fast.cost_table/1"
DATASHEET = "datasheet watts"
UE_POWERS = ("p_tx_w", "p_rx_w", "p_idle_w")


def _power_is(energy: EnergyFit | None) -> str | None:
    if energy is None:
        return None
    return DATASHEET if energy.estimated else "above resident idle"


def model_entry(profile: ModelProfile, tier: str, name: str | None = None) -> dict[str, Any]:
    """One model of the table.

    Parameters
    ----------
    profile : ModelProfile
        Of a run.
    tier : str
        "device" or "edge".
    name : str or None
        Its name in routing tables; None takes the endpoint's.
    """
    latency, energy = profile.latency, profile.energy
    unloaded = profile.manifest.get("unloaded_idle")
    intervals = {k: list(v) for k, v in latency.intervals.items()}
    entry: dict[str, Any] = {
        "name": name or profile.name,
        "tier": tier,
        "tau0_s": latency.tau0_s,
        "beta_pre_s": latency.beta_pre_s,
        "beta_dec_s": latency.beta_dec_s,
        "phi_pre": latency.phi_pre,
        "phi_dec": latency.phi_dec,
        "kappa_pre": latency.kappa_pre if latency.phi_pre == "quadratic" else None,
        "kappa_dec": latency.kappa_dec if latency.phi_dec == "quadratic" else None,
        "p_active_w": energy.p_active_w if energy else None,
        "p_prefill_w": energy.p_prefill_w if energy else None,
        "p_decode_w": energy.p_decode_w if energy else None,
        "p_idle_w": energy.p_idle_w if energy and not energy.estimated else None,
        "p_idle_unloaded_w": unloaded["p_idle_w"] if unloaded else None,
    }
    if energy:
        intervals |= {k: list(v) for k, v in energy.intervals.items()}
    entry["intervals"] = intervals
    entry["provenance"] = {
        "target": profile.manifest["target"],
        "sessions": [
            {k: s[k] for k in ("started", "profiler", "host")} for s in profile.manifest["sessions"]
        ],
        "n_requests": latency.n_requests,
        "rejected": profile.rejected,
        "leave_one_cell_out_error": latency.loco_error,
        "lack_of_fit": latency.lack_of_fit,
        "drift": profile.drift.fraction if profile.drift else None,
        "endpoint_rtt_s": round_trip_s(profile.manifest),
        "energy_source": list(energy.sources) if energy else None,
        "energy_reason": profile.no_energy or None,
        "power_is": _power_is(energy),
        "unloaded_idle": unloaded,
        "notes": list(profile.notes),
    }
    return entry


def cost_table(
    *,
    name: str,
    device: dict[str, Any],
    edge: list[dict[str, Any]],
    link: dict[str, Any],
    link_measured: bool,
    ue: dict[str, float | None],
    energy_weight: float | None = None,
    reference_model: str | None = None,
) -> dict[str, Any]:
    """Put a cost table together.

    Parameters
    ----------
    name : str
        Of the testbed.
    device, edge : dict, list of dict
        From :func:`model_entry`.
    link : dict
        The table's link section.
    link_measured : bool
        Whether it was measured.
    ue : dict
        ``p_tx_w``, ``p_rx_w``, ``p_idle_w`` of the device, W, from its data sheet; None unknown.
    energy_weight : float or None
        ω_e in [0, 1]; ω_t = 1 − ω_e. None takes ½ where every power is known, and is refused
        where one is not.
    reference_model : str or None
        The model whose cost is the unit; None takes the slowest edge model per token.

    Raises
    ------
    TableError
        Names clash, there is no edge model, or energy is weighted and a power unknown.
    """
    models = [device, *edge]
    names = [m["name"] for m in models]
    if not edge:
        raise TableError("a cost table needs one edge model at least: give --edge RUN")
    if len(set(names)) < len(names):
        raise TableError(f"model names must differ, got {names}: rename with RUN=NAME")
    unknown = [f"{m['name']}.p_active_w" for m in models if m["p_active_w"] is None]
    unknown += [f"ue.{k}" for k in UE_POWERS if ue.get(k) is None]
    if unknown and energy_weight is None:
        raise TableError(
            f"{', '.join(unknown)} not known, so energy cannot be part of the cost: measure them, "
            "give data-sheet watts (--ue-tx-w and so on), or say --energy-weight 0"
        )
    weight = 0.5 if energy_weight is None else energy_weight
    if not (math.isfinite(weight) and 0 <= weight <= 1):
        raise TableError(f"energy weight: expected a number from 0 to 1, got {weight}")
    if weight > 0 and unknown:
        raise TableError(f"energy weight {weight:g}, but {', '.join(unknown)} not known")
    reference = reference_model or max(edge, key=lambda m: float(m["beta_dec_s"]))["name"]
    if reference not in names:
        raise TableError(f"reference model {reference!r} is none of {names}")
    powers = [f"ue.{k}" for k in UE_POWERS if ue.get(k) is not None]
    powers += [
        f"{m['name']}.p_active_w" for m in models if m["provenance"]["power_is"] == DATASHEET
    ]
    idles = [
        f"{m['name']}.p_idle_unloaded_w"
        for m in models
        if (m["provenance"]["unloaded_idle"] or {}).get("estimated")
    ]
    # What is in the table and was not measured is listed; what the costs use decides the source.
    unmeasured = [] if link_measured else ["link"]
    estimated = [*unmeasured, *powers, *idles]
    used = [*unmeasured, *(powers if weight > 0 else [])]
    return {
        "schema": SCHEMA,
        "name": name,
        "source": "estimated" if used else "measured",
        "weights": {"latency": 1 - weight, "energy": weight},
        "reference_model": reference,
        "normalizers": {
            "T0_s": None,
            "E0_j": None,
            "definition": "mean latency and energy of the reference model over the training split, "
            "states sampled from the link",
        },
        "link": link,
        "ue": {k: ue.get(k) for k in UE_POWERS},
        "models": models,
        "provenance": {
            "made_by": f"cr2fast-profiler {__version__}",
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "estimated": estimated,
        },
    }


def write_table(path: str | Path, table: dict[str, Any]) -> None:
    """Write a table atomically."""
    write_json(Path(path), table)
