"""cr2fast beside its peers, in one run: `make bench-peers`. Prints ratios; writes JSON on request.

Threads are fixed to one everywhere unless a row says otherwise. Every contender's answer is
compared with cr2fast's before anything is timed. Asked of each: one decision from an embedding, a
batch of 10,000, a sweep of 64 cost weights, and calibration thresholds.
"""

from __future__ import annotations

import os

THREADS = "1"
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = THREADS
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=1"
)

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import numpy as np  # noqa: E402
import oracle  # noqa: E402
from gates import jax_gate, numpy_gate, onnx_gate  # noqa: E402
from sklearn.neighbors import NearestNeighbors  # noqa: E402
from threadpoolctl import threadpool_info  # noqa: E402
from timing import compare, unit  # noqa: E402

import cr2fast  # noqa: E402
from cr2fast import _core  # noqa: E402
from cr2fast.datasets import make_routing_problem  # noqa: E402

LAM, ALPHA = 1.0, 0.01
ALPHAS = [0.002, 0.005, 0.01, 0.02, 0.05]
D, H, ROWS, NEIGHBOURS = 384, 256, 10_000, 12_000


def world():
    problem = make_routing_problem(n=3000, d=D)
    train, calibration, _ = problem.table.split()
    router = cr2fast.fit(
        train, problem.costs, teacher_epochs=2, gate_epochs=2, lr=3e-3, progress=False
    )
    router.calibrate(calibration)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NEIGHBOURS, D)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return router, np.ascontiguousarray(x)


def same(name, got, expected, tolerance=2e-4):
    worst = float(np.abs(np.asarray(got, float) - expected).max())
    assert worst < tolerance, f"{name} differs from cr2fast by {worst}"


def decisions(router, x):
    """One decision, then a batch: cr2fast, peers, limits."""
    device = router.device(LAM, ALPHA)
    w = oracle.read_tensors(router.to_bytes())
    gates = {
        "numpy": numpy_gate(w, LAM),
        "onnxruntime": onnx_gate(w, LAM, int(THREADS)),
        "jax jit": jax_gate(w, LAM),
    }
    expected = device.margins(x[:ROWS]).astype(float)
    for name, gate in gates.items():
        same(name, gate(x[:ROWS]), expected)
        same(name, gate(x[7:8]), expected[7:8])
    w1, one, batch = w["gate.w1"], x[7], x[:ROWS]
    knn = NearestNeighbors(n_neighbors=40, metric="cosine", algorithm="brute", n_jobs=1).fit(x)
    assert knn.kneighbors(one[None], return_distance=False)[0, 0] == 7
    # Matrix-factorisation heads on the same embedding: RouteLLM (128-d), EmbedLLM (232-d).
    rng = np.random.default_rng(1)
    proj = {n: rng.normal(size=(n, D)).astype(np.float32) for n in (128, 232)}
    model = {n: rng.normal(size=(4, n)).astype(np.float32) for n in (128, 232)}
    heads = {n: (lambda e, n=n: model[n] @ (proj[n] @ e)) for n in (128, 232)}
    single = {
        "cr2fast": lambda: device.route(one),
        "limit: bare 256x384 product": lambda: w1 @ one,
        **{name: (lambda g=g: g(x[7:8])) for name, g in gates.items()},
        "head alone: RouteLLM MF, numpy": lambda: heads[128](one),
        "head alone: EmbedLLM MF, numpy": lambda: heads[232](one),
        "KNN, scikit-learn, 12k rows": lambda: knn.kneighbors(one[None]),
    }
    many = {
        "cr2fast": lambda: device.margins(batch),
        "cr2fast, 2 threads": lambda: device.margins(batch, 2),
        "limit: bare X @ W.T": lambda: batch @ w1.T,
        "limit: memory copy of X": batch.copy,
        **{name: (lambda g=g: g(batch)) for name, g in gates.items()},
    }
    return {"one decision": compare(single), "batch of 10,000": compare(many, seconds=4)}


def sweep(router, x):
    """Margins at 64 cost weights for 12,000 rows."""
    lams = np.geomspace(0.1, 20, 64)
    w = oracle.read_tensors(router.to_bytes())
    sessions = [onnx_gate(w, lam, int(THREADS)) for lam in lams]
    margins = router.margins(x, lams, 1)
    for i in (0, 40, 63):
        same("onnxruntime", sessions[i](x), margins[i].astype(float), 1e-3)
    return {
        "64 cost weights x 12,000 rows": compare(
            {
                "cr2fast": lambda: router.margins(x, lams, 1),
                "onnxruntime, 64 runs": lambda: [s(x) for s in sessions],
            },
            seconds=6,
            rounds=3,
        )
    }


def loss_table(scores, prefers, alphas):
    """The search of the conformal-risk reference code: losses on a grid of thresholds, then a scan.

    After github.com/aangelopoulos/conformal-risk: a table of losses over candidate thresholds and
    the first that satisfies the corrected bound. Its answer is exact only up to the grid.
    """
    n = scores.shape[1]
    out = np.empty((len(scores), len(alphas)), np.float32)
    for i, (s, r) in enumerate(zip(scores, prefers, strict=True)):
        grid = np.linspace(s.min(), s.max(), 1000, dtype=np.float32)
        risk = np.array([(r & (s >= t)).mean() for t in grid])
        corrected = (n * risk + 1) / (n + 1)
        for j, a in enumerate(alphas):
            out[i, j] = grid[np.argmax(corrected <= a)]
    return out


def calibration():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(64, 100_000)).astype(np.float32)
    prefers = rng.random((64, 100_000)) < 0.5
    ours = cr2fast.crc_thresholds(scores, prefers, ALPHAS)
    np.testing.assert_array_equal(ours, oracle.crc_thresholds_by_sorting(scores, prefers, ALPHAS))
    few = slice(0, 2)
    step = np.ptp(scores[0]) / 999
    gap = loss_table(scores[few], prefers[few], ALPHAS) - ours[few]
    assert gap.min() >= 0, "the grid search keeps the bound"
    assert gap.max() <= 1.5 * step, "the grid search is off by over a step"
    times = compare(
        {
            "cr2fast": lambda: cr2fast.crc_thresholds(scores, prefers, ALPHAS),
            "cr2fast, 2 threads": lambda: cr2fast.crc_thresholds(
                scores, prefers, ALPHAS, threads=2
            ),
            "limit: memory copy of scores": scores.copy,
            "numpy sort": lambda: oracle.crc_thresholds_by_sorting(scores, prefers, ALPHAS),
        },
        seconds=4,
        rounds=9,
    )
    table = compare({"t": lambda: loss_table(scores[few], prefers[few], ALPHAS)}, rounds=3)
    times["loss-table search, 1000 steps (2 of 64 rows, scaled)"] = table["t"] * 32
    return {"thresholds, 64 x 100,000 x 5 alphas": times}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if _core.build_profile() != "release":
        sys.exit("peers: expected a release build of cr2fast, got debug")
    router, x = world()
    results = decisions(router, x) | sweep(router, x) | calibration()
    blas = {
        f"{t['internal_api']} {t['version']} ({t.get('architecture')})" for t in threadpool_info()
    }
    about = {
        "machine": platform.machine(), "python": platform.python_version(),
        "numpy": np.__version__, "simd": _core.simd_level(), "threads": THREADS,
        "blas": sorted(blas),
    }  # fmt: skip
    print(about)
    for task, times in results.items():
        print(f"\n{task}")
        ours = times["cr2fast"]
        for name, t in sorted(times.items(), key=lambda kv: kv[1]):
            print(f"  {name:55s} {unit(t):>9s}   {t / ours:8.2f} x cr2fast")
    if args.out:
        args.out.write_text(json.dumps({"about": about, "seconds": results}, indent=1))


if __name__ == "__main__":
    main()
