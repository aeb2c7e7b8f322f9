"""The rolling threshold against its definition, its bound on any sequence, and its state."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast import RollingThreshold
from testing import oracle

RANGE = {"low": -1.0, "high": 1.0, "step": 0.2}
LABELS = st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=1, max_size=200)


def arrays(labels):
    margins, prefers = zip(*labels, strict=True)
    return np.array(margins, np.float32), np.array(prefers, bool)


@given(
    LABELS,
    st.floats(0.001, 0.9),
    st.floats(-1, 1) | st.sampled_from([-np.inf, np.inf]),
    st.floats(0.5, 0.99),
)
def test_thresholds_are_the_definition(labels, alpha, start, decay):
    margins, prefers = arrays(labels)
    rolling = RollingThreshold(alpha, start, decay=decay, **RANGE)
    expected, losses = oracle.rolling(alpha, start, margins, prefers, decay=decay, **RANGE)
    served = [rolling.threshold, *(rolling.update(float(m), bool(r)) for m, r in labels)]
    # Equal losses unless a margin lies within rounding of a threshold.
    if (np.abs(margins - expected[:-1]) > 1e-6).all():
        np.testing.assert_allclose(served, expected, rtol=1e-6, atol=1e-7)
        assert rolling.losses == losses.sum()
    assert rolling.n == rolling.since_restart == len(labels)


@given(LABELS, st.floats(0.01, 0.5), st.integers(1, 20), st.floats(0.5, 0.99))
def test_the_bound_holds_for_any_sequence_and_any_delay(labels, alpha, batch, decay):
    """An adversary answers the present threshold; labels come in batches of any size."""
    rolling = RollingThreshold(alpha, 0.0, decay=decay, **RANGE)
    margins, prefers = arrays(labels)
    for at in range(0, len(labels), batch):
        rolling.update_batch(margins[at : at + batch], prefers[at : at + batch])
        risk = rolling.losses / rolling.n
        assert risk <= rolling.long_run_bound(late=batch - 1) + 1e-12
    assert rolling.long_run_bound(10**12) < rolling.long_run_bound(10**6)


@pytest.mark.parametrize("restart", [None, 700])
def test_the_bound_holds_against_the_worst(restart):
    """Nothing to lose until the threshold is at its floor, then every query is lost if accepted."""
    rolling = RollingThreshold(0.1, 1.0, **RANGE)
    for t in range(6000):
        lose = t > 3000
        rolling.update(1.0 if lose else 0.0, lose)
        if restart and t % restart == 0:
            rolling.restart()
        assert rolling.losses / rolling.n <= rolling.long_run_bound()
    assert rolling.losses > 100


def test_late_labels_are_judged_by_the_threshold_that_decided():
    margins = np.linspace(-0.5, 0.5, 40, dtype=np.float32)
    prefers = np.arange(40) % 3 == 0
    decided = np.linspace(-1, 1, 40, dtype=np.float32)
    rolling = RollingThreshold(0.1, 0.0, **RANGE)
    last = rolling.update_batch(margins, prefers, decided)
    expected, losses = oracle.rolling(0.1, 0.0, margins, prefers, decided_by=decided, **RANGE)
    assert last == pytest.approx(expected[-1], abs=1e-6)
    assert rolling.losses == losses.sum() > 0
    one = RollingThreshold(0.1, 0.0, **RANGE)
    for m, r, d in zip(margins, prefers, decided, strict=True):
        one.update(m, r, d)
    assert one == rolling
    # A batch without thresholds was decided by the one that stood before it, all of it.
    a, b = (RollingThreshold(0.1, 0.0, **RANGE) for _ in range(2))
    a.update_batch(margins, prefers)
    b.update_batch(margins, prefers, 0.0)
    assert a == b


def test_it_comes_to_alpha_on_a_steady_stream_and_after_a_change():
    rng = np.random.default_rng(0)
    margins = rng.random(30_000).astype(np.float32)
    prefers = rng.random(30_000) < 1 - margins
    prefers[15_000:] = rng.random(15_000) < 1.4 * (1 - margins[15_000:])
    rolling = RollingThreshold(0.05, 0.6, low=0, high=1)
    losses = []
    for m, r in zip(margins, prefers, strict=True):
        losses.append(r and m >= rolling.threshold)
        rolling.update(m, r)
    for part in (losses[2000:15_000], losses[17_000:]):
        assert np.mean(part) == pytest.approx(0.05, abs=0.01)


def test_starts():
    with pytest.raises(cr2fast.Cr2Error, match="start: expected a finite margin .* low and high"):
        RollingThreshold(0.05, np.inf)
    deferring = RollingThreshold(0.05, np.inf, low=-1, high=1)
    assert deferring.threshold == np.nextafter(np.float32(1), np.float32(2))
    assert RollingThreshold(0.05, -np.inf, low=-1, high=1).threshold == -1
    by_default = RollingThreshold(alpha=0.05, start=0.25)
    assert (by_default.low, by_default.high, by_default.step) == (-0.75, 1.25, 0.2)
    assert by_default.decay == 0.6
    assert by_default.long_run_bound() == np.inf
    for bad in (
        {"low": 1.0, "high": 1.0},
        {"low": np.nan},
        {"high": np.inf},
        {"step": 0.0},
        {"step": 3.0},
        {"step": np.nan},
        {"decay": 1.0},
        {"decay": 0.4},
        {"decay": np.nan},
        {"start": np.nan},
        {"alpha": 0.0},
        {"alpha": np.nan},
    ):
        with pytest.raises(cr2fast.Cr2Error, match="expected"):
            RollingThreshold(**{"alpha": 0.05, "start": 0.0} | bad)


def test_bad_labels_change_nothing():
    rolling = RollingThreshold(0.05, 0.0)
    rolling.update(0.5, True)
    state = rolling.to_bytes()
    x, r = np.zeros(3, np.float32), np.zeros(3, bool)
    for call in (
        lambda: rolling.update(np.nan, True),
        lambda: rolling.update(1e300, True),
        lambda: rolling.update(0.0, True, np.nan),
        lambda: rolling.update_batch(np.array([0, np.inf, 0], np.float32), r),
        lambda: rolling.update_batch(x, r[:2]),
        lambda: rolling.update_batch(x, r, x[:2]),
        lambda: rolling.update_batch(x, r, np.full(3, np.nan, np.float32)),
        lambda: rolling.update_batch(x[None], r[None]),
        lambda: rolling.update_batch(x, np.full(3, 2, np.uint8).view(bool)),
        lambda: rolling.restart(np.nan),
        lambda: rolling.long_run_bound(0),
    ):
        with pytest.raises(cr2fast.Cr2Error) as e:
            call()
        assert len(str(e.value)) < 400
    for call in (
        lambda: rolling.update(0.0, 1),
        lambda: rolling.update("0", True),
        lambda: rolling.update_batch(x.astype(float), r),
        lambda: rolling.update_batch(x, r.astype(int)),
    ):
        with pytest.raises(TypeError):
            call()
    assert rolling.to_bytes() == state


def test_merged_states():
    rng = np.random.default_rng(1)

    def state(n, start):
        out = RollingThreshold(0.05, start, low=-1, high=1)
        for m, r in zip(rng.random(n), rng.random(n) < 0.4, strict=True):
            out.update(m, r)
        return out

    a, b, fresh = state(300, 0.2), state(100, 0.4), state(0, 0.9)
    both = a.merge(b)
    assert both.threshold == pytest.approx((3 * a.threshold + b.threshold) / 4, abs=1e-6)
    assert (both.n, both.losses) == (400, a.losses + b.losses)
    assert both == b.merge(a)
    assert both.losses / both.n <= both.long_run_bound() < np.inf
    assert a.merge(fresh).threshold == fresh.merge(a).threshold == a.threshold
    for other, words in [
        (RollingThreshold(0.1, 0.0, low=-1, high=1), "same alpha, 0.05, got 0.1"),
        (RollingThreshold(0.05, 0.0, low=-2, high=1), "moves alike"),
    ]:
        with pytest.raises(cr2fast.Cr2Error, match=words):
            a.merge(other)


def test_state_files():
    rolling = RollingThreshold(0.05, 0.0)
    rolling.update_batch(np.float32([0.1, 0.2, -0.3]), np.array([True, False, True]))
    rolling.restart(0.1)
    rolling.update(0.4, True)
    data = rolling.to_bytes()
    assert len(data) < 200
    for again in (pickle.loads(pickle.dumps(rolling)), copy.copy(rolling), copy.deepcopy(rolling)):
        assert again == rolling
        again.update(0.0, False)
        assert again != rolling, "a copy is a state of its own"
    assert RollingThreshold.from_bytes(data, alpha=0.05) == rolling
    with pytest.raises(
        cr2fast.StateError, match="expected alpha 0.01, got 0.05; start a new state"
    ):
        RollingThreshold.from_bytes(data, alpha=0.01)
    for bad in (b"", data[:-1], data + b"\0", cr2fast.RiskAlarm(0.05, 0.01).to_bytes()):
        with pytest.raises(cr2fast.StateError):
            RollingThreshold.from_bytes(bad)


@given(st.data())
def test_no_bytes_crash_it(data):
    whole = RollingThreshold(0.05, 0.0).to_bytes()
    good = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    bad = bytes(good)[: data.draw(st.integers(0, len(good)))] + data.draw(st.binary(max_size=4))
    if bad != whole:
        with pytest.raises(cr2fast.StateError):
            RollingThreshold.from_bytes(bad)


@pytest.mark.parametrize("start", [-2.0, 3.0])
def test_a_start_outside_the_range_is_refused(start):
    with pytest.raises(cr2fast.Cr2Error, match="start: expected a margin from low to high"):
        RollingThreshold(alpha=0.05, start=start, low=-1.0, high=1.0)


@pytest.mark.parametrize("margin", [1e308, -1e308])
def test_a_margin_of_three_hundred_digits_is_shown_in_few(margin):
    rolling = RollingThreshold(0.05, 0.1)
    with pytest.raises(
        cr2fast.Cr2Error, match=f"expected a finite margin, got {margin:g}".replace("+", "")
    ):
        rolling.update(margin, True)
    with pytest.raises(cr2fast.Cr2Error, match="at most 1e30, got .*e308") as caught:
        RollingThreshold(0.05, margin)
    assert len(str(caught.value)) < 150
