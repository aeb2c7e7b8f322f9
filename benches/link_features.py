"""Does a gate that sees the link save anything? `python -m benches.link_features`

A synthetic problem whose true probabilities are known, under three links: the paper's fading,
measured samples that move a little, and samples that move a lot. On each, a gate without and with
the link, of the same teacher and seed, calibrated on the same queries. Printed: of the utility (the
teacher's p less cost weight times cost) by which the full-information choice beats the best single
model, the part that device and edge keep, mean over the calibrated cost weights at alpha = .05, and
the fraction of queries kept local there.
"""

from __future__ import annotations

import json

import numpy as np

import cr2fast
from cr2fast import _core
from cr2fast._util import seeds
from cr2fast.datasets import make_routing_problem

ALPHA = 0.05


def table(costs, spread: float | None):
    """The cost table with a link of log-normal samples of this deviation; None: as it is."""
    if spread is None:
        return costs
    rng = np.random.default_rng(7)
    draw = np.exp(spread * rng.standard_normal((2000, 3)))
    document = json.loads(costs.to_json())
    document["link"] = {
        "kind": "empirical",
        "bits_per_input_token": 32.0,
        "bits_per_output_token": 32.0,
        "samples": [
            {"rtt_s": 0.3 * a, "rate_ul_bps": 5e4 * b, "rate_dl_bps": 2e5 * c}
            for a, b, c in draw.tolist()
        ],
    }
    return cr2fast.CostTable.from_json(json.dumps(document))


def kept(router, test, seed: int) -> tuple[float, float]:
    """The part of full information's gain that device and edge keep, and the local rate."""
    calibration = router.calibration
    lams = calibration["lams"]
    at = int(np.abs(calibration["alphas"] - ALPHA).argmin())
    states = router.costs.sample_states(len(test), seeds.TEST + seed)
    p, c = router.accuracies(test.embeddings), router.decision_costs(test, states, "predicted")
    local = router.margins(test.embeddings, lams, states=states)
    local = local >= calibration["thresholds"][:, at : at + 1]
    full = _core.choices(p, c, lams).astype(int)
    ours = np.where(local, 0, _core.choices(p, c, lams, 1).astype(int))
    rows = np.arange(len(test))
    gains = []
    for i, lam in enumerate(lams):
        u = p - lam * c
        best = u.mean(axis=0).max()
        gains.append([u[rows, full[i]].mean() - best, u[rows, ours[i]].mean() - best])
    whole, part = np.mean(gains, axis=0)
    return part / whole, float(local.mean())


def main() -> None:
    """Print a line per link and seed."""
    for name, spread in (("the paper's", None), ("spread 0.3", 0.3), ("spread 1.5", 1.5)):
        for seed in range(3):
            problem = make_routing_problem(5000, d=64, seed=seed)
            costs = table(problem.costs, spread)
            train, calibration, test = problem.table.split((0.4, 0.2, 0.4), seed=seed)
            found, teacher = [], None
            for sees in (False, True):
                router = cr2fast.fit(
                    train, costs, seed=seed, progress=False, teacher=teacher, link_features=sees
                )
                router.calibrate(calibration, alphas=[ALPHA], seed=seed)
                found.append(kept(router, test, seed))
                teacher = teacher or router
            (a, local_a), (b, local_b) = found
            print(
                f"{name:12} seed {seed}: without {a:.3f} (local {local_a:.3f}), "
                f"with {b:.3f} (local {local_b:.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
