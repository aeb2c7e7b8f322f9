"""A fit at size: processor seconds, memory, and what is lost by bounding the work.

    python -m benches.fit_at_size --queries 1000000           # made-up queries, known truth
    CR2FAST_DATA=DIR python -m benches.fit_at_size --pools    # real pools, work bounded as if large

Of made-up queries the true probabilities are known: printed is the utility p - λc that choices by
the fitted teacher lose against choices by the truth, on fresh queries, for a fit on many queries
beside one on as many as an epoch holds. On pools a fit whose epochs hold a part of the training
split stands beside the usual one: the mean cost at eight accuracies (`benches/paper`), by seed.
Processor seconds are of all threads: on two quiet cores about half as many pass.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np

import cr2fast
from benches.calibration_run import peak_during
from benches.pools import pools
from cr2fast import _core
from cr2fast.data.datasets import make_routing_problem
from cr2fast.datasets import load_folder

TEST = 20_000
LAMS = np.geomspace(0.1, 3, 24)


def fitted(table, costs, seed=0, **options):
    """A router, processor seconds, wall seconds, and bytes of memory beside the queries."""
    use, wall = time.process_time(), time.perf_counter()
    peak, router = peak_during(
        lambda: cr2fast.fit(table, costs, seed=seed, progress=False, **options)
    )
    return router, time.process_time() - use, time.perf_counter() - wall, peak


def regret(router, problem, rows):
    """Mean utility lost to choices by the true probabilities, as a share of what these gain over
    the best single model; both see the same costs."""
    table = problem.table.take(rows)
    truth = problem.probabilities[rows]
    states = problem.costs.sample_states(len(rows), 77)
    costs = router.decision_costs(table, states, "predicted")
    seen = router.accuracies(table.embeddings)
    lost = gained = 0.0
    for lam in LAMS:
        worth = truth - lam * costs
        chosen = np.argmax(seen - lam * costs, axis=1)
        best = worth.max(axis=1).mean()
        lost += best - np.take_along_axis(worth, chosen[:, None], 1).mean()
        gained += best - worth.mean(axis=0).max()
    return lost / gained


def gate_error(router, problem, rows):
    """Share of (λ, query) at which the sign of the gate's margin is not that of its teacher's."""
    table = problem.table.take(rows)
    states = problem.costs.sample_states(len(rows), 78)
    p = router.accuracies(table.embeddings)
    wanted = _core.choice_margins(p, router.decision_costs(table, states, "predicted"), LAMS) >= 0
    return float(((router.margins(table.embeddings, LAMS) >= 0) != wanted).mean())


def at_size(queries):
    problem = make_routing_problem(n=queries + TEST, seed=0)
    test = np.arange(queries, queries + TEST)
    for n in sorted({min(queries, 65_536), queries}):
        train = problem.table.take(np.arange(n))
        router, use, wall, peak = fitted(train, problem.costs)
        print(
            f"{n:,} queries: {use:.0f} processor seconds, {wall:.0f} s on {os.cpu_count()} cores, "
            f"{peak / 1e9:.2f} GB beside the {train.embeddings.nbytes / 1e9:.2f} GB of embeddings; "
            f"{regret(router, problem, test):.2%} of what the truth gains is lost, the gate's sign "
            f"differs from its teacher's at {gate_error(router, problem, test):.2%}",
            flush=True,
        )


def on_pools(data, seeds, parts):
    from benches.paper import cr2, metrics
    from benches.paper.metrics import Points
    from benches.paper.world import Pricer

    for name, folder in pools(data).items():
        problem = load_folder(folder)
        for seed in range(seeds):
            train, calibration, test = problem.table.split(seed=seed)
            whole = (len(train) // parts // 8) * 8
            pricer = Pricer(train, problem.costs, seed)
            _, truth = pricer.split(test, seed)
            states = pricer.costs.sample_states(len(test), seed)
            told = []
            for options in ({}, {"rows_per_epoch": whole}):
                router, use, _, _ = fitted(
                    train, pricer.costs, seed, lam_range=cr2.LAM_RANGE, **options
                )
                view = cr2.Calibrated(router, calibration, "predicted", seed).view(test, states)
                labels, choices, _ = view.choices()
                accuracy, cost = Points.of(labels, choices, truth).means()
                mean = metrics.hull_cost(accuracy, cost, metrics.targets(truth)).mean()
                told.append(f"cost {mean:.4f} ({use:.0f} processor seconds)")
            print(f"{name}, seed {seed}: whole {told[0]}; epochs of {whole} rows {told[1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=lambda s: int(float(s)), default=10**6)
    parser.add_argument("--pools", action="store_true")
    parser.add_argument("--data", default=os.environ.get("CR2FAST_DATA"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", type=int, default=4, help="parts of a pool's training split")
    args = parser.parse_args()
    if not args.pools:
        at_size(args.queries)
    elif args.data:
        on_pools(args.data, args.seeds, args.parts)
    else:
        sys.exit("fit_at_size: --data DIR or CR2FAST_DATA is needed: real outcomes")


if __name__ == "__main__":
    main()
