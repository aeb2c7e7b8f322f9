"""Profiles, prices and a link → ``cost_table.json``, schema ``cr2fast.cost_table/1`` or ``/2``.

In: one device model, edge and cloud models, a link (measured, a section of constants, or none), the
device's radio powers. Out: the table the router reads. Null is unmeasured; what was not measured is
listed under ``provenance.estimated``, and a table with such a field that the costs use says
"estimated".

``/2`` adds prices, the tier "cloud", a price's share of the cost, a link of kind "none", and models
whose latency or energy nobody measured, where that has no share. A table that needs none of it is
written as ``/1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cr2fast_profiler import __version__
from cr2fast_profiler.errors import TableError
from cr2fast_profiler.files import write_json
from cr2fast_profiler.fit.energy import EnergyFit
from cr2fast_profiler.profile import ModelProfile
from cr2fast_profiler.report.prices import FIELDS, Prices

SCHEMA = "cr2fast.cost_table/1"
SCHEMA_2 = "cr2fast.cost_table/2"
DATASHEET = "datasheet watts"
UE_POWERS = ("p_tx_w", "p_rx_w", "p_idle_w")
NO_LINK: dict[str, Any] = {"kind": "none"}
_MEASURED = (
    "tau0_s",
    "beta_pre_s",
    "beta_dec_s",
    "phi_pre",
    "phi_dec",
    "kappa_pre",
    "kappa_dec",
    "p_active_w",
    "p_prefill_w",
    "p_decode_w",
    "p_idle_w",
    "p_idle_unloaded_w",
)


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
        "device", "edge" or "cloud".
    name : str or None
        Its name in routing tables; None takes the endpoint's.
    """
    latency, energy = profile.latency, profile.energy
    unloaded = profile.unloaded_idle
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
    served = latency.served
    entry["provenance"] = {
        "target": profile.target,
        "sessions": list(profile.sessions),
        "n_requests": latency.n_requests,
        "rejected": profile.rejected,
        "seed": profile.seed,
        "ended": profile.ended,
        "estimated_by": latency.estimated_by,
        "measured_lengths": {
            "l_in": list(profile.lengths.l_in),
            "l_out": list(profile.lengths.l_out),
        },
        "as_served": {
            "ratio": served.ratio,
            "outliers": served.outliers,
            **{k: served.values[k] for k in ("tau0_s", "beta_pre_s", "beta_dec_s")},
        },
        "leave_one_cell_out_error": latency.loco_error,
        "lack_of_fit": latency.lack_of_fit,
        "drift": profile.drift.fraction if profile.drift else None,
        "endpoint_rtt_s": profile.rtt_s,
        "energy_source": list(energy.sources) if energy else None,
        "energy_coverage": profile.energy_coverage,
        "energy_reason": profile.no_energy or None,
        "power_is": _power_is(energy),
        "unloaded_idle": unloaded,
        "notes": list(profile.notes),
    }
    return entry


def unmeasured_entry(name: str, tier: str) -> dict[str, Any]:
    """A model that nobody measured: only its price can be known."""
    return {
        "name": name,
        "tier": tier,
        **dict.fromkeys(_MEASURED),
        "intervals": {},
        "provenance": {"power_is": None, "unloaded_idle": None, "notes": []},
    }


@dataclass(frozen=True)
class Shares:
    """Shares of latency, energy and price in the cost; they sum to 1."""

    latency: float
    energy: float
    price: float


def _shares(energy: float | None, price: float | None, unknown: list[str], priced: bool) -> Shares:
    for what, value in (("energy", energy), ("price", price)):
        if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
            raise TableError(f"{what} weight: expected a number from 0 to 1, got {value}")
    if unknown and energy is None and price != 1:
        raise TableError(
            f"{', '.join(unknown)} not known, so energy cannot be part of the cost: measure them, "
            "give data-sheet watts (--ue-tx-w and so on), or say --energy-weight 0"
        )
    # Every part alike, where nothing else is said.
    parts = 2 + priced
    e = energy if energy is not None else (1 - (price or 0)) / 2 if price is not None else 1 / parts
    p = price if price is not None else (1 - e) / 2 if priced else 0.0
    if e + p > 1 + 1e-12:
        raise TableError(f"weights of energy ({e:g}) and price ({p:g}) exceed 1")
    if e > 0 and unknown:
        raise TableError(f"energy weight {e:g}, but {', '.join(unknown)} not known")
    return Shares(max(1 - e - p, 0.0), e, p)


def _check(models: list[dict[str, Any]], shares: Shares, link: dict[str, Any]) -> None:
    names = [m["name"] for m in models]
    if len(models) < 2:
        raise TableError("a cost table needs one edge or cloud model at least: give --edge RUN")
    if len(set(names)) < len(names):
        raise TableError(f"model names must differ, got {names}: rename with RUN=NAME")
    slow = [m["name"] for m in models if m["beta_dec_s"] is None]
    if shares.latency > 0 and slow:
        raise TableError(
            f"latency has a share of {shares.latency:g} in the cost, but nobody measured "
            f"{', '.join(slow)}: give its run, or weights of energy and price that sum to 1"
        )
    free = [m["name"] for m in models if m.get(FIELDS[0]) is None]
    if shares.price > 0 and free:
        raise TableError(
            f"price has a share of {shares.price:g} in the cost, but {', '.join(free)} has none: "
            "give --price MODEL=IN,OUT (0,0 for a model that nobody bills)"
        )
    if link["kind"] == "none" and shares.energy > 0:
        raise TableError("without a link the device's radio has no energy: say --energy-weight 0")


def _reference(models: list[dict[str, Any]], asked: str | None, shares: Shares) -> str:
    names = [m["name"] for m in models]
    if asked and asked not in names:
        raise TableError(f"reference model {asked!r} is none of {names}")

    def unit(m: dict[str, Any]) -> tuple[bool, float, float]:
        paid = sum(m.get(k) or 0.0 for k in FIELDS)
        # What costs no money is no unit of money.
        return (paid > 0 or shares.price == 0, m["beta_dec_s"] or 0.0, paid)

    return asked or str(max(models[1:], key=unit)["name"])


def cost_table(
    *,
    name: str,
    device: dict[str, Any],
    edge: list[dict[str, Any]],
    link: dict[str, Any],
    link_measured: bool,
    ue: dict[str, float | None],
    energy_weight: float | None = None,
    price_weight: float | None = None,
    prices: dict[str, Prices] | None = None,
    reference_model: str | None = None,
) -> dict[str, Any]:
    """Put a cost table together.

    Parameters
    ----------
    name : str
        Of the testbed.
    device, edge : dict, list of dict
        From :func:`model_entry` or :func:`unmeasured_entry`; `edge` holds cloud models too.
    link : dict
        The table's link section.
    link_measured : bool
        Whether it was measured.
    ue : dict
        ``p_tx_w``, ``p_rx_w``, ``p_idle_w`` of the device, W, from its data sheet; None unknown.
    energy_weight, price_weight : float or None
        Shares ω_e and ω_p in [0, 1]; latency has the rest. None shares alike between the parts
        there are, and is refused for energy where a power is not known.
    prices : dict of str to dict, optional
        By model, from :func:`parse_prices`.
    reference_model : str or None
        The model whose cost is the unit; None takes the slowest edge or cloud model per token.

    Raises
    ------
    TableError
        Names clash, there is no edge model, or a part has a share and something of it is unknown.
    """
    prices = prices or {}
    models = [device, *edge]
    if unknown := sorted({*prices} - {m["name"] for m in models}):
        raise TableError(f"--price: no model is called {', '.join(unknown)[:200]}")
    wants_2 = (
        bool(prices)
        or link["kind"] == "none"
        or any(m["tier"] == "cloud" or m["beta_dec_s"] is None for m in models)
    )
    if wants_2:
        models = [m | (prices.get(m["name"]) or dict.fromkeys(FIELDS)) for m in models]
    powerless = [f"{m['name']}.p_active_w" for m in models if m["p_active_w"] is None]
    powerless += [f"ue.{k}" for k in UE_POWERS if ue.get(k) is None]
    shares = _shares(energy_weight, price_weight, powerless, bool(prices))
    _check(models, shares, link)
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
    unmeasured = [] if link_measured or link["kind"] == "none" else ["link"]
    estimated = [*unmeasured, *powers, *idles]
    used = [*unmeasured, *(powers if shares.energy > 0 else [])]
    weighed: dict[str, Any] = {"latency": shares.latency, "energy": shares.energy}
    normalizers: dict[str, Any] = {"T0_s": None, "E0_j": None}
    if wants_2:
        normalizers["D0_usd"] = None
    return {
        "schema": SCHEMA_2 if wants_2 else SCHEMA,
        "name": name,
        "source": "estimated" if used or shares.price == 1 else "measured",
        **({"shares": weighed | {"price": shares.price}} if wants_2 else {"weights": weighed}),
        "reference_model": _reference(models, reference_model, shares),
        "normalizers": normalizers
        | {
            "definition": "mean latency and energy"
            + (" and price" if wants_2 else "")
            + " of the reference model over the training split, states sampled from the link",
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


def told(table: dict[str, Any]) -> list[str]:
    """What a reader must know of a table's models, in lines."""
    lines = []
    for m in table["models"]:
        p = m["provenance"]
        if m["beta_dec_s"] is None:
            lines.append(f"{m['name']}: latency and energy were not measured")
            continue
        lengths = p["measured_lengths"]
        (a, b), (c, d) = lengths["l_in"], lengths["l_out"]
        lines.append(
            f"{m['name']}: measured for L_in {a} to {b} and L_out {c} to {d} tokens; longer or "
            "shorter ones are extrapolated"
        )
        if m["p_active_w"] is None:
            lines.append(f"{m['name']}: energy was not measured ({p['energy_reason']})")
        lines += [f"{m['name']}: {note}" for note in p["notes"]]
    return lines
