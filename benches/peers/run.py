"""cr2fast beside its peers, in one run: `make bench-peers`. Prints ratios; writes JSON on request.

Everything runs on one core, which binds libraries that ignore their thread settings too, unless a
row says two threads. Every contender's answer is compared with cr2fast's before anything is timed.
Asked of each: one decision from an embedding, a batch of 10,000, a sweep of 64 cost weights, an
edge model for a deferred query, calibration thresholds, and training (`fit.py`).
"""

from __future__ import annotations

import os

THREADS = "1"
CORES = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, CORES[:1])
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = THREADS
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=1"
)

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from sklearn.neighbors import NearestNeighbors  # noqa: E402
from threadpoolctl import threadpool_info  # noqa: E402

import cr2fast  # noqa: E402
from benches.peers.calibration import loss_table, mapie  # noqa: E402
from benches.peers.gates import jax_gate, numpy_gate, onnx_gate  # noqa: E402
from cr2fast import _core  # noqa: E402
from cr2fast.datasets import make_routing_problem  # noqa: E402
from testing import oracle  # noqa: E402
from testing.timing import Time, compare, unit  # noqa: E402

LAM, ALPHA = 1.0, 0.01
ALPHAS = [0.002, 0.005, 0.01, 0.02, 0.05]
D, H, ROWS, NEIGHBOURS = 384, 256, 10_000, 12_000


def world():
    problem = make_routing_problem(n=3000, d=D)
    train, calibration, _ = problem.table.split()
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        teacher_epochs=2,
        gate_epochs=2,
        lr=3e-3,
        progress=False,
    )
    router.calibrate(calibration)
    small = router.to_bfloat16()
    small.calibrate(calibration)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NEIGHBOURS, D)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return router, small, np.ascontiguousarray(x)


def on_two_cores(call):
    """The call with two cores to run on: threads that it starts inherit them."""

    def run():
        os.sched_setaffinity(0, CORES[:2])
        call()
        os.sched_setaffinity(0, CORES[:1])

    return run


def same(name, got, expected, tolerance=2e-4):
    worst = float(np.abs(np.asarray(got, float) - expected).max())
    assert worst < tolerance, f"{name} differs from cr2fast by {worst}"


def decisions(router, small, x):
    """One decision, then a batch: cr2fast, peers, limits."""
    device, small = (r.device(LAM, ALPHA) for r in (router, small))
    w = oracle.read_tensors(router.to_bytes())
    gates = {
        "numpy": numpy_gate(w, LAM),
        "onnxruntime": onnx_gate(w, LAM, int(THREADS)),
        "jax jit": jax_gate(w, LAM),
    }
    expected = device.margins(x[:ROWS]).astype(float)
    same("bfloat16 weights", small.margins(x[:ROWS]), expected, 0.05 * expected.std())
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
        "cr2fast, bfloat16 weights": lambda: small.route(one),
        "limit: bare 256x384 product": lambda: w1 @ one,
        **{name: (lambda g=g: g(x[7:8])) for name, g in gates.items()},
        "head alone: RouteLLM MF, numpy": lambda: heads[128](one),
        "head alone: EmbedLLM MF, numpy": lambda: heads[232](one),
        "KNN, scikit-learn, 12k rows": lambda: knn.kneighbors(one[None]),
    }
    many = {
        "cr2fast": lambda: device.margins(batch),
        "cr2fast, bfloat16 weights": lambda: small.margins(batch),
        "cr2fast, 2 threads": on_two_cores(lambda: device.margins(batch, 2)),
        "limit: bare X @ W.T": lambda: batch @ w1.T,
        "limit: memory copy of X": batch.copy,
        **{name: (lambda g=g: g(batch)) for name, g in gates.items()},
    }
    return {
        "one decision": compare(single, rounds=500),
        "batch of 10,000": compare(many, seconds=8),
    }


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
            rounds=5,
        )
    }


def selection(router, small, x):
    """An edge model for a deferred query, link state given."""
    rng = np.random.default_rng(2)
    state = cr2fast.LinkState(20e6, 80e6, 0.018)
    edge, small = router.edge(LAM), small.edge(LAM)
    stacked = rng.normal(size=(len(router.models) * H, D)).astype(np.float32)
    one = x[7]
    chosen = edge.select(one, 100, state)
    assert chosen.accuracy == router.accuracies(x[7:8])[0, router.models.index(chosen.model)]
    return {
        "edge model of 4": compare(
            {
                "cr2fast": lambda: edge.select(one, 100, state),
                "cr2fast, bfloat16 weights": lambda: small.select(one, 100, state),
                "limit: bare product of 4 heads": lambda: stacked @ one,
            },
            rounds=500,
        )
    }


def start(router, folder):
    """What a device pays once: the import beyond numpy's, and an artifact."""
    path = folder / "router.safetensors"
    router.save(path)
    code = (
        "import time, numpy; t = time.perf_counter(); import cr2fast; "
        "print(time.perf_counter() - t)"
    )
    imports = [
        float(subprocess.check_output([sys.executable, "-c", code], cwd=folder)) for _ in range(9)
    ]
    times = compare({"cr2fast": lambda: cr2fast.DeviceRouter.load(path, LAM, ALPHA)})
    return {"load an artifact": times | {"import cr2fast, numpy imported": Time.of(imports)}}


def calibration():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(64, 100_000)).astype(np.float32)
    prefers = rng.random((64, 100_000)) < 0.5
    ours = cr2fast.crc_thresholds(scores, prefers, ALPHAS)
    np.testing.assert_array_equal(ours, oracle.crc_thresholds_by_sorting(scores, prefers, ALPHAS))
    few = slice(0, 2)
    for search, steps in ((loss_table, 1000), (mapie, 100)):
        gap = search(scores[few], prefers[few], ALPHAS) - ours[few]
        assert gap.min() >= 0, f"{search.__name__} keeps the bound"
        assert gap.max() <= 1.5 * np.ptp(scores[few], axis=1).max() / (steps - 1), search.__name__
    times = compare(
        {
            "cr2fast": lambda: cr2fast.crc_thresholds(scores, prefers, ALPHAS),
            "cr2fast, 2 threads": on_two_cores(
                lambda: cr2fast.crc_thresholds(scores, prefers, ALPHAS, threads=2)
            ),
            "limit: memory copy of scores": scores.copy,
            "numpy sort": lambda: oracle.crc_thresholds_by_sorting(scores, prefers, ALPHAS),
        },
        seconds=4,
        rounds=15,
    )
    for name, search in (
        ("loss-table search, 1000 steps", loss_table),
        ("MAPIE, 100 steps", mapie),
    ):
        slow = compare({"t": lambda s=search: s(scores[few], prefers[few], ALPHAS)}, rounds=3)
        times[f"{name} (2 of 64 rows, scaled)"] = slow["t"].scaled(32)
    sizes = {}
    # Several rows: the branch predictor would learn a single one by heart.
    for rows, n in ((64, 10_000), (64, 100_000), (64, 1_000_000), (8, 10_000_000)):
        s = rng.random(size=(rows, n), dtype=np.float32)
        r = rng.integers(0, 2, size=(rows, n), dtype=np.uint8).view(bool)
        assert np.array_equal(
            cr2fast.crc_thresholds(s[-1:], r[-1:], ALPHAS),
            oracle.crc_thresholds_by_sorting(s[-1:], r[-1:], ALPHAS),
        )
        call = compare({"t": lambda s=s, r=r: cr2fast.crc_thresholds(s, r, ALPHAS)}, rounds=15)
        sizes[f"{rows} rows of {n:,}, a sample"] = call["t"].scaled(1 / (rows * n))
    sizes["cr2fast"] = sizes["64 rows of 100,000, a sample"]
    return {"thresholds, 64 x 100,000 x 5 alphas": times, "thresholds by size": sizes}


def training():
    """Steps of both networks beside JAX, in a process of its own."""
    os.sched_setaffinity(0, CORES[:2])
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS" and "NUM_THREADS" not in k}
    command = [sys.executable, "-m", "benches.peers.fit"]
    root = Path(__file__).parents[2]
    printed = subprocess.check_output(command, env=env, text=True, cwd=root)
    stages = json.loads(printed).items()
    return {stage: {name: Time(*t) for name, t in both.items()} for stage, both in stages}


def machine():
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def commit():
    """The commit timed, with a + when files differ from it."""
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--exclude=*",
    ]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if _core.build_profile() != "release":
        sys.exit("peers: expected a release build of cr2fast, got debug")
    router, small, x = world()
    load = os.getloadavg()
    results = (
        decisions(router, small, x) | sweep(router, x) | selection(router, small, x) | calibration()
    )
    with tempfile.TemporaryDirectory() as folder:
        results |= start(router, Path(folder))
    results |= training()
    blas = {
        f"{t['internal_api']} {t['version']} ({t.get('architecture')})" for t in threadpool_info()
    }
    about = {
        "machine": f"{machine()}, {len(CORES)} cores", "commit": commit(),
        "cr2fast": cr2fast.__version__, "profile": _core.build_profile(),
        "python": platform.python_version(), "numpy": np.__version__, "simd": _core.simd_isa(),
        "threads": THREADS, "blas": sorted(blas), "load": load,
        "left out": "eager torch: its Linux wheel on the default index brings gigabytes of CUDA",
    }  # fmt: skip
    print(about)
    print(
        "\nSeconds per call, the median of all turns; then multiples of cr2fast's: medians, leasts."
    )
    for task, times in results.items():
        print(f"\n{task}")
        ours = times["cr2fast"]
        for name, t in sorted(times.items(), key=lambda kv: kv[1]):
            ratios = f"{t.median / ours.median:9.2f} {t.least / ours.least:9.2f}"
            print(f"  {name:55s} {unit(t.median):>9s} {ratios}")
    if args.out:
        seconds = {k: {n: t._asdict() for n, t in times.items()} for k, times in results.items()}
        args.out.write_text(json.dumps({"about": about, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
