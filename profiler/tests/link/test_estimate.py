"""The estimator without a network: simulated links are recovered, and noise is never a rate."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cr2fast_profiler.errors import LinkError
from cr2fast_profiler.link.estimate import estimate, fit_slope, read_round, summarise
from cr2fast_profiler.link.probe import Plan, Row, order_of
from cr2fast_profiler.link.rows import frame

PLAN = Plan((2_048, 8_192, 32_768, 131_072), 2, 5, 3, 1.0)


def simulated(rounds, up_bps, down_bps, rtt_s, jitter_s, seed=0, connect_s=None, late_s=0.0):
    """Rows of a link whose times are a + 8·bytes/rate + jitter ≥ 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(rounds):
        u, d = (np.broadcast_to(r, rounds)[number] for r in (up_bps, down_bps))
        for order, (kind, size) in enumerate(order_of(PLAN, seed, number)):
            sent, received = 100, 90
            if kind.endswith("uplink"):
                sent += size
            if kind.endswith("downlink"):
                received += size
            t = rtt_s + 8 * sent / u + 8 * received / d + rng.exponential(jitter_s)
            dns = None
            if kind == "connect":
                t = (connect_s or rtt_s) + rng.exponential(jitter_s)
                dns = 1e-3
            if kind == "idle_first":
                t += late_s
            name = "warmup" if kind.startswith("warmup") else kind
            rows.append(Row(number, order, name, size, 0, float(t), dns, sent, received, ""))
    return frame(rows)


@settings(deadline=None, max_examples=15)
@given(st.floats(1e5, 1e8), st.floats(1e5, 1e8), st.floats(0.002, 0.3), st.integers(0, 2**32))
def test_simulated_links_are_recovered(up, down, rtt, seed):
    found = estimate(simulated(12, up, down, rtt, 2e-5, seed))
    assert found.summary["rate_ul_bps"].median == pytest.approx(up, rel=0.03)
    assert found.summary["rate_dl_bps"].median == pytest.approx(down, rel=0.03)
    assert found.summary["rtt_s"].median == pytest.approx(rtt, rel=0.03)
    assert {f.name for f in found.flags} <= {"not_linear"}


def test_the_distribution_and_its_joint_states_are_kept():
    states = np.tile([2e6, 20e6], 10)
    found = estimate(simulated(20, states, states * 4, 0.02, 1e-5))
    for sample, state in zip(found.samples, states, strict=True):
        assert sample.rate_ul_bps == pytest.approx(state, rel=0.02)
        assert sample.rate_dl_bps == pytest.approx(4 * state, rel=0.02)
    quantiles = found.summary["rate_ul_bps"].quantiles
    assert quantiles["p05"] < 2.1e6 < 19e6 < quantiles["p95"]


def test_intervals_of_the_median_cover():
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(400):
        rates = 10e6 * np.exp(0.3 * rng.standard_normal(25))
        e = summarise(rates, rates, "bit/s", 0.95, seed)
        inside += e.low <= 10e6 <= e.high
    assert 0.90 <= inside / 400 <= 0.98


def test_heavy_outliers_do_not_move_a_slope():
    x = np.repeat(np.array(PLAN.sizes_bytes, float), 4)
    y = 0.01 + x * 1e-6
    y[::4] += np.random.default_rng(0).exponential(0.2, 4)
    slope, _ = fit_slope(x, y)
    assert slope == pytest.approx(1e-6, rel=0.01)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-5, 1e-1), st.integers(0, 2**32))
def test_noise_is_never_a_negative_or_infinite_rate(jitter, seed):
    rows = simulated(6, 1e13, 1e13, 0.01, jitter, seed)
    states = [r for r, _ in (read_round(n, rows.filter(round=n)) for n in range(6)) if r]
    assert all(0 < s.slope_ul < np.inf and s.request_s > 0 for s in states)
    if len(states) < 3:
        with pytest.raises(LinkError, match="too fast"):
            estimate(rows)


def test_rounds_lost_to_noise_are_flagged_as_a_bias():
    rates = np.where(np.arange(30) % 4 == 0, 1e13, 5e6)
    found = estimate(simulated(30, rates, 5e6, 0.01, 2e-4))
    assert found.rejected_rounds.get("uplink_slope_within_noise", 0) >= 4
    (flag,) = [f for f in found.flags if f.name == "rejected_rounds"]
    assert "biased low" in flag.detail


def test_a_burst_allowance_is_flagged():
    rows = simulated(12, 5e6, 5e6, 0.01, 1e-5)
    burst = pl.when(pl.col("kind") == "downlink").then(
        pl.col("duration_s") - 8 * pl.min_horizontal("bytes", pl.lit(32_768)) / 5e6
    )
    found = estimate(rows.with_columns(burst.otherwise("duration_s").alias("duration_s")))
    assert [f.detail.split(":")[0] for f in found.flags if f.name == "not_linear"] == ["downlink"]


def test_no_power_save_is_no_flag():
    found = estimate(simulated(20, 5e6, 5e6, 0.02, 1e-3, late_s=2e-3))
    assert "power_save" not in {f.name for f in found.flags}


def test_order_is_random_reproducible_and_whole():
    first, again, other = (order_of(PLAN, s, 0) for s in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other)
    assert first[0] == ("idle_first", 0)
    assert first[1] == ("idle_second", 0)
    assert sum(kind == "uplink" for kind, _ in first) == 8
