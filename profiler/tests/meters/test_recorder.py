from __future__ import annotations

import time

import numpy as np
import pytest
from fakes.clock import VirtualClock
from hypothesis import given
from hypothesis import strategies as st

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.meters.base import Domain, Fault, Reason, Trace
from cr2fast_profiler.meters.constant import ConstantMeter
from cr2fast_profiler.meters.recorder import Readings, Recorder

GPU = Domain("gpu-0", "gpu", "nvml-counter")


class Scripted:
    """Joules that count readings; the fifth is lost."""

    domains = (GPU,)
    poll_s = 0.001

    def __init__(self, fail_at: int | None = None) -> None:
        self.clock = VirtualClock()
        self.faults: list[Fault] = []
        self.count = 0
        self.fail_at = fail_at

    def read(self):
        self.count += 1
        if self.count == self.fail_at:
            raise OSError("unplugged")
        if self.count == 5:
            self.faults.append(Fault(self.clock(), "gpu-0", Reason.LOST, "gone"))
        return self.clock(), np.array([np.nan if self.count == 5 else self.count * 1.0])

    def close(self) -> None:
        pass


def test_drains_add_up_to_the_whole():
    meter = Scripted()
    recorder = Recorder(meter, meter.clock)
    recorder.start()
    parts = [recorder.drain()]
    meter.clock.sleep(0.01)
    parts.append(recorder.drain())
    whole = recorder.stop()
    parts.append(recorder.drain())
    assert meter.count == 13  # one at the start, one each ms to the margin's end, one at the end
    np.testing.assert_array_equal(np.concatenate([p.t_ns for p in parts]), whole.t_ns)
    np.testing.assert_array_equal(np.concatenate([p.joules for p in parts]), whole.joules)
    assert sum((p.faults for p in parts), ()) == whole.faults
    assert [f.reason for f in whole.faults] == [Reason.LOST]
    assert set(np.diff(whole.t_ns)) <= {500_000, 1_000_000}


def test_an_error_in_a_poll_reaches_the_caller():
    meter = Scripted(fail_at=3)
    recorder = Recorder(meter, meter.clock)
    recorder.start()
    meter.clock.sleep(0.01)
    assert meter.count == 3, "a meter that failed is asked no more"
    with pytest.raises(RunError, match="unplugged") as caught:
        recorder.stop()
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(RunError, match="unplugged"):
        recorder.drain()


def test_an_error_in_a_poll_ends_a_with_block():
    meter = Scripted(fail_at=3)
    with pytest.raises(RunError, match="unplugged"), Recorder(meter, meter.clock):
        meter.clock.sleep(0.01)


def test_the_body_s_own_error_is_not_masked():
    def body() -> None:
        meter = Scripted(fail_at=3)
        with Recorder(meter, meter.clock):
            meter.clock.sleep(0.01)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        body()


def test_a_first_reading_that_fails_raises_at_the_start():
    with pytest.raises(OSError, match="unplugged"):
        Recorder(Scripted(fail_at=1)).start()


def test_a_recorder_starts_once():
    clock = VirtualClock()
    recorder = Recorder(ConstantMeter(1, clock), clock)
    with recorder, pytest.raises(RunError, match="starts once"):
        recorder.start()


def test_pitfall_wall_clock_has_no_part_in_it(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    clock = VirtualClock()
    with Recorder(ConstantMeter(1000, clock), clock) as recorder:
        start = clock()
        clock.sleep(0.001)
        end = clock()
        trace = recorder.stop(margin_s=0.001)
    assert trace.window(start, end).energy_j == pytest.approx(1.0)


def test_the_machine_s_own_clock_polls_too():
    recorder = Recorder(ConstantMeter(1000))
    recorder.start()
    trace = recorder.stop()
    assert trace.t_ns[-1] > trace.t_ns[0]
    assert trace.joules[-1, 0] > trace.joules[0, 0]


def test_stop_reads_on_until_a_slow_counter_ticks():
    class Ticking(Scripted):
        def read(self):
            t_ns = self.clock()
            return t_ns, np.array([float(t_ns // 30_000_000)])

    meter = Ticking()
    with Recorder(meter, meter.clock) as recorder:
        meter.clock.sleep(0.1)
        end = meter.clock()
        trace = recorder.stop()
    assert trace.t_ns[trace.edges()[-1]] > end


def test_a_flat_stretch_keeps_both_ends():
    readings = Readings((GPU,))
    for t, joules in enumerate([0, 0, 0, 5, 5, 5, 5, 6, 7, 7]):
        readings.append(t, np.array([float(joules)]))
    t_ns, joules = readings.trace()
    assert t_ns.tolist() == [0, 2, 3, 6, 7, 8, 9]
    assert joules[:, 0].tolist() == [0, 0, 5, 5, 6, 7, 7]
    assert len(readings) == 7


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 1.0, np.nan])), min_size=2))
def test_what_is_kept_interpolates_as_all_readings_do(steps):
    readings = Readings((GPU,))
    total, rows = 0.0, []
    for t, (rise, mark) in enumerate(steps):
        total += rise * mark if np.isfinite(mark) else 0.0
        rows.append(total if np.isfinite(mark) else np.nan)
        readings.append(t, np.array([rows[-1]]))
    t_ns, joules = readings.trace()
    np.testing.assert_array_equal(
        np.interp(np.arange(len(rows)), t_ns, joules[:, 0]),
        np.interp(np.arange(len(rows)), np.arange(len(rows)), rows),
    )
    kept = Trace(t_ns, joules, (GPU,))
    whole = Trace(np.arange(len(rows), dtype=np.int64), np.array(rows)[:, None], (GPU,))
    for start in range(len(rows)):
        ours, theirs = kept.window(start, len(rows) - 1), whole.window(start, len(rows) - 1)
        assert ours.reason == theirs.reason
        if theirs.energy_j is not None:
            assert ours.energy_j == pytest.approx(theirs.energy_j)
