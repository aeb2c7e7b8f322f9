"""What a reader of a measured link must know beside its numbers.

In: rows of the accepted rounds and their summary. Out: flags

- ``proxy``: a request takes much longer than a connection, which something in between answers;
- ``power_save``: the first of a pair after a silence is slower than the second, with confidence;
- ``not_linear``: the seconds a byte differ between small and large payloads by a quarter (a burst
  allowance, a congestion window that opens): one rate then does not describe both;
- ``rejected_rounds``, ``few_rounds``: the intervals say less than they seem to.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from cr2fast_profiler.link.measurement import Estimate, Flag

PROXY_FACTOR, PROXY_S = 1.5, 1e-3
IDLE_FACTOR, IDLE_S = 1.25, 1e-3
BEND = 0.25
REJECTED_SHARE = 0.1
FEW_ROUNDS = 10


def is_proxied(request_s: float, connect_s: float) -> bool:
    """Whether the two round trips disagree by more than the agent's own handling explains."""
    return request_s > PROXY_FACTOR * connect_s + PROXY_S


def proxy(summary: dict[str, Estimate]) -> list[Flag]:
    """Tell that connections end before the agent does."""
    request, connect = summary["request_s"].median, summary["connect_s"].median
    if not is_proxied(request, connect):
        return []
    detail = (
        f"a request takes {request * 1e3:.2f} ms, a connection {connect * 1e3:.2f} ms: a proxy or "
        "tunnel answers connections; rtt_s is the request's"
    )
    return [Flag("proxy", detail)]


def power_save(first: npt.NDArray[np.float64], gain: Estimate | None) -> list[Flag]:
    """Tell that the first packet after a silence is late; `gain` is first − second."""
    if gain is None or not len(first):
        return []
    second = float(np.median(first)) - gain.median
    if gain.low <= max(IDLE_S, (IDLE_FACTOR - 1) * second):
        return []
    detail = (
        f"after a silence the first request takes {gain.median * 1e3:.1f} ms more than the next "
        f"({gain.low * 1e3:.1f} to {gain.high * 1e3:.1f}): a radio or host sleeps; rtt_s is awake"
    )
    return [Flag("power_save", detail)]


def not_linear(rows: pl.DataFrame) -> list[Flag]:
    """Tell that time is not linear in bytes, from the median time of each size."""
    flags = []
    for kind in ("uplink", "downlink"):
        kept = rows.filter((pl.col("kind") == kind) & pl.col("duration_s").is_not_null())
        medians = kept.group_by("bytes").agg(pl.col("duration_s").median()).sort("bytes")
        x, y = medians["bytes"].to_numpy().astype(float), medians["duration_s"].to_numpy()
        if len(x) < 3:
            continue
        middle = len(x) // 2
        small = (y[middle] - y[0]) / (x[middle] - x[0])
        large = (y[-1] - y[middle]) / (x[-1] - x[middle])
        # What jitter of half a millisecond could make of the small sizes is no bend.
        slack = 5e-4 / (x[middle] - x[0])
        if abs(small - large) > BEND * abs(large) + slack:
            detail = (
                f"{kind}: {small * 1e9:.0f} ns a byte up to {x[middle]:.0f} bytes, "
                f"{large * 1e9:.0f} beyond: the rate is between; choose sizes like your payloads"
            )
            flags.append(Flag("not_linear", detail))
    return flags


def rounds(good: int, rejected: dict[str, int]) -> list[Flag]:
    """Tell that rounds are few, or that many were rejected."""
    flags = []
    lost = sum(rejected.values())
    if lost > REJECTED_SHARE * (good + lost):
        reasons = ", ".join(f"{n} {why}" for why, n in sorted(rejected.items()))
        words = f"{lost} of {good + lost} rounds rejected ({reasons})"
        if any("noise" in why for why in rejected):
            words += (
                ": the fastest ones are missing, so the rates are biased low; send larger sizes"
            )
        flags.append(Flag("rejected_rounds", words))
    if good < FEW_ROUNDS:
        flags.append(Flag("few_rounds", f"{good} rounds: intervals of so few are too narrow"))
    return flags
