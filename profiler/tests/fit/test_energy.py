"""Power of each phase from a counter that ticks slowly."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from cr2fast_profiler.errors import FitError
from cr2fast_profiler.fit.energy import fit_energy
from cr2fast_profiler.meters.base import Domain, Fault, Reason, Trace

IDLE_W, PRE_W, DEC_W, ASIDE_W = 20.0, 100.0, 50.0, 80.0
GPU = Domain("gpu-0", "gpu", "nvml-counter")


def simulate(
    seed: int,
    tick_s: float = 0.1,
    requests: int = 80,
    aside_s: float = 0.0,
    ratio: float | None = None,
    noise_w: float = 0.0,
    domain: Domain = GPU,
) -> tuple[pl.DataFrame, Trace]:
    """Requests, and the trace of a counter polled every 5 ms that moves every `tick_s`."""
    rng = np.random.default_rng(seed)
    t = 10.0
    spans = [(0.2 * i, 0.2 * (i + 1), IDLE_W) for i in range(50)]
    idle = {"session": 0, "phase": "idle", "start_ns": 0, "last_ns": int(9.9e9)}
    rows = [idle]
    for _ in range(requests):
        pre = rng.uniform(0.05, 0.6)
        dec = ratio * pre if ratio else rng.uniform(0.2, 1.5)
        first, last = t + pre, t + pre + dec
        end = last + rng.uniform(0, 2 * aside_s)
        gap = rng.uniform(0, 0.2)
        rows.append(
            {"session": 0, "phase": "grid", "start_ns": int(t * 1e9), "first_ns": int(first * 1e9)}
            | {"last_ns": int(last * 1e9), "aside_ns": int(end * 1e9)}
        )
        spans += [
            (t, first, IDLE_W + PRE_W),
            (first, last, IDLE_W + DEC_W),
            (last, end, IDLE_W + ASIDE_W),
            (end, end + gap, IDLE_W),
        ]
        t = end + gap
    spans.append((t, t + 2, IDLE_W))
    knots = np.array([0.0, *(b for _, b, _ in spans)])
    joules = np.concatenate(
        [[0.0], np.cumsum([(b - a) * (w + noise_w * rng.normal()) for a, b, w in spans])]
    )
    poll = np.arange(0, knots[-1], 0.005)
    offset = rng.uniform(0, tick_s)
    ticked = np.maximum(np.floor((poll - offset) / tick_s) * tick_s + offset, 0)
    read = np.interp(ticked, knots, joules)[:, None]
    columns = ("session", "phase", "start_ns", "first_ns", "last_ns", "aside_ns", "rejected")
    said = [{k: r.get(k) for k in columns} for r in rows]
    frame = pl.DataFrame(said, schema_overrides={"rejected": pl.String})
    return frame, Trace((poll * 1e9).astype(np.int64), read, (domain,))


@pytest.mark.parametrize("tick_s", [0.001, 0.02, 0.1])
def test_phase_powers_from_a_ticking_counter(tick_s: float) -> None:
    rows, trace = simulate(1, tick_s)
    fit = fit_energy(rows, {0: trace})
    assert fit.p_idle_w == pytest.approx(IDLE_W, rel=0.01)
    assert fit.p_prefill_w == pytest.approx(PRE_W, rel=0.01)
    assert fit.p_decode_w == pytest.approx(DEC_W, rel=0.01)
    assert fit.tick_s == pytest.approx(max(tick_s, 0.005), rel=0.1)
    served = rows.filter(pl.col("phase") == "grid")
    pre = (served["first_ns"] - served["start_ns"]).sum()
    dec = (served["last_ns"] - served["first_ns"]).sum()
    assert fit.p_active_w == pytest.approx((PRE_W * pre + DEC_W * dec) / (pre + dec), rel=0.02)


def test_intervals_hold_the_truth_when_power_wanders() -> None:
    covered = 0
    for seed in range(60):
        rows, trace = simulate(seed, noise_w=5.0)
        fit = fit_energy(rows, {0: trace}, seed)
        for name, watts in (("p_prefill_w", PRE_W), ("p_decode_w", DEC_W)):
            low, high = fit.intervals[name]
            covered += low <= watts <= high
    assert 0.85 <= covered / 120 <= 0.99


def test_requests_that_only_count_tokens_are_no_decode() -> None:
    rows, trace = simulate(2, aside_s=0.3)
    fit = fit_energy(rows, {0: trace})
    assert fit.p_prefill_w == pytest.approx(PRE_W, rel=0.02)
    assert fit.p_decode_w == pytest.approx(DEC_W, rel=0.02)


def test_rejected_requests_are_not_billed_to_the_others() -> None:
    rows, trace = simulate(11)
    served = pl.col("phase") == "grid"
    lost = served & (pl.int_range(pl.len()) % 5 < 2)
    rejected = rows.with_columns(
        pl.when(lost).then(pl.col("last_ns")).otherwise(pl.col("aside_ns")).alias("aside_ns"),
        pl.when(lost).then(pl.lit("ignored_max_tokens")).alias("rejected"),
    ).with_columns(
        pl.when(lost).then(None).otherwise(pl.col(k)).alias(k) for k in ("first_ns", "last_ns")
    )
    fit = fit_energy(rejected, {0: trace})
    assert fit.p_prefill_w == pytest.approx(PRE_W, rel=0.1)
    assert fit.p_decode_w == pytest.approx(DEC_W, rel=0.1)
    assert fit.p_active_w == pytest.approx(fit_energy(rows, {0: trace}).p_active_w, rel=0.1)


def test_a_fixed_ratio_of_the_phases_is_no_obstacle() -> None:
    # Tick edges cut requests anywhere, so blocks hold the phases in other ratios than requests do.
    rows, trace = simulate(3, ratio=2.0)
    fit = fit_energy(rows, {0: trace})
    assert fit.p_prefill_w == pytest.approx(PRE_W, rel=0.01)
    assert fit.p_decode_w == pytest.approx(DEC_W, rel=0.01)


def test_a_phase_that_takes_no_time_has_no_power() -> None:
    rows, trace = simulate(3, ratio=1e-6)
    fit = fit_energy(rows, {0: trace})
    assert fit.p_prefill_w is None
    assert fit.p_decode_w is None
    assert fit.p_active_w == pytest.approx(PRE_W, rel=0.02)


def test_differencing_the_counter_at_the_first_token_would_be_wrong() -> None:
    rows, trace = simulate(4)
    served = rows.filter(pl.col("phase") == "grid")
    at = np.searchsorted(trace.t_ns, served.select("start_ns", "first_ns").to_numpy())
    joules = trace.total()[np.minimum(at, len(trace.t_ns) - 1)]
    seconds = (served["first_ns"] - served["start_ns"]).to_numpy() * 1e-9
    naive = np.diff(joules, axis=1)[:, 0] / seconds - IDLE_W
    assert np.abs(naive / PRE_W - 1).max() > 0.3
    assert fit_energy(rows, {0: trace}).p_prefill_w == pytest.approx(PRE_W, rel=0.01)


def test_blocks_with_an_untrusted_reading_are_dropped_and_counted() -> None:
    rows, trace = simulate(5)
    joules = trace.joules.copy()
    bad = len(joules) // 2
    joules[bad:] += 1e6
    joules[bad - 1] = np.nan
    fault = Fault(int(trace.t_ns[bad - 1]), "gpu-0", Reason.RESET, "the counter fell back")
    fit = fit_energy(rows, {0: Trace(trace.t_ns, joules, trace.domains, (fault,))})
    assert fit.n_invalid >= 1
    assert fit.p_decode_w == pytest.approx(DEC_W, rel=0.02)


def test_datasheet_watts_are_called_estimated() -> None:
    rows, trace = simulate(6)
    seconds = trace.t_ns[:, None] * 1e-9
    domain = Domain("board", "board", "constant", estimated=True)
    fit = fit_energy(rows, {0: Trace(trace.t_ns, 15.0 * seconds, (domain,))})
    assert fit.estimated
    assert fit.p_active_w == pytest.approx(15.0, rel=1e-6)
    assert fit.intervals == {}


def test_a_counter_that_does_not_move_gives_no_number() -> None:
    rows, trace = simulate(7)
    stuck = Trace(trace.t_ns, np.zeros_like(trace.joules), trace.domains)
    with pytest.raises(FitError, match="hardly moves"):
        fit_energy(rows, {0: stuck})
    fault = Fault(int(trace.t_ns[5]), "gpu-0", Reason.LOST, "the GPU is lost")
    with pytest.raises(FitError, match="the GPU is lost"):
        fit_energy(rows, {0: Trace(stuck.t_ns, stuck.joules, stuck.domains, (fault,))})


def test_a_meter_of_another_host_gives_no_number() -> None:
    rows, trace = simulate(8)
    elsewhere = Trace(trace.t_ns, trace.t_ns[:, None] * 20e-9, trace.domains)
    with pytest.raises(FitError, match="does not see the model|above idle"):
        fit_energy(rows, {0: elsewhere})


def test_no_idle_window_is_refused() -> None:
    rows, trace = simulate(9)
    with pytest.raises(FitError, match="--idle-s"):
        fit_energy(rows.filter(pl.col("phase") != "idle"), {0: trace})
