"""One calibration at size, beside the bare forward passes that it cannot do without.

    python -m benches.calibration_run [--n 200000] [--lams 32] [--turns 5]

Seeded embeddings, d = 384, five risk levels, networks of the paper's size. In turns: `margins` and
`accuracies` of the rows, their typicality scores, then the calibration of the same rows, which
needs all three. Prints medians of processor and of wall seconds, their ratios, and how far the
resident memory rose above the inputs in the process's first calibration.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import threading
import time
from pathlib import Path

import numpy as np

import cr2fast
from cr2fast import _core
from cr2fast.data.datasets import make_routing_problem
from testing import calibrated

ALPHAS = [0.002, 0.005, 0.01, 0.02, 0.05]


def timed(call):
    """Processor seconds, wall seconds, and the answer."""
    use, wall = time.process_time(), time.perf_counter()
    answer = call()
    return time.process_time() - use, time.perf_counter() - wall, answer


def resident():
    """Resident memory now, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_during(call):
    """The highest resident memory while `call` runs, above that before, bytes."""
    before, highest, done = resident(), resident(), threading.Event()

    def watch():
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    answer = call()
    done.set()
    watcher.join()
    return highest - before, answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--lams", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    assert _core.build_profile() == "release", "build with --release"
    problem = make_routing_problem(n=2000, d=384, seed=0)
    router = cr2fast.fit(problem.table, problem.costs, seed=0, progress=False)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((args.n, 384), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    tokens = rng.integers(20, 400, args.n).astype(np.float64)
    ids = [str(i) for i in range(args.n)]
    lams = np.geomspace(0.1, 20, args.lams).tolist()

    def bare():
        return router.margins(x, lams, args.threads), router.accuracies(x, args.threads)

    def whole():
        return router._core.calibrate(x, tokens, ids, lams, ALPHAS, seed=5, threads=args.threads)

    risen, (core, done) = peak_during(whole)
    margins, p = bare()
    states = router.costs.sample_states(args.n, 5)
    c = router.costs.cost(tokens, router.predict_lengths(x, tokens), states)
    prefers = _core.choice_margins(p, c, lams) < 0
    expected = cr2fast.crc_thresholds(margins, prefers, ALPHAS)
    np.testing.assert_array_equal(core.calibration["thresholds"], expected)
    risk = _core.empirical_risk(margins, prefers, expected)
    np.testing.assert_array_equal(done["empirical_risk"], risk)
    kept = calibrated.order_statistics(margins)
    np.testing.assert_array_equal(core.calibration["quantiles"], kept)
    del margins, p, c, prefers
    device = cr2fast.Router(core).device(lams[0], ALPHAS[0])
    rows = {"bare": [], "typicality": [], "whole": []}
    for _ in range(args.turns):
        for name, call in (
            ("bare", bare),
            ("typicality", lambda: device.p_values(x)),
            ("whole", whole),
        ):
            rows[name].append(timed(call)[:2])
    medians = {k: [statistics.median(v[i] for v in rows[k]) for i in (0, 1)] for k in rows}
    for name, (use, wall) in medians.items():
        print(f"{name:10} {use:7.3f} s of processor, {wall:7.3f} s")
    for i, kind in enumerate(("processor", "wall")):
        one, two, three = (medians[k][i] for k in ("bare", "typicality", "whole"))
        print(
            f"{kind}: the calibration takes {three / one:.3f} of bare, "
            f"{(three - two) / one:.3f} without the typicality scores"
        )
    print(f"memory above inputs: {risen / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
