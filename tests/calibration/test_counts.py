"""Distributed calibration: thresholds of one machine, bit for bit, from counts of shares."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast import CellCounts, MarginCounts
from testing import oracle

ALPHAS = [0.01, 0.05, 0.3]


def two_passes(margins, prefers, cuts, alphas=ALPHAS, **options):
    """Every share on a worker of its own, states sent as pickles, merged from the last to the first."""
    shares = [
        (np.ascontiguousarray(m), np.ascontiguousarray(r))
        for m, r in zip(np.split(margins, cuts, 1), np.split(prefers, cuts, 1), strict=True)
    ]
    total = MarginCounts(len(margins))
    for m, r in reversed(shares):
        part = MarginCounts(len(margins))
        part.update(m, r)
        total = pickle.loads(pickle.dumps(part)).merge(total)
    asked = total.second_pass(alphas, "defer", **options)
    second = asked
    for m, r in shares:
        part = pickle.loads(pickle.dumps(asked))
        part.update(m, r)
        second = part.merge(second)
    return total, second


@given(
    st.integers(1, 3), st.integers(1, 300), st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 300), max_size=4), st.sampled_from([0.0, 0.5, 1e-41, 1e30]),
)  # fmt: skip
def test_thresholds_are_one_machines_bit_for_bit(lams, n, seed, cuts, grain):
    rng = np.random.default_rng(seed)
    margins = rng.standard_normal((lams, n)).astype(np.float32)
    if grain == 0.5:
        margins = np.round(margins * 2) / 2  # ties, and both zeros
    elif grain:
        margins *= np.float32(grain)
    prefers = rng.random((lams, n)) < 0.6
    first, second = two_passes(margins, prefers, sorted(cuts))
    expected = cr2fast.crc_thresholds(margins, prefers, ALPHAS, on_infeasible="defer")
    found = second.thresholds()
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(found, oracle.two_passes(margins, prefers, ALPHAS))
    assert (first.n, first.lams, second.n) == (n, lams, n)


def test_a_promise_at_once():
    rng = np.random.default_rng(0)
    margins, prefers = rng.random((4, 3000)).astype(np.float32), rng.random((4, 3000)) < 0.5
    _, second = two_passes(margins, prefers, [1000], delta=0.1)
    counts = cr2fast.calibration.allowed_counts(3000, ALPHAS, 4, 0.1)
    from testing.calibrated import thresholds_by_count

    np.testing.assert_array_equal(
        second.thresholds(), thresholds_by_count(margins, prefers, counts)
    )


def test_a_million_rows_in_half_a_megabyte_per_lam():
    rng = np.random.default_rng(1)
    margins, prefers = rng.random((2, 10**6)).astype(np.float32), rng.random((2, 10**6)) < 0.3
    first, second = two_passes(margins, prefers, [123_456, 700_000])
    expected = cr2fast.crc_thresholds(margins, prefers, ALPHAS)
    np.testing.assert_array_equal(second.thresholds(), expected)
    assert len(first.to_bytes()) < 2 * (2**19 + 100)
    assert len(second.to_bytes()) < 2 * len(ALPHAS) * (2**19 + 100)


def test_what_is_wrong_is_said():
    x, r = np.zeros((2, 5), np.float32), np.ones((2, 5), bool)
    with pytest.raises(cr2fast.Cr2Error, match="lams: expected 1 to 1024"):
        MarginCounts(0)
    with pytest.raises(cr2fast.Cr2Error, match="lams: expected 1 to 1024"):
        MarginCounts(10**9)
    first = MarginCounts(2)
    with pytest.raises(cr2fast.Cr2Error, match="at least one row counted"):
        first.second_pass(ALPHAS)
    for bad in (x[:1], x[0], np.full_like(x, np.nan)):
        with pytest.raises(cr2fast.Cr2Error):
            first.update(bad, r)
    with pytest.raises(cr2fast.Cr2Error, match="prefers_edge"):
        first.update(x, r[:, :4])
    with pytest.raises(TypeError):
        first.update(x.astype(float), r)
    assert first == MarginCounts(2)
    first.update(x, r)
    with pytest.raises(cr2fast.Cr2Error, match="lams: expected length 2, got length 1"):
        first.merge(MarginCounts(1))
    with pytest.raises(cr2fast.InfeasibleAlphaError, match="alpha=0.01 is infeasible with 5"):
        first.second_pass(ALPHAS)
    with pytest.raises(cr2fast.Cr2Error, match="expected"):
        first.second_pass([2.0])
    second = first.second_pass([0.3])
    with pytest.raises(
        cr2fast.Cr2Error, match="the 5 rows of the first pass, each once, got 0 rows"
    ):
        second.thresholds()
    with pytest.raises(cr2fast.Cr2Error, match="merge: expected counts for the same first pass"):
        second.merge(first.second_pass([0.5, 0.6]))
    second.update(x + 1, r)
    with pytest.raises(cr2fast.Cr2Error, match="got others"):
        second.thresholds()


def test_states_are_copied_compared_and_refused_when_forged():
    first = MarginCounts(1)
    first.update(np.float32([[0.5, -0.5]]), np.array([[True, False]]))
    second = first.second_pass([0.4])
    for state, kind in ((first, MarginCounts), (second, CellCounts)):
        again = copy.deepcopy(state)
        assert again == state == pickle.loads(pickle.dumps(state))
        again.update(np.float32([[0.5]]), np.array([[True]]))
        assert again != state
        data = bytearray(state.to_bytes())
        for bad in (b"", data[:-1], data + b"\0", data[: len(data) // 2], b"\0" * 100):
            with pytest.raises(cr2fast.StateError):
                kind.from_bytes(bytes(bad))
        for at in (0, 24, 32, 40, 100, len(data) - 40, len(data) - 1):
            changed = bytearray(data)
            changed[at] ^= 1
            with pytest.raises(cr2fast.StateError):
                kind.from_bytes(bytes(changed))
    with pytest.raises(
        cr2fast.StateError, match="margin counts: expected a state that starts with"
    ):
        MarginCounts.from_bytes(second.to_bytes())
    with pytest.raises(TypeError):
        CellCounts()
