"""Requests drawn from a known cost model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cr2fast_profiler.fit.observations import Observations
from cr2fast_profiler.workload.grid import Grid

GRID = Grid.cross((32, 128, 256, 512), (16, 48, 96))


@dataclass(frozen=True)
class Truth:
    tau0_s: float = 0.02
    beta_pre_s: float = 0.001
    beta_dec_s: float = 0.02
    kappa_pre: float = 0.0
    kappa_dec: float = 0.0

    def total(self, l_in, l_out):
        return (
            self.tau0_s
            + self.beta_pre_s * (l_in + self.kappa_pre * l_in**2)
            + self.beta_dec_s * (l_out + self.kappa_dec * l_out**2)
        )


def draw(
    truth: Truth,
    seed: int,
    rounds: int = 6,
    noise: float = 0.05,
    drift: float = 0.0,
    ascending: bool = False,
    chunk: int = 1,
    grid: Grid = GRID,
    outliers: float = 0.0,
    burst: float = 3.0,
) -> Observations:
    """`rounds` rounds of a grid with lognormal noise of mean 1, shared by a request's tokens.

    A share `outliers` of the requests takes `burst` times as long.
    """
    rng = np.random.default_rng(seed)
    items = [i for r in range(rounds) for i in grid.round(r, seed)]
    if ascending:
        items.sort(key=lambda i: (i.l_in, i.l_out))
    l_in = np.array([i.l_in for i in items], float) + rng.integers(-3, 4, len(items))
    l_out = np.array([i.l_out for i in items], float)
    first = np.minimum(float(chunk), l_out)
    wander = 1 + drift * np.arange(len(items)) / (len(items) - 1)
    factors = np.exp(rng.normal(0, noise, (2, len(items))) - noise**2 / 2) * wander
    factors[:, rng.permutation(len(items))[: round(outliers * len(items))]] *= burst
    at_first = truth.total(l_in, first)
    _, cell = np.unique([(i.l_in, i.l_out) for i in items], axis=0, return_inverse=True)
    n_chunks = np.ceil(l_out / chunk)
    return Observations(
        l_in=l_in,
        l_out=l_out,
        ttft_s=at_first * factors[0],
        decode_s=(truth.total(l_in, l_out) - at_first) * factors[1],
        first_tokens=first,
        cell=cell.ravel(),
        start_s=np.arange(len(items), dtype=float),
        chunk_tokens=float(chunk),
        n_chunks=n_chunks,
        n_arrivals=n_chunks,
        reasoning_tokens=np.full(len(items), np.nan),
        tail_s=np.zeros(len(items)),
    )
