"""The table of manners: `make manners`.

For each way in which servers and proxies stream an answer whose coefficients are known (and for
stalls and bursts): the truth, what TTFT and decode time say by themselves, the estimate, its
interval, and the note that a reader gets. Ten runs each with 1 % noise; the first is shown, and in
how many the truth lies inside the interval.
"""

from __future__ import annotations

import numpy as np
import streams

from cr2fast_profiler.fit.latency import LatencyFit, fit_latency
from cr2fast_profiler.fit.observations import Observations

RUNS, ROUNDS, NOISE = 10, 6, 0.01


def bursts(o: Observations, seed: int) -> Observations:
    """Three times as long, for a tenth of the requests."""
    hit = np.random.default_rng(seed).permutation(len(o))[: len(o) // 10]
    o.ttft_s[hit] *= 3
    o.decode_s[hit] *= 3
    return o


def stall(o: Observations, seed: int) -> Observations:
    """One stall of 3 s."""
    o.ttft_s[seed % len(o)] += 3.0
    return o


OTHERS = {"plain, bursts of 3x on a tenth": bursts, "plain, one stall of 3 s": stall}


def _fit(name: str, seed: int) -> LatencyFit:
    manner = streams.MANNERS.get(name, streams.plain)
    o = streams.observed(manner, seed=seed, rounds=ROUNDS, noise=NOISE)
    if name in OTHERS:
        o = OTHERS[name](o, seed)
    return fit_latency(o, left_out=False)


def main() -> None:
    """Print the table."""
    truth = ", ".join(f"{1e3 * v:g}" for v in streams.TRUTH.values())
    print(f"Truth: tau0, β_pre, β_dec = {truth} ms (per token). All figures in ms.\n")
    print("| manner | β_dec by phases | β_dec | β_pre | tau0 | truth inside, of 10 | by | note |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in (*streams.MANNERS, *OTHERS):
        fits = [_fit(name, seed) for seed in range(RUNS)]
        f = fits[0]
        alone = f"{1e3 * f.by_phases['beta_dec_s']:.3g}" if f.by_phases else "-"
        cells = []
        for key in ("beta_dec_s", "beta_pre_s", "tau0_s"):
            low, high = f.intervals[key]
            cells.append(f"{1e3 * getattr(f, key):.3g} [{1e3 * low:.3g}, {1e3 * high:.3g}]")
        inside = [
            sum(x.intervals[k][0] <= v <= x.intervals[k][1] for x in fits)
            for k, v in streams.TRUTH.items()
        ]
        note = "; ".join(f.notes).split(". Coefficients")[0] or "-"
        if f.served.outliers >= 0.01:
            note += f" ({f.served.outliers:.0%} outliers, as served {f.served.ratio:.2f} x)"
        counted = "/".join(str(n) for n in reversed(inside))
        print(f"| {name} | {alone} | {' | '.join(cells)} | {counted} | {f.estimated_by} | {note} |")


if __name__ == "__main__":
    main()
