from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cr2fast_profiler.meters.base import Domain, Fault, Reason, Trace

GPU = Domain("gpu-0", "gpu", "nvml-counter")
PSYS = Domain("psys", "psys", "rapl", in_total=False)
S = 1_000_000_000


def trace(times_s, joules, domains=(GPU,), faults=()) -> Trace:
    t_ns = np.array([round(t * S) for t in times_s], dtype=np.int64)
    return Trace(t_ns, np.array(joules, dtype=float).reshape(len(t_ns), -1), domains, faults)


def test_two_readings_interpolate():
    window = trace([0, 1], [0, 10]).window(S // 4, S // 2)
    assert window.energy_j == pytest.approx(2.5)
    assert window.duration_s == pytest.approx(0.25)


def test_window_outside_the_readings_is_not_covered():
    t = trace([1, 2], [0, 10])
    for start, end in ((0, S), (S, 3 * S)):
        assert t.window(start, end).reason is Reason.NOT_COVERED
    with pytest.raises(ValueError, match="end before it starts"):
        t.window(2 * S, S)


def test_no_domain_that_adds_up_gives_no_number():
    t = trace([0, 1], [0, 10], (PSYS,))
    assert t.window(0, S).energy_j is None
    assert np.isnan(t.total()).all()


def test_psys_is_apart_even_when_it_fails():
    t = trace([0, 1, 2], [[0, 0], [10, np.nan], [20, 5]], (GPU, PSYS))
    assert t.window(0, 2 * S).energy_j == 20


def test_only_windows_across_a_fault_are_invalid():
    fault = Fault(2 * S, "gpu-0", Reason.RESET, "fell")
    t = trace([0, 1, 2, 3, 4], [0, 10, np.nan, 10, 20], faults=(fault,))
    assert t.window(0, S).energy_j == 10
    assert t.window(3 * S, 4 * S).energy_j == 10
    across = t.window(S // 2, 3 * S)
    assert (across.energy_j, across.reason) == (None, Reason.RESET)
    assert "fell" in across.detail
    assert list(t.edges()) == [1, 4]


def test_a_long_outage_keeps_its_reason():
    fault = Fault(1 * S, "gpu-0", Reason.LOST, "gone")
    t = trace([0, 1, 2, 3, 4], [0, np.nan, np.nan, np.nan, 1], faults=(fault,))
    assert t.window(2 * S, 3 * S).reason is Reason.LOST


def test_a_fault_found_late_takes_back_the_readings_since():
    fault = Fault(1 * S, "gpu-0", Reason.STUCK, "stands")
    t = trace([0, 1, 2, 3, 4, 5], [0, 10, 10, np.nan, 10, 20], faults=(fault,))
    assert t.window(0, S).energy_j == 10
    assert t.window(S, 2 * S).reason is Reason.STUCK
    assert t.window(4 * S, 5 * S).energy_j == 10


def test_zero_power_between_bursts_stays_zero():
    times = np.arange(0, 10, 0.1)
    joules = np.clip(times - 4, 0, 2) * 100
    t = trace(times, joules)
    assert t.window(0, 39 * S // 10).energy_j == 0
    assert t.window(39 * S // 10, 61 * S // 10).energy_j == pytest.approx(200)


def test_domains_with_their_own_ticks_add_up():
    times = np.arange(0, 4, 0.002)
    slow = np.floor(times / 0.1) * 0.1 * 300
    fast = times * 50
    t = trace(times, np.column_stack([slow, fast]), (GPU, Domain("package-0", "cpu", "rapl")))
    assert t.window(1_040_000_000, 1_540_000_000).energy_j == pytest.approx(175, rel=5e-3)
    assert t.tick_s() == pytest.approx(0.1)
    assert trace([0, 1], [0, 0]).tick_s() is None


@given(
    st.floats(0.01, 0.1),
    st.floats(0, 0.1),
    st.floats(0.3, 1.5),
    st.floats(0.5, 1.0),
)
def test_a_window_between_ticks_is_within_half_a_percent(tick, phase, start, length):
    times = np.arange(0, 3, 0.002)
    t = trace(times, np.floor((times + phase) / tick) * tick * 250)
    energy = t.window(round(start * S), round((start + length) * S)).energy_j
    assert energy == pytest.approx(250 * length, rel=5e-3)
