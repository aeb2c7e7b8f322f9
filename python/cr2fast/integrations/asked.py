"""What a request in the OpenAI format asks of its routing: which operating point, which limits.

In: a model's name and headers, as a client was called with. Out: :class:`Wish`; the same words for
points as the gateway's (``rust/gateway``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown

NAME = "cr2fast"
PREFIX = "x-cr2fast-"
# Header -> option and how many of its units make one of ours.
_WISHES = {
    "x-cr2fast-lam": ("lam", 1.0),
    "x-cr2fast-alpha": ("alpha", 1.0),
    "x-cr2fast-max-latency-ms": ("max_latency_s", 1e-3),
    "x-cr2fast-max-energy-j": ("max_energy_j", 1.0),
    "x-cr2fast-max-usd": ("max_usd", 1.0),
}


class Wish(NamedTuple):
    """What a request asks of its routing; None where it leaves that to the client's defaults.

    Attributes
    ----------
    model : str or None
        A model's name; None where the request is to be routed.
    """

    model: str | None
    lam: float | None = None
    alpha: float | None = None
    max_latency_s: float | None = None
    max_energy_j: float | None = None
    max_usd: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The budgets that were given."""
        names = ("max_latency_s", "max_energy_j", "max_usd")
        return {n: v for n in names if (v := getattr(self, n)) is not None}


def wish(model: Any, headers: Mapping[str, Any] | None) -> tuple[Wish, dict[str, Any]]:
    """What the model's name and the headers ask for, and the headers that are left.

    Raises
    ------
    Cr2Error
        A name such as ``cr2fast:lam=x``, or a header of ours that there is not.
    """
    if not isinstance(model, str):
        raise Cr2Error(f"model: expected {NAME!r} or a model's name, got {shown(model)}")
    found: dict[str, float] = {}
    rest = {}
    for name, value in (headers or {}).items():
        if not name.lower().startswith(PREFIX):
            rest[name] = value
            continue
        if name.lower() not in _WISHES:
            known = [wish.removeprefix(PREFIX) for wish in _WISHES]
            near = get_close_matches(name.lower().removeprefix(PREFIX), known, 1)
            raise Cr2Error(
                f"extra_headers: expected one of {list(_WISHES)}, got {shown(name)}"
                + (f"; did you mean {PREFIX + near[0]!r}?" if near else "")
            )
        key, unit = _WISHES[name.lower()]
        found[key] = _number(value, name) * unit
    if model.partition(":")[0] != NAME:
        return Wish(model), rest
    for pair in filter(None, model.partition(":")[2].split(",")):
        key, _, value = pair.partition("=")
        if key not in ("lam", "alpha"):
            raise Cr2Error(
                f"model: expected {NAME!r} or a name such as {NAME + ':lam=0.3,alpha=0.02'!r}, got "
                f"{shown(model)}"
            )
        if key in found:
            raise Cr2Error(f"model: expected {key} once, got it in a header and in {shown(model)}")
        found[key] = _number(value, f"model: {key}")
    return Wish(None, **found), rest


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise Cr2Error(f"{what}: expected a finite number, got {shown(value)}")
    return number
