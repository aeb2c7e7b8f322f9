"""What float16 weights change: file, decisions, time.

    CR2FAST_DATA=DIR python benches/float16.py [--seeds 3]

For each seed a router is fitted, and its rounded twin calibrated on the same split: the share of
test queries and operating points at which both decide alike, the files' sizes, and the time of a
decision, the two taking turns.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path

import numpy as np

import cr2fast
from cr2fast.datasets import load_folder

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from timing import compare, unit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("CR2FAST_DATA"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if not args.data:
        sys.exit("float16: --data DIR or CR2FAST_DATA is needed: real outcomes")
    problem = load_folder(args.data)
    for seed in range(args.seeds):
        train, calibration, test = problem.table.split(seed=seed)
        full = cr2fast.fit(train, problem.costs, seed=seed, progress=False)
        half = full.to_float16()
        margins, alike, sizes = [], [], []
        for router in (full, half):
            router.calibrate(calibration, problem.costs, seed=seed)
            sizes.append(len(router.to_bytes()))
            margins.append(router.margins(test.embeddings, router.calibration["lams"]))
        decided = [
            m[..., None] >= r.calibration["thresholds"][:, None, :]
            for m, r in zip(margins, (full, half), strict=True)
        ]
        alike = float((decided[0] == decided[1]).mean())
        moved = float(np.abs(margins[0] - margins[1]).max() / margins[0].std())
        risks = [
            cr2fast.evaluate(r, test, problem.costs, seed=seed).risk.mean() for r in (full, half)
        ]
        lam, alpha = float(full.calibration["lams"][16]), 0.01
        x = test.embeddings[0]
        devices = {name: r.device(lam, alpha) for name, r in (("float32", full), ("float16", half))}
        assert devices["float16"].route(x).margin == half.margins(x[None], [lam]).item()
        times = compare({k: functools.partial(d.route, x) for k, d in devices.items()})
        print(
            f"seed {seed}: {sizes[0] / 1e6:.2f} MB and {sizes[1] / 1e6:.2f} MB; margins move by at "
            f"most {moved:.1e} of their spread; {alike:.4%} of {decided[0].size:,} decisions "
            f"alike; "
            f"mean risk {risks[0]:.5f} and {risks[1]:.5f}; a decision "
            f"{unit(times['float32'].median)} and {unit(times['float16'].median)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
