"""Times of what a service calls, full size (d = 384, h = 256, 4 models). `make bench`.

Every benchmark asserts the right answer before it is timed. No test asserts a time.
"""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    problem = make_routing_problem(n=3000, d=384)
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
    path = tmp_path_factory.mktemp("bench") / "router.safetensors"
    router.save(path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 384)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return path, router, np.ascontiguousarray(x)


def test_one_decision(benchmark, world):
    path, _, x = world
    device = cr2fast.DeviceRouter.load(path, 1.0, 0.01)
    assert device.route(x[7]).margin == device.margins(x)[7]
    benchmark(device.route, x[7])


def test_numpy_gate_beside_it(benchmark, world):
    """The same decision as a NumPy user would write it, float32."""
    from testing import oracle

    path, _, x = world
    w = oracle.read_tensors(path.read_bytes())
    film = (w["gate.film.weight"] @ oracle.psi(1.0) + w["gate.film.bias"]).astype(np.float32)
    gamma, beta = np.split(film, 2)
    from math import erf

    table = np.linspace(-6, 6, 4001)
    phi = np.array([0.5 * (1 + erf(v / np.sqrt(2))) for v in table], np.float32)

    def decide(e):
        c = e - e.mean()
        z = c / np.sqrt((c * c).mean() + 1e-5) * w["gate.ln.weight"] + w["gate.ln.bias"]
        h = gamma * (w["gate.w1"] @ z + w["gate.b1"]) + beta
        return (h * np.interp(h, table, phi)) @ w["gate.w2"] + w["gate.b2"][0]

    device = cr2fast.DeviceRouter.load(path, 1.0, 0.01)
    assert abs(decide(x[7]) - device.route(x[7]).margin) < 1e-3
    benchmark(decide, x[7])


def test_bare_product_beside_it(benchmark, world):
    """The floor: only NumPy's 256 x 384 matrix-vector product."""
    w = np.random.default_rng(1).normal(size=(256, 384)).astype(np.float32)
    _, _, x = world
    np.testing.assert_allclose(w @ x[7], w.astype(float) @ x[7], atol=1e-4)
    benchmark(np.matmul, w, x[7])


@pytest.mark.parametrize("threads", [1, 2])
def test_batch_of_ten_thousand(benchmark, world, threads):
    path, _, x = world
    device = cr2fast.DeviceRouter.load(path, 1.0, 0.01)
    assert device.margins(x, threads)[123] == device.route(x[123]).margin
    benchmark(device.margins, x, threads)


def test_one_selection(benchmark, world):
    path, router, x = world
    edge = cr2fast.EdgeSelector.load(path, 1.0)
    state = cr2fast.LinkState(20e6, 80e6, 0.018)
    chosen = edge.select(x[7], 100, state)
    assert chosen.accuracy == router.accuracies(x[7:8])[0, router.models.index(chosen.model)]
    benchmark(edge.select, x[7], 100, state)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("models", [4, 16, 64])
def test_one_selection_among_many_models(benchmark, models, weights):
    """Time per model should not depend on how many there are."""
    problem = make_routing_problem(n=400, d=384, models=models + 1)
    router = cr2fast.fit(
        problem.table,
        problem.costs,
        recipe="paper",
        teacher_epochs=1,
        gate_epochs=1,
        progress=False,
    )
    router = router.to_bfloat16() if weights == "bfloat16" else router
    edge, x = router.edge(1.0), problem.table.embeddings
    states = problem.costs.sample_states(len(x), 0)
    batch = edge.select_batch(x, np.full(len(x), 100, np.uint32), states)
    assert edge.select(x[7], 100, states[7]).utility == batch.utility[7]
    benchmark(edge.select, x[7], 100, states[7])


def test_crc_thresholds(benchmark):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(64, 100_000)).astype(np.float32)
    prefers = rng.random((64, 100_000)) < 0.5
    alphas = [0.002, 0.005, 0.01, 0.02, 0.05]
    tau = cr2fast.crc_thresholds(scores, prefers, alphas)
    k = int(0.01 * 100_001) - 1
    top = np.sort(scores[3][prefers[3]])[::-1]
    assert tau[3, 2] == np.nextafter(top[k], np.float32(np.inf))
    benchmark(cr2fast.crc_thresholds, scores, prefers, alphas)


def test_load(benchmark, world):
    path, _, x = world
    assert cr2fast.DeviceRouter.load(path, 1.0, 0.01).dim == x.shape[1]
    benchmark(cr2fast.DeviceRouter.load, path, 1.0, 0.01)
