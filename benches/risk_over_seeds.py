"""Realised risk on the test split against alpha, over seeds of split, training and link states.

    CR2FAST_DATA=DIR python -m benches.risk_over_seeds [--seeds 5] [--out risk.json]

For every pool of the folder, each seed and length mode a router is fitted, calibrated and
evaluated; then, for each mode, the seeds are pooled. Printed: at how many of the grid's cells the
95 % interval of the realised risk reaches down to alpha.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

import cr2fast
from benches.pools import pools
from cr2fast._util.jsontext import json_ready
from cr2fast.datasets import load_folder
from cr2fast.evaluation.intervals import binomial_interval

MODES = ("predicted", "known")
# Two-sided 95 % quantile of Student's t by degrees of freedom.
STUDENT_95 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}
# One-sided 99.9 % quantile.
STUDENT_999 = {
    1: 318.3,
    2: 22.33,
    3: 10.21,
    4: 7.173,
    5: 5.893,
    6: 5.208,
    7: 4.785,
    8: 4.501,
    9: 4.297,
}


def one_seed(problem, seed, lengths):
    train, calibration, test = problem.table.split(seed=seed)
    router = cr2fast.fit(train, problem.costs, seed=seed, lengths=lengths)
    router.calibrate(calibration, problem.costs, seed=seed)
    return cr2fast.evaluate(router, test, problem.costs, seed=seed)


def pooled(evaluations):
    """Counts of all seeds together; the test splits overlap, so this is a mean, not 5 N samples."""
    first = evaluations[0]
    counts = sum(e.false_acceptances for e in evaluations)
    n = sum(e.n for e in evaluations)
    low = np.array([[binomial_interval(int(k), n)[0] for k in row] for row in counts])
    return counts / n, low, low <= first.alphas


def exceeds(by_seed, alphas):
    """(A,) whether seeds speak against alpha: one number per seed, the mean risk over active lam.

    Cells of one seed share queries, so they are no separate evidence. With a one-sided 99.9 % bound
    over seeds, all ten tests together raise a false alarm about once in a hundred changes.
    """
    out = []
    for j, alpha in enumerate(alphas):
        active = by_seed[:, :, j].mean(axis=0) > alpha / 2
        means = by_seed[:, active, j].mean(axis=1)
        half = STUDENT_999[len(means) - 1] * means.std(ddof=1) / np.sqrt(len(means))
        out.append(bool(active.any()) and means.mean() - half > alpha)
    return np.array(out)


def one_pool(folder, seeds):
    """What is found on one pool, and the modes and levels that fail."""
    problem = load_folder(folder)
    document, failed = {}, []
    for lengths in MODES:
        evaluations = []
        for seed in range(seeds):
            e = one_seed(problem, seed, lengths)
            evaluations.append(e)
            rejected = int((e.p_value < 0.025).sum())
            print(
                f"{lengths} lengths, seed {seed}: interval reaches alpha at "
                f"{e.compatible.sum()} of {e.compatible.size} cells; p < 0.025 at {rejected}; "
                f"least p {e.p_value.min():.4f}",
                flush=True,
            )
        risk, low, good = pooled(evaluations)
        alphas, lams = evaluations[0].alphas, evaluations[0].lams
        print(f"{lengths} lengths, {seeds} seeds pooled: {good.sum()} of {good.size} cells")
        for j, alpha in enumerate(alphas):
            # "Active": mean risk above alpha / 2. Elsewhere so few queries prefer the edge that
            # the risk is far below alpha whatever the rule does.
            active = risk[:, j] > alpha / 2
            print(
                f"  alpha {alpha:g}: mean risk over the {active.sum()} active lam "
                f"{risk[active, j].mean():.5f}, highest {risk[:, j].max():.5f}; "
                f"cells {good[:, j].sum()}/{len(lams)}"
            )
        # Seeds as the unit: mean +- t s / sqrt(n), which counts the calibration draws too.
        by_seed = np.array([e.risk for e in evaluations])
        half = STUDENT_95[len(by_seed) - 1] * by_seed.std(axis=0, ddof=1) / np.sqrt(len(by_seed))
        reaches = by_seed.mean(axis=0) - half <= alphas
        print(
            f"  95 % interval over seeds reaches down to alpha at {reaches.sum()} of {reaches.size}"
        )
        document[lengths] = {
            "lams": lams, "alphas": alphas, "risk": risk, "low": low, "compatible": good,
            "p_values": [e.p_value for e in evaluations],
        }  # fmt: skip
        failed += [(lengths, a) for a in alphas[exceeds(by_seed, alphas)]]
    return document, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("CR2FAST_DATA"))
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not args.data:
        sys.exit("risk_over_seeds: --data DIR or CR2FAST_DATA is needed: real outcomes")
    documents, failed = {}, []
    for name, folder in pools(args.data).items():
        print(f"{name}:", flush=True)
        documents[name], bad = one_pool(folder, args.seeds)
        failed += [(name, *b) for b in bad]
    if args.out:
        args.out.write_text(json.dumps(json_ready(documents)))
    if failed:
        sys.exit(f"risk_over_seeds: the mean risk is above alpha, by seeds: {failed}")


if __name__ == "__main__":
    main()
