"""The gate's margins: against plain NumPy, and the same bits from every way of asking."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import cr2fast
from testing import oracle

LAMS = [0.1, 0.7, 1.0, 20.0]


@pytest.fixture(scope="module")
def tensors(artifact):
    return oracle.read_tensors(artifact.read_bytes())


def test_margins_equal_plain_numpy(fitted, tensors, problem):
    x = problem.table.embeddings[:200]
    expected = oracle.gate_margins(tensors, x, LAMS)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(fitted.margins(x, LAMS), expected, atol=2e-5)


@settings(max_examples=30)
@given(arrays(np.float32, (3, 40), elements=st.floats(-50, 50, width=32)))
def test_margins_equal_plain_numpy_on_any_input(fitted, tensors, x):
    expected = oracle.gate_margins(tensors, x, LAMS)
    # LayerNorm divides the rounding of the mean by at least sqrt(1e-5): 316 roundings of |x| a unit.
    slack = 1e-4 * max(1.0, np.abs(expected).max()) + 20 * 316 * 6e-8 * np.abs(x).max()
    np.testing.assert_allclose(fitted.margins(x, LAMS), expected, atol=slack)


def test_single_batch_threads_and_grid_give_the_same_bits(artifact, router, problem):
    x = problem.table.embeddings
    for lam in (0.1, 1.0, 20.0):
        device = cr2fast.DeviceRouter.load(artifact, lam, 0.05)
        batch = device.margins(x)
        for threads in (2, 3, 0):
            np.testing.assert_array_equal(device.margins(x, threads), batch)
        np.testing.assert_array_equal(router.margins(x, [0.3, lam])[1], batch)
        for i in range(0, len(x), 97):
            assert device.route(x[i]).margin == batch[i]
            assert device.margins(x[i : i + 7])[0] == batch[i]
        np.testing.assert_array_equal(device.route_batch(x), batch >= device.threshold)


def test_permuting_rows_permutes_margins(router, problem):
    x = problem.table.embeddings[:300]
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(
        router.margins(np.ascontiguousarray(x[order]), LAMS), router.margins(x, LAMS)[:, order]
    )


_HASH = """
import hashlib, sys, numpy as np, cr2fast
from cr2fast import _core
x = np.load(sys.argv[2])
r = cr2fast.Router.load(sys.argv[1])
out = r.margins(x, [0.1, 1.0, 20.0]).tobytes() + r.accuracies(x).tobytes()
print(_core.simd_isa(), hashlib.sha256(out).hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits(artifact, problem, tmp_path):
    np.save(tmp_path / "x.npy", problem.table.embeddings)
    seen, refused = {}, []
    for isa in ("scalar", "avx2", "avx512", "neon", "", "avx1024"):
        result = subprocess.run(
            [sys.executable, "-c", _HASH, artifact, tmp_path / "x.npy"],
            env=os.environ | {"CR2FAST_SIMD": isa},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            # What this processor does not have is an error, not another path taken in silence.
            assert "CR2FAST_SIMD: expected unset, or what this processor has (" in result.stderr
            assert result.stderr.rstrip().endswith(f'got "{isa}"')
            refused.append(isa)
            continue
        name, digest = result.stdout.split()
        seen[name] = digest
    assert "avx1024" in refused
    assert "scalar" in seen
    assert "scalar" not in refused
    assert len(seen) >= 2, f"this machine has no vector path to compare with: {seen}"
    assert len(set(seen.values())) == 1, seen


def test_one_router_serves_sixteen_threads(artifact, problem):
    device = cr2fast.DeviceRouter.load(artifact, 1.0, 0.05)
    x = problem.table.embeddings[:400]
    expected = device.margins(x)

    def work(k):
        return [device.route(x[i]).margin == expected[i] for i in range(k, 400, 16)] + [
            bool((device.margins(x) == expected).all())
        ]

    with ThreadPoolExecutor(16) as pool:
        assert all(all(part) for part in pool.map(work, range(16)))


def test_huge_but_finite_embeddings_never_give_a_silent_nan(router):
    x = np.full((1, 40), 3e38, np.float32)
    x[0, ::2] = -3e38
    with pytest.raises(cr2fast.Cr2Error, match="margin .*finite"):
        router.margins(x, [1.0])


@pytest.mark.parametrize("size", [1e18, -1e18, 3e19])
def test_a_variance_that_overflows_is_an_error_not_a_row_of_zeros(fitted, problem, size):
    x = (problem.table.embeddings[:2] * size).astype(np.float32)
    assert np.isfinite(x).all()
    if abs(size) > 1e18:
        with pytest.raises(cr2fast.Cr2Error, match="margin .*too large in magnitude"):
            fitted.margins(x, [1.0])
        with pytest.raises(cr2fast.Cr2Error, match="accuracy .*too large in magnitude"):
            fitted.accuracies(x)
    else:
        # Large, but its variance still fits: LayerNorm takes the size away.
        expected = fitted.margins(problem.table.embeddings[:2] * np.float32(np.sign(size)), [1.0])
        np.testing.assert_allclose(fitted.margins(x, [1.0]), expected, atol=0.2)


def test_no_rows_and_no_lams_give_empty_answers(router):
    assert router.margins(np.empty((0, 40), np.float32), LAMS).shape == (4, 0)
    assert router.margins(np.zeros((3, 40), np.float32), []).shape == (0, 3)


def test_a_constant_embedding_has_a_margin(router, tensors):
    x = np.full((1, 40), 0.5, np.float32)
    expected = oracle.gate_margins(tensors, x, LAMS)
    np.testing.assert_allclose(router.margins(x, LAMS), expected, atol=2e-5)


@pytest.mark.parametrize("lam", [0.0, -1.0, np.nan, np.inf])
def test_bad_lam_is_named(router, lam):
    with pytest.raises(cr2fast.Cr2Error, match="lam: expected a positive, finite cost weight"):
        router.margins(np.zeros((1, 40), np.float32), [lam])
