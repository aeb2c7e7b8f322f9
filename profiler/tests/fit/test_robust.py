"""Requests of which some stall: one request alone, the mean as served, and honest intervals."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import Truth, draw

from cr2fast_profiler.fit.latency import fit_latency
from cr2fast_profiler.fit.robust import solve, student
from cr2fast_profiler.workload.grid import Grid

NAMES = ("tau0_s", "beta_pre_s", "beta_dec_s")
NINE = Grid.cross((64, 256, 768), (16, 64, 128))


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "outliers"), [(1, 0.0), (3, 0.0), (3, 0.05), (3, 0.1)])
def test_intervals_cover_the_truth_as_often_as_they_say(truth: Truth, rounds, outliers) -> None:
    runs = 300
    covered = dict.fromkeys(NAMES, 0)
    for seed in range(runs):
        fit = fit_latency(draw(truth, seed, rounds, outliers=outliers), left_out=False)
        for name in NAMES:
            low, high = fit.intervals[name]
            covered[name] += low <= getattr(truth, name) <= high
    # Shown by pytest -s.
    print(f"\n{rounds} rounds, {outliers:.0%}:", {k: f"{n / runs:.1%}" for k, n in covered.items()})
    for name, n in covered.items():
        assert 0.90 <= n / runs <= 0.98, (name, n / runs)


def test_one_stall_of_three_seconds_in_44_requests_leaves_tau0_alone() -> None:
    truth = Truth(0.04, 0.5e-3, 8e-3)
    for at in range(0, 44, 3):
        o = draw(truth, at, rounds=4, noise=0.01, grid=NINE)
        assert len(o) == 44
        o.ttft_s[at] += 3.0
        fit = fit_latency(o, left_out=False)
        assert fit.tau0_s == pytest.approx(truth.tau0_s, rel=0.05)
        low, high = fit.intervals["tau0_s"]
        assert high - low < 0.2 * truth.tau0_s
        assert fit.served.outliers == pytest.approx(1 / 44)
        assert fit.served.slow == fit.served.outliers


def test_bursts_of_three_times_on_a_tenth_leave_beta_and_are_told() -> None:
    truth = Truth(0.04, 0.5e-3, 8e-3)
    for seed in range(20):
        fit = fit_latency(draw(truth, seed, noise=0.02, grid=NINE, outliers=0.1), left_out=False)
        assert fit.beta_pre_s == pytest.approx(truth.beta_pre_s, rel=0.03)
        assert fit.beta_dec_s == pytest.approx(truth.beta_dec_s, rel=0.03)
        assert (fit.phi_pre, fit.phi_dec) == ("linear", "linear")
        assert fit.served.outliers == pytest.approx(0.1, abs=0.02)
        assert fit.served.outlier_ratio == pytest.approx(3.0, rel=0.1)
        # A tenth at three times: served takes 1.2 times as long, on the mean.
        assert fit.served.ratio == pytest.approx(1.2, abs=0.03)
        assert fit.spread > 5 * fit.noise


def test_as_served_is_the_plain_mean(truth: Truth) -> None:
    off = []
    for seed in range(40):
        served = fit_latency(draw(truth, seed, outliers=0.1), left_out=False).served
        off.append(served.values["beta_dec_s"] / truth.beta_dec_s)
    assert np.mean(off) == pytest.approx(1.2, abs=0.04)


def test_a_cell_that_is_off_in_all_its_requests_is_no_outlier(truth: Truth) -> None:
    o = draw(truth, 3, rounds=4, noise=0.01, grid=NINE)
    o.decode_s[o.cell == 8] *= 1.15
    fit = fit_latency(o)
    assert fit.served.outliers == 0
    assert fit.lack_of_fit > 0.02


def test_too_few_rows_to_tell_outliers_are_all_kept(truth: Truth) -> None:
    o = draw(truth, 0, rounds=1, grid=Grid.parse("32x16 32x64 256x16 256x64"))
    x = np.stack([np.ones(len(o)), o.l_in, o.l_out], 1)
    assert (solve(x, o.total_s, o.cell, "total").weight == 1).all()


@pytest.mark.parametrize(
    ("freedom", "expected"), [(2, 4.303), (3, 3.182), (8, 2.306), (30, 2.042), (1e6, 1.960)]
)
def test_students_quantile(freedom: float, expected: float) -> None:
    assert student(freedom) == pytest.approx(expected, rel=0.01)
