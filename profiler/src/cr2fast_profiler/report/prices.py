"""What a model behind an API costs, as its price list says it.

In: ``NAME=IN,OUT[,REQUEST]``, dollars per million input and output tokens and per request. Out:
dollars per token and per request, by model.
"""

from __future__ import annotations

import math

from cr2fast_profiler.errors import TableError

FIELDS = ("usd_per_input_token", "usd_per_output_token", "usd_per_request")
MOST_USD = 1e9
Prices = dict[str, float]


def parse_price(text: str) -> tuple[str, Prices]:
    """(model, prices) of one ``--price``.

    Raises
    ------
    TableError
        It is no price.
    """
    name, _, numbers = text.rpartition("=")
    try:
        values = [float(x) for x in numbers.split(",")]
    except ValueError:
        values = []
    good = all(math.isfinite(v) and 0 <= v <= MOST_USD for v in values)
    if not name or len(values) not in (2, 3) or not good:
        raise TableError(
            "--price: expected MODEL=IN,OUT or MODEL=IN,OUT,REQUEST, in dollars per million input "
            f"tokens, per million output tokens and per request, got {text[:80]!r}"
        )
    return name, {
        "usd_per_input_token": values[0] * 1e-6,
        "usd_per_output_token": values[1] * 1e-6,
        "usd_per_request": values[2] if len(values) == 3 else 0.0,
    }


def parse_prices(texts: list[str]) -> dict[str, Prices]:
    """Prices by model; TableError where one is named twice."""
    found: dict[str, Prices] = {}
    for name, prices in map(parse_price, texts):
        if name in found:
            raise TableError(f"--price: {name[:80]!r} is named twice")
        found[name] = prices
    return found
