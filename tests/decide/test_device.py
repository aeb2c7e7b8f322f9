"""DeviceRouter: decisions at one operating point, and what it refuses."""

from __future__ import annotations

import math
import sys
import threading
import time

import numpy as np
import pytest

import cr2fast


@pytest.fixture(scope="module")
def device(artifact):
    return cr2fast.DeviceRouter.load(artifact, lam=1.0, alpha=0.05)


def test_a_decision_explains_itself(device, problem):
    x = problem.table.embeddings[3]
    d = device.route(x)
    assert d.local == (d.margin >= d.threshold)
    assert 0 <= d.score <= 1
    assert d == device.route(x)
    assert repr(d).startswith("Decision(local=")
    assert device.dim == 40
    assert (device.lam, device.alpha) == (1.0, 0.05)


def test_scores_keep_the_order_of_margins(device, router, problem):
    decisions = [device.route(x) for x in problem.table.embeddings[:100]]
    temperature = router.training["temperature"]
    for d in decisions:
        assert d.score == pytest.approx(1 / (1 + math.exp(-d.margin / temperature)))


def test_both_answers_occur(device, problem):
    local = device.route_batch(problem.table.embeddings)
    assert local.dtype == bool
    assert 0 < local.mean() < 1


def test_alpha_orders_the_thresholds(artifact):
    taus = [cr2fast.DeviceRouter.load(artifact, 1.0, a).threshold for a in (0.01, 0.05, 0.1)]
    assert taus == sorted(taus, reverse=True)


def test_an_empty_batch_is_empty(device):
    assert device.route_batch(np.empty((0, 40), np.float32)).shape == (0,)


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (np.zeros(39, np.float32), ValueError, "embedding: expected length 40, got length 39"),
        (np.zeros(40), TypeError, r"embedding: expected a float32 .*float64 with shape \[40\]"),
        (np.zeros(40, np.float16), TypeError, "float16"),
        (np.zeros((1, 40), np.float32), ValueError, "one dimension"),
        ([0.0] * 40, TypeError, "embedding: .*got list"),
        (None, TypeError, "embedding: .*got NoneType"),
        (
            np.full(40, np.nan, np.float32),
            ValueError,
            "embedding: expected finite numbers, got NaN at",
        ),
        (
            np.full(40, np.inf, np.float32),
            ValueError,
            "embedding: expected finite numbers, got inf",
        ),
        (np.zeros(0, np.float32), ValueError, "expected length 40, got length 0"),
    ],
)
def test_bad_embeddings_are_named(device, x, kind, words):
    with pytest.raises(kind, match=words):
        device.route(x)


def test_bad_batches_are_named(device):
    x = np.zeros((3, 40), np.float32)
    x[2, 5] = np.nan
    with pytest.raises(
        cr2fast.Cr2Error, match="embeddings: expected finite numbers, got NaN at flat index 85"
    ):
        device.margins(x)
    with pytest.raises(cr2fast.Cr2Error, match=r"expected shape \(N, 40\), got \[3, 20\]"):
        device.route_batch(np.zeros((3, 20), np.float32))


def test_strided_and_readonly_embeddings_are_read_right(device, problem):
    x = problem.table.embeddings[:10]
    wide = np.repeat(x, 2, axis=1)
    expected = device.margins(x)
    np.testing.assert_array_equal(device.margins(wide[:, ::2]), expected)
    assert device.route(wide[0, ::2]).margin == expected[0]
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(device.margins(frozen), expected)


def test_unaligned_embeddings_are_read_right(device, problem):
    """A vector cut out of a byte buffer, as a network service has it."""
    x = problem.table.embeddings[0]
    unaligned = np.frombuffer(b"\x00" + x.tobytes(), np.float32, offset=1)
    assert not unaligned.flags.aligned
    assert device.route(unaligned) == device.route(x)


def test_operating_points_off_the_grid_name_the_nearest(artifact):
    with pytest.raises(
        cr2fast.OperatingPointError, match="lam=0.95 is not on the calibrated grid.*0.78 and 1"
    ):
        cr2fast.DeviceRouter.load(artifact, 0.95, 0.05)
    with pytest.raises(cr2fast.OperatingPointError, match="lam=500 .*nearest 20"):
        cr2fast.DeviceRouter.load(artifact, 500.0, 0.05)
    with pytest.raises(
        cr2fast.OperatingPointError, match=r"alpha=0.03 is not calibrated: .*\[0.01, 0.05, 0.1\]"
    ):
        cr2fast.DeviceRouter.load(artifact, 1.0, 0.03)
    with pytest.raises(cr2fast.Cr2Error, match="alpha: expected a risk level"):
        cr2fast.DeviceRouter.load(artifact, 1.0, 0.0)
    with pytest.raises(cr2fast.Cr2Error, match="lam: expected a positive"):
        cr2fast.DeviceRouter.load(artifact, float("nan"), 0.05)


def test_another_encoder_is_refused(artifact):
    load = cr2fast.DeviceRouter.load
    right = cr2fast.EncoderInfo("synthetic embeddings, d=40")
    assert load(artifact, 1.0, 0.05, encoder=right).route(np.zeros(40, np.float32))
    with pytest.raises(cr2fast.ArtifactError, match="fitted on embeddings of synthetic.*got other"):
        load(artifact, 1.0, 0.05, encoder=cr2fast.EncoderInfo("other"))


def test_python_runs_while_a_batch_runs(device):
    """Nothing takes the GIL from its holder here, so another thread has turns only where it is let go."""
    x = np.random.default_rng(0).normal(size=(100_000, 40)).astype(np.float32)
    turns, done, interval = [0], threading.Event(), sys.getswitchinterval()

    def count():
        while not done.is_set():
            turns[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    sys.setswitchinterval(1000)
    try:
        thread.start()
        before = turns[0]
        # On a busy machine a call may end before the other thread has a core.
        for _ in range(1000):
            device.margins(x)
            if turns[0] > before:
                break
        during = turns[0] - before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert during > 0
