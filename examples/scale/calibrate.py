"""Exact thresholds of rows that no single machine holds: two passes over partitions, merged.

    python examples/scale/calibrate.py ray router.safetensors in/ thresholds.json --alphas 0.01,0.05

In: a fitted router and Parquet files with `embedding` and `n_input_tokens`. Out: thresholds, those
that one machine with all rows would set, bit for bit. A worker sends back half a megabyte per cost
weight in the first pass, and less in the second, however many rows it has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial, reduce
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

import cr2fast
from cr2fast import CellCounts, LinkStates, MarginCounts


class Part(NamedTuple):
    """A partition: its file, and which rows of all it has."""

    file: str
    start: int
    stop: int


def judged(router: str, lams: list[float], total: int, seed: int, part: Part) -> tuple[Any, Any]:
    """Margins and what the teacher prefers, (L, n) of a partition's rows."""
    fitted = cr2fast.Router.load(router)
    table = pq.read_table(part.file)
    x = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    n_in = table["n_input_tokens"].to_numpy()
    # Each row has the link state that it would have on one machine.
    all_states = fitted.costs.sample_states(total, seed)
    rows = slice(part.start, part.stop)
    states = LinkStates(
        all_states.rate_ul_bps[rows], all_states.rate_dl_bps[rows], all_states.rtt_s[rows]
    )
    costs = fitted.costs.cost(n_in, fitted.predict_lengths(x, n_in), states).astype(np.float64)
    p = fitted.accuracies(x, 1).astype(np.float64)
    utility = p - np.asarray(lams)[:, None, None] * costs
    return fitted.margins(x, lams, 1), utility[:, :, 0] < utility[:, :, 1:].max(axis=2)


def count(lams: list[float], judge: Callable[[Part], tuple[Any, Any]], part: Part) -> MarginCounts:
    """The first pass over a partition."""
    counts = MarginCounts(len(lams))
    counts.update(*judge(part))
    return counts


def refine(asked: CellCounts, judge: Callable[[Part], tuple[Any, Any]], part: Part) -> CellCounts:
    """The second pass over a partition."""
    asked.update(*judge(part))
    return asked


def with_ray(function: Callable[[Part], Any], parts: list[Part]) -> list[Any]:
    import ray

    @ray.remote
    def task(job: Callable[[Part], Any], part: Part) -> Any:
        return job(part)

    job = ray.put(function)  # Once, whatever the number of partitions.
    return ray.get([task.remote(job, part) for part in parts])


def with_processes(function: Callable[[Part], Any], parts: list[Part]) -> list[Any]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return list(pool.map(function, parts))


ENGINES = {"ray": with_ray, "processes": with_processes}


def thresholds(
    engine: str,
    router: str,
    files: Sequence[str],
    lams: list[float],
    alphas: list[float],
    seed: int,
) -> np.ndarray:
    """Thresholds (L, A) of all rows of the files."""
    ends = np.cumsum([pq.read_metadata(file).num_rows for file in files]).tolist()
    parts = [Part(*p) for p in zip(files, [0, *ends[:-1]], ends, strict=True)]
    judge = partial(judged, router, lams, ends[-1], seed)
    run = ENGINES[engine]
    first = reduce(MarginCounts.merge, run(partial(count, lams, judge), parts))
    asked = first.second_pass(alphas)
    return reduce(CellCounts.merge, run(partial(refine, asked, judge), parts)).thresholds()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=list(ENGINES))
    parser.add_argument("router", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lams", default="0.3,1,3")
    parser.add_argument("--alphas", default="0.01,0.05")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    lams, alphas = ([float(v) for v in text.split(",")] for text in (args.lams, args.alphas))
    files = sorted(str(p.resolve()) for p in args.source.glob("*.parquet"))
    found = thresholds(args.engine, str(args.router.resolve()), files, lams, alphas, args.seed)
    args.out.write_text(
        json.dumps({"lams": lams, "alphas": alphas, "thresholds": found.tolist()}) + "\n"
    )


if __name__ == "__main__":
    main()
