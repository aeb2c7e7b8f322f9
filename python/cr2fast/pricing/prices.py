"""A cost table of a price list.

In: prices of each model, the local one first. Out: a table whose cost is the price.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from cr2fast._core import CostTable, CostTableError

SCHEMA = "cr2fast.cost_table/2"
PRICES = ("usd_per_input_token", "usd_per_output_token", "usd_per_request")


def document(
    models: list[dict[str, Any]],
    *,
    source: str,
    name: str,
    shares: Mapping[str, float],
    reference_model: str | None,
    provenance: dict[str, Any],
) -> str:
    """JSON text of a table without a link; by default the dearest model has unit cost."""
    for share, value in shares.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise CostTableError(f"shares: {share}: expected 0 to 1, got {str(value)[:60]}")
    if reference_model is None:
        dearest = max(models, key=lambda m: sum(float(m[p] or 0) for p in PRICES[:2]))
        reference_model = dearest["name"]
    table = {
        "schema": SCHEMA,
        "name": name,
        "source": source,
        "shares": dict(shares),
        "reference_model": reference_model,
        "link": {"kind": "none"},
        "models": models,
        "provenance": provenance,
    }
    return json.dumps(table, allow_nan=False)


def of_prices(
    prices: Mapping[str, Mapping[str, float]], *, reference_model: str | None = None
) -> CostTable:
    """Make a table of prices; :meth:`cr2fast.CostTable.of_prices` documents it."""
    if not isinstance(prices, Mapping):
        raise TypeError(f"prices: expected prices by model, got {type(prices).__name__}")
    if not prices:
        raise CostTableError("prices: expected those of at least one model, got none")
    models: list[dict[str, Any]] = []
    for model, given in prices.items():
        if not isinstance(model, str):
            raise TypeError(f"prices: expected names of models, got {type(model).__name__}")
        models.append(
            {"name": model, "tier": "cloud" if models else "device"} | _checked(model, given)
        )
    text = document(
        models,
        source="estimated",
        name="prices",
        shares={"price": 1.0},
        reference_model=reference_model,
        provenance={"made_by": "CostTable.of_prices"},
    )
    return CostTable.from_json(text)


def _checked(model: str, given: object) -> dict[str, float]:
    """The three prices of a model, of which at least one was given."""
    where = f"prices of {model[:60]!r}"
    if not isinstance(given, Mapping):
        raise CostTableError(
            f"{where}: expected a mapping such as {{'usd_per_input_token': 2.5e-06, "
            f"'usd_per_output_token': 1e-05}}, dollars per token, got {str(given)[:60]}"
        )
    if not given:
        raise CostTableError(
            f"{where}: expected at least one of {list(PRICES)}, got none; a model that costs no "
            f"money has usd_per_request 0"
        )
    for name, value in given.items():
        if name not in PRICES:
            near = get_close_matches(str(name)[:60], PRICES, n=1, cutoff=0.0)[0]
            raise CostTableError(f"{where}: no price is called {str(name)[:60]!r}; nearest: {near}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise CostTableError(
                f"{where}: {name}: expected dollars, at least 0, got {str(value)[:60]}"
            )
    return {name: float(given.get(name, 0.0)) for name in PRICES}
