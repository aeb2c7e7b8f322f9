"""crc_thresholds and empirical_risk against their definitions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cr2fast
from cr2fast import _core
from testing import oracle

# Few distinct values, so that ties are common; both zeros, and neighbours.
SCORE = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1e-45, 0.5, 1.0, 1.0000001, 3e38]) | st.floats(
    -(2.0**100), 2.0**100, width=32
)
ALPHA = st.sampled_from([0.001, 0.002, 0.01, 0.05, 0.1, 0.29, 0.3, 0.5, 0.9]) | st.floats(
    1e-6, 0.999
)


@st.composite
def samples(draw, max_n=60):
    n = draw(st.integers(1, max_n))
    scores = np.array(draw(st.lists(SCORE, min_size=n, max_size=n)), np.float32)
    prefers = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return scores[None], prefers[None]


def thresholds(scores, prefers, alphas):
    return cr2fast.crc_thresholds(scores, prefers, alphas, on_infeasible="defer")


@given(samples(), st.lists(ALPHA, min_size=1, max_size=4))
def test_equals_the_infimum_by_trial(sample, alphas):
    scores, prefers = sample
    got = thresholds(scores, prefers, alphas)
    expected = [oracle.crc_threshold(scores[0], prefers[0], a) for a in alphas]
    np.testing.assert_array_equal(got[0], np.array(expected, np.float32))
    np.testing.assert_array_equal(got, oracle.crc_thresholds_by_sorting(scores, prefers, alphas))


@pytest.mark.parametrize("n", [1, 2, 99, 100, 4097, 50_000])
def test_equals_sorting_at_size(n):
    rng = np.random.default_rng(n)
    scores = rng.normal(size=(5, n)).astype(np.float32)
    scores[1] = scores[1].round(1)
    prefers = rng.random((5, n)) < [[0.5], [0.5], [0.01], [0.0], [1.0]]
    alphas = [0.002, 0.01, 0.05, 0.3, 0.7]
    expected = oracle.crc_thresholds_by_sorting(scores, prefers, alphas)
    for threads in (1, 2, 0):
        got = cr2fast.crc_thresholds(scores, prefers, alphas, "defer", threads)
        np.testing.assert_array_equal(got, expected)


ROWS = {
    "continuous": lambda rng, n: rng.normal(size=n),
    "ties": lambda rng, n: rng.integers(-3, 4, n),
    "one value": lambda rng, n: np.full(n, -0.0),
    "rising": lambda rng, n: np.sort(rng.normal(size=n)),
    "falling": lambda rng, n: -np.sort(rng.normal(size=n)),
    "heavy tails": lambda rng, n: np.clip(rng.standard_cauchy(n) ** 5, -1e30, 1e30),
    "largest and smallest": lambda rng, n: rng.choice([-1, 0, 1], n) * np.finfo(np.float32).max,
    "a few high in a line": lambda rng, n: rng.random(n) + 5 * (np.arange(n) // 16 % 24 == 0),
}


@given(
    st.sampled_from(sorted(ROWS)),
    st.integers(100, 20_000),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.02, 0.5, 1.0]),
    st.lists(ALPHA, min_size=1, max_size=6),
)
def test_equals_sorting_whatever_the_order(kind, n, seed, share, alphas):
    rng = np.random.default_rng(seed)
    scores = ROWS[kind](rng, n).astype(np.float32)[None]
    prefers = (rng.random(n) < share)[None]
    with np.errstate(over="ignore"):  # just above the largest number is infinity
        expected = oracle.crc_thresholds_by_sorting(scores, prefers, alphas)
    np.testing.assert_array_equal(thresholds(scores, prefers, alphas), expected)


@given(samples(), st.lists(ALPHA, min_size=2, max_size=6, unique=True))
def test_falls_as_alpha_grows(sample, alphas):
    row = thresholds(*sample, sorted(alphas))[0]
    assert all(a >= b for a, b in itertools.pairwise(row))


@example((np.full((1, 2), -2, np.float32), np.zeros((1, 2), bool)), 1 / 3)
@given(samples(), ALPHA)
def test_keeps_the_promise_on_its_own_samples_and_is_the_least_that_does(sample, alpha):
    scores, prefers = sample
    n = scores.shape[1]
    tau = thresholds(scores, prefers, [alpha])
    if tau[0, 0] == np.inf:
        return
    risk = cr2fast.empirical_risk(scores, prefers, tau)[0, 0]
    # A level counts as written, and a unit in the last place more: 1/3 of three queries is one.
    level = max(Fraction(repr(alpha)), Fraction(math.nextafter(alpha, 2)))
    budget = level * (n + 1)
    assert round(risk * n) + 1 <= budget
    if tau[0, 0] > -np.inf:
        lower = np.nextafter(tau, np.float32(-np.inf), dtype=np.float32)
        assert round(cr2fast.empirical_risk(scores, prefers, lower)[0, 0] * n) + 1 > budget


@given(samples(), ALPHA, st.randoms(use_true_random=False))
def test_ignores_the_order_of_samples(sample, alpha, random):
    scores, prefers = sample
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    shuffled = np.ascontiguousarray(scores[:, order]), np.ascontiguousarray(prefers[:, order])
    np.testing.assert_array_equal(thresholds(*sample, [alpha]), thresholds(*shuffled, [alpha]))


def test_equal_scores_stand_or_fall_together():
    scores = np.full((1, 100), 0.25, np.float32)
    tau = cr2fast.crc_thresholds(scores, np.ones((1, 100), bool), [0.5])
    assert tau[0, 0] == np.nextafter(np.float32(0.25), np.float32(1))
    assert cr2fast.empirical_risk(scores, np.ones((1, 100), bool), tau)[0, 0] == 0


def test_no_sample_prefers_the_edge_accepts_all_and_every_one_does_not():
    scores = np.linspace(0, 1, 99, dtype=np.float32)[None]
    assert cr2fast.crc_thresholds(scores, np.zeros((1, 99), bool), [0.01])[0, 0] == -np.inf
    # k = 0: nothing among r = 1 may be accepted.
    tau = cr2fast.crc_thresholds(scores, np.ones((1, 99), bool), [0.01])
    assert tau[0, 0] == np.nextafter(np.float32(1), np.float32(2))


@pytest.mark.parametrize(
    ("alpha", "n", "k"),
    [
        (0.01, 98, None), (0.01, 99, 0), (0.29, 99, 28), (0.07, 99, 6), (0.57, 99, 56),
        (0.1, 9, 0), (0.1, 8, None), (0.3, 9, 2), (1e-300, 10**9, None), (0.999, 1, 0),
    ],
)  # fmt: skip
def test_floor_is_exact_for_alpha_as_written(alpha, n, k):
    assert _core.allowed_false_acceptances(alpha, n) == k


@given(ALPHA, st.integers(1, 10**9))
def test_floor_equals_fractions(alpha, n):
    k = oracle.floor_product(alpha, n) - 1
    assert _core.allowed_false_acceptances(alpha, n) == (k if k >= 0 else None)


def test_infeasible_is_a_word_and_names_what_is_needed():
    scores, prefers = np.zeros((1, 98), np.float32), np.ones((1, 98), bool)
    with pytest.raises(cr2fast.InfeasibleAlphaError, match="98 calibration samples.*at least 99"):
        cr2fast.crc_thresholds(scores, prefers, [0.05, 0.01])
    tau = cr2fast.crc_thresholds(scores, prefers, [0.05, 0.01], on_infeasible="defer")
    assert np.isfinite(tau[0, 0])
    assert tau[0, 1] == np.inf


@given(samples(), st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=3))
def test_empirical_risk_equals_its_definition(sample, taus):
    scores, prefers = sample
    taus = np.array([taus], np.float32)
    np.testing.assert_array_equal(
        cr2fast.empirical_risk(scores, prefers, taus), oracle.empirical_risk(scores, prefers, taus)
    )


GOOD = np.zeros((2, 5), np.float32), np.zeros((2, 5), bool)


@pytest.mark.parametrize(
    ("scores", "prefers", "alphas", "kind", "words"),
    [
        (GOOD[0].astype(float), GOOD[1], [0.5], TypeError, "scores: expected a float32 array.*float64"),
        (GOOD[0], GOOD[1].astype(int), [0.5], TypeError, "prefers_edge: expected a bool array.*int64"),
        (GOOD[0], GOOD[1][:, :4], [0.5], ValueError, r"prefers_edge: expected shape \[2, 5\], got \[2, 4\]"),
        (GOOD[0][0], GOOD[1], [0.5], ValueError, "scores: expected a float32 array of two"),
        (GOOD[0][:, :0], GOOD[1][:, :0], [0.5], ValueError, "scores: expected .* at least one sample"),
        (np.full((2, 5), np.nan, np.float32), GOOD[1], [0.5], ValueError, "scores: .*finite.*index 0"),
        (np.full((2, 5), -np.inf, np.float32), GOOD[1], [0.5], ValueError, "scores: .*finite"),
        (*GOOD, [], ValueError, "alphas: expected at least one"),
        (*GOOD, [0.0], ValueError, "alpha: .*strictly between 0 and 1"),
        (*GOOD, [1.0], ValueError, "alpha: .*strictly between"),
        (*GOOD, [np.nan], ValueError, "alpha: .*NaN"),
        (*GOOD, ["x"], TypeError, "alphas: expected integers or floats"),
        ([[0.0]], GOOD[1], [0.5], TypeError, "scores: .*got list"),
    ],
)  # fmt: skip
def test_bad_input_is_named(scores, prefers, alphas, kind, words):
    with pytest.raises(kind, match=words):
        cr2fast.crc_thresholds(scores, prefers, alphas)


def test_unknown_mode_is_named():
    with pytest.raises(cr2fast.Cr2Error, match="on_infeasible: expected .*'maybe'|\"maybe\""):
        cr2fast.crc_thresholds(*GOOD, [0.5], on_infeasible="maybe")


def test_bools_of_other_bytes_are_refused():
    """NumPy lets a view make a bool of any byte; read as Rust's it once meant "accept all"."""
    scores = np.arange(50, dtype=np.float32)[None]
    forged = np.full((1, 50), 2, np.uint8).view(bool)
    assert forged.all()
    with pytest.raises(
        cr2fast.Cr2Error, match="prefers_edge: .*holding 0 and 1, got bytes up to 2"
    ):
        cr2fast.crc_thresholds(scores, forged, [0.5])
    with pytest.raises(cr2fast.Cr2Error, match="prefers_edge: .*got bytes up to 2"):
        cr2fast.empirical_risk(scores, forged, np.zeros((1, 1), np.float32))


def test_strided_input_is_read_right():
    rng = np.random.default_rng(0)
    scores, prefers = rng.normal(size=(3, 40)).astype(np.float32), rng.random((3, 40)) < 0.5
    np.testing.assert_array_equal(
        cr2fast.crc_thresholds(scores[:, ::2], prefers[:, ::2], [0.2]),
        cr2fast.crc_thresholds(scores[:, ::2].copy(), prefers[:, ::2].copy(), [0.2]),
    )
