"""What smaller weights change: file, decisions, time.

    CR2FAST_DATA=DIR python -m benches.precision [--seeds 3]

For each seed a router is fitted, and copies with float16 and bfloat16 weights are calibrated on
the same split: the share of test queries and operating points at which each decides as float32
does, its file's size, and the times of a decision and of an edge model's choice, taking turns.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys

import numpy as np

import cr2fast
from cr2fast.datasets import load_folder
from testing.timing import compare, unit

STATE = cr2fast.LinkState(20e6, 80e6, 0.018)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("CR2FAST_DATA"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if not args.data:
        sys.exit("weights: --data DIR or CR2FAST_DATA is needed: real outcomes")
    problem = load_folder(args.data)
    for seed in range(args.seeds):
        train, calibration, test = problem.table.split(seed=seed)
        full = cr2fast.fit(train, problem.costs, seed=seed, progress=False)
        x, n_in = test.embeddings[0], int(test.n_input_tokens[0])
        margins, decided, calls, picks = {}, {}, {}, {}
        for router in (full, full.to_float16(), full.to_bfloat16()):
            name = router.precision
            router.calibrate(calibration, problem.costs, seed=seed)
            lams = router.calibration["lams"]
            margins[name] = router.margins(test.embeddings, lams)
            thresholds = router.calibration["thresholds"]
            decided[name] = margins[name][..., None] >= thresholds[:, None, :]
            device, edge = router.device(float(lams[16]), 0.01), router.edge(float(lams[16]))
            assert device.route(x).margin == margins[name][16, 0]
            calls[name] = functools.partial(device.route, x)
            picks[name] = functools.partial(edge.select, x, n_in, STATE)
            risk = cr2fast.evaluate(router, test, problem.costs, seed=seed).risk.mean()
            moved = np.abs(margins[name] - margins["float32"]).max() / margins["float32"].std()
            alike = (decided[name] == decided["float32"]).mean()
            print(
                f"seed {seed}, {name:8s}: {len(router.to_bytes()) / 1e6:.2f} MB; margins move by "
                f"at most {moved:.1e} of their spread; {alike:.4%} of {decided[name].size:,} "
                f"decisions as float32; mean risk {risk:.5f}",
                flush=True,
            )
        for what, contenders in (("a decision", calls), ("an edge model of 4", picks)):
            times = compare(contenders, rounds=200)
            print(f"seed {seed}, {what}: ", end="")
            print(", ".join(f"{name} {unit(t.median)}" for name, t in times.items()), flush=True)


if __name__ == "__main__":
    main()
