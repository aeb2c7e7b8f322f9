"""A cost table of a log: one row per call, with its tokens, dollars and seconds.

In: a log and the names of the models. Out: a table whose prices are those that the calls were
billed by, and whose times are a least-squares fit. What the log cannot tell stands in its notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cr2fast._core import CostTable, Cr2Error
from cr2fast._util.checks import shown
from cr2fast.data import calls, statuses
from cr2fast.data.names import GUESSES, UNIT_OF_TIME, without_unit
from cr2fast.pricing import regression
from cr2fast.pricing.prices import PRICES, document
from cr2fast.pricing.regression import F64, Coefficients

if TYPE_CHECKING:
    import polars as pl

_TIMES = ("beta_pre_s", "beta_dec_s", "tau0_s")
# How many times the usual a bill, and a time, is out of all proportion: requests do stall.
_FAR_USD, _FAR_SECONDS = 100.0, 1000.0
_MOST_TOKENS = 2**32 - 1


def from_log(
    log: Any,
    *,
    local: str,
    edge: Sequence[str],
    columns: Mapping[str, str] | None = None,
    shares: Mapping[str, float] | None = None,
    reference_model: str | None = None,
) -> CostTable:
    """Make a table of a log; :meth:`cr2fast.CostTable.from_log` documents it."""
    if isinstance(edge, str) or not all(isinstance(m, str) for m in [local, *edge]):
        raise TypeError("local, edge: expected a name and a list of names of models")
    names = [local, *edge]
    if len(names) < 2 or len(set(names)) < len(names):
        raise Cr2Error(f"edge: expected other models than the local one, distinct, got {names}")
    unread: list[str] = []
    frame = calls.read(log, columns, ("model", *calls.TOKENS), unread)
    _check_models(frame, names)
    models, exact = [], True
    for k, name in enumerate(names):
        entry, told = _model(frame, name, "cloud" if k else "device")
        models.append(entry)
        exact = exact and told
    billed = all(m["usd_per_input_token"] is not None for m in models)
    timed = all(m["tau0_s"] is not None for m in models)
    if not timed and (unsaid := without_unit(c.removeprefix("other.") for c in frame.columns)):
        for model in models:
            model["provenance"]["notes"].append(f"{shown(unsaid)} not read: {UNIT_OF_TIME}")
    for model in models:
        model["provenance"]["notes"] += unread
    free = billed and not any(m[price] for m in models for price in PRICES if price in m)
    if free and shares is None:
        # Models of one's own: the bills say nothing, the clock does.
        if not timed:
            raise Cr2Error(
                f"log: expected a bill above 0, or seconds of the calls of every model (tried "
                f"{list(GUESSES['seconds'])}, {list(GUESSES['milliseconds'])}), got dollars that "
                f"are 0 throughout; {UNIT_OF_TIME}, or pass prices of your own "
                f"(CostTable.of_prices, cr2fast costs --price)"
            )
        billed = False
        for model in models:
            model["provenance"]["notes"].append("every bill is 0: the cost is the time")
    if shares is None:
        if not (billed or timed):
            lacking = [m["name"] for m in models if m["tau0_s"] is None]
            raise Cr2Error(
                f"log: expected dollars (tried {list(GUESSES['usd'])}) or seconds (tried "
                f"{list(GUESSES['seconds'])}, {list(GUESSES['milliseconds'])}) of the calls of "
                f"every model, got neither for {shown(lacking)}; "
                f"{'; '.join(unread) or UNIT_OF_TIME}"
            )
        shares = {"price": 1.0} if billed else {"latency": 1.0}
    # Prices that every call agrees with were read off the bills; all else was estimated.
    measured = exact and billed and all(v == 0 for k, v in shares.items() if k != "price")
    text = document(
        models,
        source="measured" if measured else "estimated",
        name="prices and times of a log",
        shares=shares,
        reference_model=reference_model,
        provenance={"made_by": "CostTable.from_log", "calls": len(frame)},
    )
    return CostTable.from_json(text)


def _check_models(frame: pl.DataFrame, names: list[str]) -> None:
    known = sorted(set(frame["model"].drop_nulls().to_list()))
    absent = [m for m in names if m not in known]
    if absent:
        raise Cr2Error(
            f"log: expected calls of {shown(names)}, got none of {shown(absent)}; it has "
            f"{shown(known)}"
        )


def _model(frame: pl.DataFrame, name: str, tier: str) -> tuple[dict[str, Any], bool]:
    """One entry of the table, and whether every call agrees with its prices."""
    rows = frame.filter(frame["model"] == name)
    notes = statuses.left_out(int(rows["failed"].sum()), rows["odd"].to_list())
    rows = rows.filter(~rows["failed"])
    for column in (*calls.TOKENS, "usd", "seconds"):
        bad = rows.filter(~(rows[column].is_finite() & (rows[column] >= 0)))
        if len(bad):
            raise Cr2Error(
                f"log.{column}: expected numbers, at least 0, got {bad[column][0]} in row "
                f"{bad['row'][0]}, of {name}"
            )
    for column in calls.TOKENS:
        bad = rows.filter((rows[column] > _MOST_TOKENS) | (rows[column] != rows[column].floor()))
        if len(bad):
            raise Cr2Error(
                f"log.{column}: expected token counts, got {bad[column][0]:.15g} in row "
                f"{bad['row'][0]}, of {name}"
            )
    billed = rows.filter(rows["usd"].is_not_null())
    lacking = billed.filter(billed[calls.TOKENS[0]].is_null() | billed[calls.TOKENS[1]].is_null())
    if len(lacking):
        raise Cr2Error(
            f"log: expected prompt_tokens and completion_tokens of every call with dollars, got "
            f"none in row {lacking['row'][0]}, of {name} ({len(lacking)} such calls); count them, "
            f"or leave these dollars out"
        )
    entry: dict[str, Any] = {"name": name, "tier": tier}
    values, exact = _prices(_arrays(billed, "usd"), notes)
    entry |= dict(zip(PRICES, values, strict=True))
    if values[0] is None:
        del entry["usd_per_request"]
    counted = rows.drop_nulls([*calls.TOKENS, "seconds"])
    entry |= dict(zip(_TIMES, _times(_arrays(counted, "seconds"), notes), strict=True))
    entry["provenance"] = {"calls": len(rows), "notes": notes}
    return entry, exact


def _arrays(rows: pl.DataFrame, y: str) -> tuple[F64, F64, F64]:
    n_input, n_output, values = (rows[c].to_numpy() for c in (*calls.TOKENS, y))
    return n_input, n_output, values


def _usual(
    calls: tuple[F64, F64, F64], factor: float, what: str, notes: list[str]
) -> tuple[F64, F64, F64]:
    """Calls but for those that are out of all proportion, which would make any fit absurd."""
    n_input, n_output, y = calls
    off = regression.far(n_input, n_output, y, factor)
    if off.any():
        at = int(np.flatnonzero(off)[np.argmax(np.abs(np.log(np.maximum(y[off], 1e-300))))])
        notes.append(
            f"{int(off.sum())} of {len(y)} calls left out whose {what} are out of all proportion "
            f"to the others', such as {y[at]:.6g} for {n_input[at]:.15g} + {n_output[at]:.15g} "
            f"tokens; mend them in the log"
        )
    return n_input[~off], n_output[~off], y[~off]


def _untold(found: Coefficients, names: Sequence[str], notes: list[str]) -> None:
    if found.untold:
        which = ", ".join(names[j] for j in found.untold)
        notes.append(
            f"{which} cannot be told apart: in the calls behind them, some token counts are the "
            f"same throughout or move together"
        )


def _prices(calls: tuple[F64, F64, F64], notes: list[str]) -> tuple[list[float] | list[None], bool]:
    """Prices, or three Nones; and whether every call agrees with them."""
    n_input, n_output, usd = _usual(calls, _FAR_USD, "dollars", notes)
    if not len(usd):
        notes.append("no dollars in the log: prices unknown")
        return [None, None, None], False
    found = regression.prices(n_input, n_output, usd)
    if found is None:
        found = regression.least_squares(n_input, n_output, usd)
        notes.append(
            f"dollars are not linear in tokens: prices are a least-squares fit (R2 {found.r2:.2f})"
        )
    elif found.agree < 1:
        apart = round((1 - found.agree) * len(usd))
        a, b, c = found.values
        expected = float((a * n_input + b * n_output + c).sum())
        factor = float(usd.sum()) / expected if expected > 0 else 1.0
        notes.append(
            f"{apart} of {len(usd)} calls were billed otherwise than the others' price list says "
            f"(${a:.4g} per input token, ${b:.4g} per output token, ${c:.4g} per call: "
            f"${expected:.4g} in all, where ${usd.sum():.4g} was billed); these prices are the "
            f"list times {factor:.3g}, which makes what was billed"
        )
        found = replace(found, values=found.values * factor)
    _untold(found, PRICES, notes)
    return [float(v) for v in found.values], found.agree == 1


def _times(calls: tuple[F64, F64, F64], notes: list[str]) -> list[float] | list[None]:
    """Seconds per input token, per output token and per call, or three Nones."""
    n_input, n_output, seconds = _usual(calls, _FAR_SECONDS, "seconds", notes)
    if len(seconds) < 3:
        notes.append("fewer than three calls have seconds: times unknown")
        return [None, None, None]
    least, most = float(seconds.min()), float(seconds.max())
    if most - least <= 1e-9 * most:
        notes.append(
            f"all {len(seconds)} calls took {most:.4g} s, so that no token is said to take longer: "
            f"are these seconds measured?"
        )
        return [0.0, 0.0, most]
    found = regression.least_squares(n_input, n_output, seconds)
    fit = found.values[0] * n_input + found.values[1] * n_output + found.values[2]
    off = 100 * float(np.median(np.abs(fit - seconds) / np.maximum(seconds, 1e-12)))
    slow = np.quantile(seconds / np.maximum(fit, 1e-12), 0.95)
    longer = f"at most {slow:.3g} times what it says" if slow >= 1.005 else "no longer than it says"
    notes.append(
        f"times are a least-squares fit over {len(seconds)} calls, the network's part included "
        f"(R2 {found.r2:.2f}; half of the calls are within {max(off, 1):.0f} %, and 95 % took "
        f"{longer}: latencies, and limits on them, are by the fit)"
    )
    if found.values[0] == 0:
        notes.append("seconds do not grow with the prompt: beta_pre_s cannot be told from 0")
    _untold(found, _TIMES, notes)
    return [float(v) for v in found.values]
