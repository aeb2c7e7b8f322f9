"""Fits of synthetic requests whose coefficients are known."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import GRID, Truth, draw

from cr2fast_profiler.errors import FitError
from cr2fast_profiler.fit.latency import fit_latency
from cr2fast_profiler.fit.observations import first_chunk_tokens
from cr2fast_profiler.fit.trend import drift, still_warming

NAMES = ("tau0_s", "beta_pre_s", "beta_dec_s")


def test_noise_free_requests_give_the_truth_back(truth: Truth) -> None:
    fit = fit_latency(draw(truth, 0, noise=0.0))
    for name in NAMES:
        assert getattr(fit, name) == pytest.approx(getattr(truth, name), rel=1e-9)
    assert (fit.phi_pre, fit.phi_dec) == ("linear", "linear")
    assert fit.loco_error < 1e-9
    assert fit.lack_of_fit < 1e-9


def test_pooling_tokens_as_if_independent_would_not_cover(truth: Truth) -> None:
    # What the bootstrap over requests guards against: the tokens of a request share its noise.
    runs, covered = 200, 0
    for seed in range(runs):
        o = draw(truth, seed)
        n = o.l_out - 1
        itl = np.repeat(o.decode_s / n, n.astype(int))
        half = 1.96 * itl.std() / np.sqrt(len(itl))
        covered += abs(itl.mean() - truth.beta_dec_s) <= half
    assert covered / runs < 0.6


def test_a_quadratic_truth_selects_quadratic_and_its_curvature() -> None:
    truth = Truth(kappa_pre=1 / 1000)
    fits = [fit_latency(draw(truth, seed)) for seed in range(20)]
    assert all(f.phi_pre == "quadratic" for f in fits)
    assert np.median([f.kappa_pre for f in fits]) == pytest.approx(1 / 1000, rel=0.15)
    assert all(f.loco_error < 0.8 * f.form_errors["linear/linear"] for f in fits)


def test_a_linear_truth_stays_linear(truth: Truth) -> None:
    fits = [fit_latency(draw(truth, seed), left_out=False) for seed in range(40)]
    assert sum((f.phi_pre, f.phi_dec) == ("linear", "linear") for f in fits) >= 37


def test_lack_of_fit_shows_a_step_that_no_form_has(truth: Truth) -> None:
    o = draw(truth, 1, noise=0.01)
    o.ttft_s[o.l_in > 400] += 0.2 * o.total_s[o.l_in > 400]
    o.ttft_s[o.l_in < 60] += 0.2 * o.total_s[o.l_in < 60]
    assert fit_latency(o).lack_of_fit > 0.03
    assert fit_latency(draw(truth, 1, noise=0.01)).lack_of_fit < 0.01


def test_no_intercept_would_tilt_beta_pre(truth: Truth) -> None:
    o = draw(truth, 3, noise=0.01)
    tilted = float(o.l_in @ o.ttft_s / (o.l_in @ o.l_in))
    assert tilted > 1.08 * truth.beta_pre_s
    assert fit_latency(o).beta_pre_s == pytest.approx(truth.beta_pre_s, rel=0.02)


def test_the_ttft_holds_token_one(truth: Truth) -> None:
    # β_dec belongs to token 1 as well: a fit that forgot it would put 20 ms into tau0.
    assert fit_latency(draw(truth, 4, noise=0.01)).tau0_s == pytest.approx(0.02, abs=0.004)


def test_chunks_of_four_tokens_give_the_same_coefficients(truth: Truth) -> None:
    fit = fit_latency(draw(truth, 5, noise=0.01, chunk=4))
    assert fit.beta_dec_s == pytest.approx(truth.beta_dec_s, rel=0.01)
    assert fit.tau0_s == pytest.approx(truth.tau0_s, abs=0.004)


def test_a_first_token_cheaper_than_the_rest_is_said(truth: Truth) -> None:
    o = draw(truth, 6, noise=0.0)
    o.ttft_s[:] -= 0.03
    fit = fit_latency(o)
    assert fit.tau0_s == 0.0
    assert fit.intervals["tau0_s"] == (0.0, 0.0)
    assert "tau0 came out at -0.01 s (-0.01" in fit.notes[0]


@pytest.mark.parametrize(
    ("l_out", "chunks", "share", "expected"),
    [
        ([8, 16, 5], [8, 16, 5], [0.1, 0.1, 0.2], [1, 1, 1]),
        ([8, 16, 5], [7, 15, 4], [0.1, 0.1, 0.2], [1, 1, 1]),  # an end token without text
        ([8, 16, 5], [2, 4, 2], [0.5, 0.25, 0.8], [4, 4, 4]),
        ([3, 16, 24], [1, 4, 6], [1.0, 0.25, 0.2], [3, 4, 4]),
        ([10, 20, 40], [7, 3, 9], [0.3, 0.5, 0.1], [3, 10, 4]),  # no rule: by characters
        ([16, 64], [2, 5], [0.06, 0.02], [1, 1]),  # a token at once, then sixteen at a time
        ([16, 64], [6, 22], [0.06, 0.016], [1, 1]),  # the same by threes
    ],
)
def test_tokens_of_the_first_chunk(l_out, chunks, share, expected) -> None:
    got = first_chunk_tokens(*(np.array(v, float) for v in (l_out, chunks, share)))
    assert got.tolist() == expected


def test_randomised_order_turns_drift_into_noise_and_flags_it(truth: Truth) -> None:
    seeds = range(20)
    flagged, bias, tilted = [], [], []
    for seed in seeds:
        o = draw(truth, seed, drift=0.10, noise=0.02)
        fit = fit_latency(o, left_out=False)
        middle = 1.05
        bias.append(fit.beta_pre_s / (truth.beta_pre_s * middle) - 1)
        sorted_by_length = fit_latency(draw(truth, seed, drift=0.10, noise=0.02, ascending=True))
        tilted.append(sorted_by_length.beta_pre_s / (truth.beta_pre_s * middle) - 1)
        per_round = len(GRID.cells) + 2
        at = np.arange(len(o)) % per_round
        reference = (at == 0) | (at == per_round - 1)
        found = drift(o.start_s[reference], o.total_s[reference], float(np.ptp(o.start_s)))
        assert found is not None
        flagged.append(found.flagged)
    assert all(flagged)
    assert abs(np.mean(bias)) < 0.02
    assert np.mean(tilted) > 0.02


def test_a_steady_reference_is_not_flagged(truth: Truth) -> None:
    flagged = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found = drift(np.arange(12.0), 1 + 0.03 * rng.normal(size=12), 12.0)
        assert found is not None
        flagged += found.flagged
    assert flagged <= 3
    assert drift(np.arange(3.0), np.ones(3), 3.0) is None


def test_warm_up_ends_when_times_no_longer_fall() -> None:
    assert still_warming(np.array([9.0, 5, 3]))
    assert still_warming(np.array([9.0, 5, 3, 2, 1.5]))
    assert still_warming(np.array([9.0, 5, 3, 2, 2.1]))
    assert not still_warming(np.array([9.0, 5, 3, 2, 1.5, 2.0, 1.9, 2.1, 2.0]))


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (lambda o: o.cell == 0, "in 1 cells"),
        (lambda o: np.arange(len(o)) < 4, "at least 6"),
    ],
)
def test_too_few_rows_are_refused(truth: Truth, keep, words) -> None:
    o = draw(truth, 7)
    with pytest.raises(FitError, match=words):
        fit_latency(o.take(keep(o)))


def test_one_prompt_length_is_refused(truth: Truth) -> None:
    o = draw(truth, 7)
    same = o.take(np.abs(o.l_in - 128) < 5)
    same.l_in[:] = 128.0
    with pytest.raises(FitError, match=r"every request has L_in = 128.*singular"):
        fit_latency(same)


def test_a_slope_that_may_be_zero_is_said() -> None:
    # Prefill so quick that noise hides it: refused where it comes out negative, noted otherwise.
    refused, noted = 0, 0
    for seed in range(12):
        try:
            fit = fit_latency(draw(Truth(beta_pre_s=1e-7), seed), left_out=False)
        except FitError as error:
            refused += "time does not grow with tokens" in str(error)
            continue
        noted += any("beta_pre_s: its interval reaches zero" in n for n in fit.notes)
    assert refused >= 2
    assert noted >= 2
    assert refused + noted >= 11


def test_times_that_no_request_has_are_refused(truth: Truth) -> None:
    o = draw(truth, 8)
    o.ttft_s[3] = np.nan
    with pytest.raises(FitError, match="positive, finite"):
        fit_latency(o)
    o.ttft_s[3] = -0.1
    with pytest.raises(FitError, match="round trip"):
        fit_latency(o)


def test_time_that_falls_with_tokens_is_refused(truth: Truth) -> None:
    o = draw(truth, 9, noise=0.0)
    o.ttft_s[:] = 2.0 - 0.001 * o.l_in
    with pytest.raises(FitError, match=r"beta_pre_s = .*cache"):
        fit_latency(o)
