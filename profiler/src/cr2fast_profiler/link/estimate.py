"""From rows of probes to the states of a link.

In: rows. Out: a joint sample (R_ul, R_dl, τ_rtt) a round, what was rejected and why, medians with
intervals, flags.

- Rate of a way, from a round's transfers (bytes x_i, seconds y_i), y = a + b·x: b is the weighted
  median of the pairwise slopes, weights |x_i − x_j| (Sievers 1978; one slow transfer in four does
  not move it), R = 8/b. Its standard error: 1.4826·MAD(residuals)/√Σ(x − x̄)². A slope under three
  of them is noise: the link is too fast for these sizes, and no rate is given.
- Round trip of a request: the median of duration − b_ul·bytes sent − b_dl·bytes received, so
  that a slow link's HTTP heads do not pass for distance; never under a connection's, which has no
  heads. Of a connection: the median connect time.
  Where a proxy or tunnel ends the connection, connect sees only the first hop; the sample then has
  the request's.
- Intervals: percentile bootstrap of the median over rounds, the unit that is independent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from cr2fast_profiler.errors import LinkError
from cr2fast_profiler.link import flags
from cr2fast_profiler.link.measurement import Estimate, Flag, LinkSample

Floats = npt.NDArray[np.float64]

NOISE_ERRORS = 3.0
LEAST_ROUNDS = 3
RESAMPLES = 2000
DRAWS = 1 << 20
"""Numbers of a bootstrap held at once."""
QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


def fit_slope(x: Floats, y: Floats) -> tuple[float, float]:
    """(slope, standard error) of y = a + b·x, robust to slow outliers.

    Parameters
    ----------
    x, y : ndarray, (n,)
        At least three points of at least two distinct x.
    """
    i, j = np.triu_indices(len(x), 1)
    dx, dy = x[j] - x[i], y[j] - y[i]
    apart = dx != 0
    slopes, weights = dy[apart] / dx[apart], np.abs(dx[apart])
    order = np.argsort(slopes)
    cumulative = np.cumsum(weights[order])
    slope = float(slopes[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
    residuals = y - slope * x
    scale = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    return slope, scale / float(np.sqrt(((x - x.mean()) ** 2).sum()))


@dataclass(frozen=True)
class Round:
    """What one round says, s and s a byte."""

    number: int
    slope_ul: float
    slope_dl: float
    request_s: float
    connect_s: float
    dns_s: float


@dataclass(frozen=True)
class Estimates:
    """What all rounds say."""

    samples: tuple[LinkSample, ...]
    summary: dict[str, Estimate]
    rtt_source: str
    flags: tuple[Flag, ...]
    rejected_probes: dict[str, int]
    rejected_rounds: dict[str, int]


def _pick(rows: pl.DataFrame, kind: str, column: str = "duration_s") -> Floats:
    kept = rows.filter((pl.col("kind") == kind) & pl.col("duration_s").is_not_null())
    return kept[column].cast(pl.Float64).to_numpy()


def read_round(number: int, rows: pl.DataFrame) -> tuple[Round | None, str]:
    """One round's state, or None and the reason."""
    slopes = {}
    for kind in ("uplink", "downlink"):
        x, y = _pick(rows, kind, "bytes"), _pick(rows, kind)
        if len(x) < 3 or len(np.unique(x)) < 2:
            return None, _why(rows, "too_few_transfers")
        slope, error = fit_slope(x, y)
        if not slope > NOISE_ERRORS * error:
            return None, f"{kind}_slope_within_noise"
        slopes[kind] = slope
    up, down = slopes["uplink"], slopes["downlink"]
    request = _pick(rows, "request")
    connect = _pick(rows, "connect")
    if len(request) == 0 or len(connect) == 0:
        return None, _why(rows, "no_round_trip")
    sent, received = _pick(rows, "request", "sent_bytes"), _pick(rows, "request", "received_bytes")
    bare = float(np.median(request - up * sent - down * received))
    # A burst allowance lets heads pass for nothing; no request is faster than a connection.
    connect_s = float(np.median(connect))
    request_s = max(bare, min(float(np.median(request)), connect_s))
    dns_s = float(np.median(_pick(rows, "connect", "dns_s")))
    return Round(number, up, down, request_s, connect_s, dns_s), ""


def _why(rows: pl.DataFrame, otherwise: str) -> str:
    """The commonest reason of the probes that failed."""
    reasons = Counter(r for r in rows["reason"] if r)
    return reasons.most_common(1)[0][0] if reasons else otherwise


def _interval(values: Floats, confidence: float, seed: int) -> tuple[float, float]:
    n = len(values)
    rng = np.random.default_rng((seed, n))
    at_once = max(1, DRAWS // n)
    medians = np.concatenate(
        [
            np.median(values[rng.integers(n, size=(min(at_once, RESAMPLES - i), n))], axis=1)
            for i in range(0, RESAMPLES, at_once)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def summarise(rounds: Floats, raw: Floats, unit: str, confidence: float, seed: int) -> Estimate:
    """Median of the rounds with its interval, quantiles of the raw values."""
    low, high = _interval(rounds, confidence, seed)
    quantiles = {k: float(np.quantile(raw, q)) for k, q in QUANTILES.items()}
    return Estimate(float(np.median(rounds)), low, high, confidence, len(rounds), unit, quantiles)


def estimate(rows: pl.DataFrame, confidence: float = 0.95, seed: int = 0) -> Estimates:
    """All of it.

    Raises
    ------
    LinkError
        More than half the rounds are rejected, or too few are left: with the reason.
    """
    read = [
        read_round(int(number), part)
        for (number,), part in rows.sort("round", "order").group_by("round", maintain_order=True)
    ]
    good = [r for r, _ in read if r is not None]
    rejected = dict(Counter(why for r, why in read if r is None))
    probes = dict(Counter(r for r in rows["reason"] if r))
    refuse(len(read), len(good), rejected)
    accepted = rows.filter(pl.col("round").is_in([r.number for r in good]))
    request = np.array([r.request_s for r in good])
    connect = np.array([r.connect_s for r in good])
    up = 8 / np.array([r.slope_ul for r in good])
    down = 8 / np.array([r.slope_dl for r in good])
    proxied = flags.is_proxied(float(np.median(request)), float(np.median(connect)))
    rtt = request if proxied else connect

    def of(values: Floats, raw: Floats, unit: str = "s") -> Estimate:
        return summarise(values, raw, unit, confidence, seed)

    summary = {
        "rate_ul_bps": of(up, up, "bit/s"),
        "rate_dl_bps": of(down, down, "bit/s"),
        "rtt_s": of(rtt, rtt),
        "request_s": of(request, _pick(accepted, "request")),
        "connect_s": of(connect, _pick(accepted, "connect")),
    }
    summary["dns_s"] = of(np.array([r.dns_s for r in good]), _pick(accepted, "connect", "dns_s"))
    first, second = _pairs(accepted)
    late = None
    if len(first):
        summary["after_idle_s"], summary["next_s"] = of(first, first), of(second, second)
        late = summary["after_idle_extra_s"] = of(first - second, first - second)
    samples = tuple(
        LinkSample(float(u), float(d), float(t), r.number)
        for u, d, t, r in zip(up, down, rtt, good, strict=True)
    )
    raised = flags.proxy(summary) + flags.power_save(first, late)
    raised += flags.not_linear(accepted) + flags.rounds(len(good), rejected)
    return Estimates(
        samples, summary, "request" if proxied else "connect", tuple(raised), probes, rejected
    )


def _pairs(rows: pl.DataFrame) -> tuple[Floats, Floats]:
    """First and second request after a silence, of the rounds that have both."""
    first, second = (
        rows.filter((pl.col("kind") == kind) & pl.col("duration_s").is_not_null()).select(
            "round", pl.col("duration_s").alias(kind)
        )
        for kind in ("idle_first", "idle_second")
    )
    both = first.join(second, on="round", how="inner")
    return both["idle_first"].to_numpy(), both["idle_second"].to_numpy()


def refuse(rounds: int, good: int, rejected: dict[str, int]) -> None:
    """Raise where too little is left to speak of a link."""
    if good >= LEAST_ROUNDS and 2 * good >= rounds:
        return
    counts = ", ".join(f"{n} {why}" for why, n in sorted(rejected.items(), key=lambda i: -i[1]))
    words = (
        f"expected at least half of the rounds and {LEAST_ROUNDS} of them, got {good} of {rounds}"
    )
    if any("noise" in why for why in rejected):
        remedy = (
            "the time hardly depends on the bytes: the link is too fast for these sizes, or its "
            "ends too busy; send larger ones (--sizes), and repeat them (--repeats)"
        )
    elif rejected:
        remedy = "see the reasons, and whether the agent and the path to it are up"
    else:
        remedy = "run more rounds, or allow a larger budget"
    raise LinkError(f"link: {words} (rejected: {counts or 'none'}); {remedy}")
